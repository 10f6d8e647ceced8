"""The words of `on`: which statuses, codes and refusals a policy retries."""

from __future__ import annotations

import pytest

from resilience import CircuitOpen, DeadlineExceeded, RateLimited, Retry
from resilience.layers.retry import RetryOn, RetrySettings, RetryState
from resilience.layers.statuses import GRPC_CODES, status_range
from resilience.testing import ManualClock

DEFAULTS = RetryOn()


def test_the_defaults_are_those_of_the_field() -> None:
    assert RetryOn.of(()) == DEFAULTS
    assert DEFAULTS.statuses == {429, 502, 503, 504}
    assert DEFAULTS.codes == {GRPC_CODES["UNAVAILABLE"]}
    assert DEFAULTS.advised_codes == {GRPC_CODES["RESOURCE_EXHAUSTED"]}
    assert DEFAULTS.refusals == ()


def test_codes_have_their_numbers_on_the_wire() -> None:
    """As in google/rpc/code.proto."""
    shown = {name: GRPC_CODES[name] for name in ("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")}
    assert shown == {"CANCELLED": 1, "DEADLINE_EXCEEDED": 4, "RESOURCE_EXHAUSTED": 8, "UNAVAILABLE": 14}
    assert GRPC_CODES["UNAUTHENTICATED"] == len(GRPC_CODES) == 16


@pytest.mark.parametrize(
    ("words", "on"),
    [
        (("500",), RetryOn(statuses=frozenset({500}))),
        (("500..502", "429"), RetryOn(statuses=frozenset({429, 500, 501, 502}))),
        (("ABORTED",), RetryOn(codes=frozenset({10}), advised_codes=frozenset())),
        (("RESOURCE_EXHAUSTED", "UNAVAILABLE"), RetryOn(codes=frozenset({8, 14}), advised_codes=frozenset())),
        (("rate_limited",), RetryOn(refusals=(RateLimited,))),
        (("deadline", "circuit_open"), RetryOn(refusals=(DeadlineExceeded, CircuitOpen))),
        (
            ("503", "INTERNAL", "circuit_open"),
            RetryOn(frozenset({503}), frozenset({13}), frozenset(), (CircuitOpen,)),
        ),
    ],
)
def test_words_of_one_kind_take_the_place_of_that_kind_alone(words: tuple[str, ...], on: RetryOn) -> None:
    assert RetryOn.of(words) == on


@pytest.mark.parametrize("word", ["399", "600", "200..599", "599..500", "5xx", "OK", "unavailable", "RateLimited", "503 "])
def test_an_unknown_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"^RetrySettings\.on: must be HTTP statuses between 400 and 599") as refused:
        RetrySettings(on=("503", word))
    assert str(refused.value).endswith(f"rate_limited, circuit_open, deadline; got {word!r}")


def test_a_policy_reads_its_words_once(clock: ManualClock) -> None:
    settings = RetrySettings(on=("500..599", "ABORTED", "circuit_open"))
    retry = Retry.over(RetryState(settings, None), settings, name="orders", clock=clock)
    assert retry.on == RetryOn(frozenset(range(500, 600)), frozenset({10}), frozenset(), (CircuitOpen,))
    assert retry.judge(CircuitOpen("ours"), None).retryable
    assert retry.judge(OSError(), None).retryable, "connection errors are retried whatever is named"


def test_classes_given_in_code_leave_statuses_and_codes_alone(clock: ManualClock) -> None:
    retry = Retry(on=ValueError, clock=clock)
    assert retry.on == DEFAULTS
    assert retry.judge(ValueError(), None).retryable
    assert not retry.judge(OSError(), None).retryable


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("100", range(100, 101)),
        ("599", range(599, 600)),
        ("500..599", range(500, 600)),
        ("500..500", range(500, 501)),
        ("599..500", None),
        ("99", None),
        ("600", None),
        ("500..", None),
        ("..500", None),
        ("500.599", None),
        ("500..599..600", None),
        ("٥٠٠", None),
        ("500\n", None),
        ("", None),
    ],
)
def test_statuses_and_ranges(text: str, statuses: range | None) -> None:
    assert status_range(text) == statuses
