"""What counts as a failure where a policy says so itself: statuses, codes, errors to leave out, and the hook over all of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, CircuitOpen, DeadlineExceeded, Outcome, Pipeline
from resilience.layers.breaker import CircuitBreakerSettings
from resilience.layers.breaker.classify import judge_code, judge_error, judge_status
from resilience.layers.breaker.settings import COUNTED_CODES
from resilience.layers.statuses import GRPC_CODES
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, no_jitter, raiser

OK, FAILED, IGNORED = Outcome.OK, Outcome.FAILED, Outcome.IGNORED


def breaker_of(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(min_calls=1_000, clock=clock, uniform=no_jitter, **settings)


def counted(breaker: CircuitBreaker) -> Outcome:
    """What the one call so far counted as."""
    window = breaker.pool.single._window
    return IGNORED if not window.calls else FAILED if window.failures else OK


def settled(breaker: CircuitBreaker, clock: ManualClock, outcome: Outcome, **ended: Any) -> Outcome:
    """Settle one call as an edge does: with the outcome of the default rules, and with what ended it."""
    call = Call(now_us=clock.now_us())
    ticket = breaker.admit(call)
    assert ticket is not None
    for name, value in ended.items():
        setattr(call, name, value)
    breaker.settle(ticket, outcome, call, clock.now_us())
    return counted(breaker)


# --- the default rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["OK", *GRPC_CODES])
def test_what_a_code_says(name: str) -> None:
    failed = {"UNAVAILABLE", "INTERNAL", "DATA_LOSS", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED"}
    expected = IGNORED if name == "CANCELLED" else FAILED if name in failed else OK
    assert judge_code({"OK": 0, **GRPC_CODES}[name]) is expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"failed_statuses": range(500, 600)},
        {"failed_statuses": ("500..549", "550..599", 503)},
        {"failed_codes": sorted(CircuitBreakerSettings().failed_codes)},
    ],
)
def test_the_default_rules_cost_no_second_judgement(clock: ManualClock, settings: dict[str, Any]) -> None:
    assert breaker_of(clock, **settings)._rules is None


# --- statuses and codes -----------------------------------------------------------------------------------------------

ONLY_429 = {"failed_statuses": [429]}
ALSO_429 = {"failed_statuses": (429, "500..599")}
NOTHING: dict[str, Any] = {"failed_statuses": [], "failed_codes": []}


@pytest.mark.parametrize(
    ("settings", "status", "outcome"),
    [
        (ONLY_429, 429, FAILED),
        (ONLY_429, 503, OK),
        (ONLY_429, 200, OK),
        (ALSO_429, 429, FAILED),
        (ALSO_429, 428, OK),
        (ALSO_429, 500, FAILED),
        (ALSO_429, 599, FAILED),
        (ALSO_429, 600, FAILED),
        (ALSO_429, 999, FAILED),
        ({"failed_statuses": ("500..598",)}, 600, OK),
        ({"failed_statuses": ("404", "502")}, 404, FAILED),
        (NOTHING, 500, OK),
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, 503, FAILED),
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, 404, OK),
    ],
)
def test_statuses_that_count_as_failures(clock: ManualClock, settings: dict[str, Any], status: int, outcome: Outcome) -> None:
    assert settled(breaker_of(clock, **settings), clock, judge_status(status), status=status) is outcome


@pytest.mark.parametrize(
    ("settings", "name", "outcome"),
    [
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, "RESOURCE_EXHAUSTED", FAILED),
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, "UNAVAILABLE", OK),
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, "OK", OK),
        ({"failed_codes": ["RESOURCE_EXHAUSTED"]}, "CANCELLED", IGNORED),
        (ONLY_429, "UNAVAILABLE", FAILED),
        (ONLY_429, "NOT_FOUND", OK),
        (NOTHING, "INTERNAL", OK),
    ],
)
def test_codes_that_count_as_failures(clock: ManualClock, settings: dict[str, Any], name: str, outcome: Outcome) -> None:
    """The error that brings a code does not count beside it."""
    code = {"OK": 0, **GRPC_CODES}[name]
    error = None if name == "OK" else Failure(name)
    assert settled(breaker_of(clock, **settings), clock, judge_code(code), status=code, error=error) is outcome


@pytest.mark.parametrize("settings", [ONLY_429, NOTHING])
def test_what_says_nothing_still_says_nothing(clock: ManualClock, settings: dict[str, Any]) -> None:
    breaker = breaker_of(clock, **settings)
    late = DeadlineExceeded("a caller who came with little time", reason="expired")
    assert settled(breaker, clock, IGNORED, error=late, status=429) is IGNORED
    assert settled(breaker, clock, IGNORED, status=429) is IGNORED, "the client was gone before it had its answer"
    assert settled(breaker, clock, IGNORED) is IGNORED


def test_without_a_status_the_default_rules_hold(clock: ManualClock, drive: Drive) -> None:
    for error, outcome in ((None, OK), (Failure(), FAILED), (asyncio.CancelledError(), IGNORED)):
        breaker = breaker_of(clock, **ONLY_429)
        with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
            drive(Pipeline("p", breaker), raiser([error]))
        assert counted(breaker) is outcome


def test_a_reload_changes_what_counts(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    settings = CircuitBreakerSettings(min_calls=1_000, failed_statuses=("429",), failed_codes=("ABORTED",))
    after = CircuitBreaker.over(breaker.pool, settings, name="breaker", clock=clock)
    assert settled(after, clock, OK, status=429) is FAILED
    again = CircuitBreaker.over(breaker.pool, breaker.settings, name="breaker", clock=clock)
    assert again._rules is None


# --- errors left out, and the hook ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignore", "error", "outcome"),
    [
        (KeyError, KeyError(), IGNORED),
        (LookupError, KeyError(), IGNORED),
        (KeyError, LookupError(), FAILED),
        ((KeyError, ValueError), ValueError(), IGNORED),
        ((KeyError, ValueError), Failure(), FAILED),
        (DeadlineExceeded, DeadlineExceeded("late", reason="expired"), IGNORED),
        (KeyError, None, OK),
        ((), KeyError(), FAILED),
    ],
)
def test_errors_that_are_left_out(
    clock: ManualClock, drive: Drive, ignore: Any, error: BaseException | None, outcome: Outcome
) -> None:
    breaker = breaker_of(clock, ignore=ignore)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
        drive(Pipeline("p", breaker), raiser([error]))
    assert counted(breaker) is outcome


def test_an_error_that_is_left_out_gives_its_probe_back(clock: ManualClock, drive: Drive) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, ignore=KeyError, clock=clock, uniform=no_jitter)
    pipeline = Pipeline("p", breaker)
    with pytest.raises(Failure):
        drive(pipeline, raiser([Failure()]))
    clock.advance(30.0)
    for _ in range(3):
        with pytest.raises(KeyError):
            drive(pipeline, raiser([KeyError()]))
    assert breaker.state.value == "half_open"
    drive(pipeline, raiser([]))
    assert breaker.state.value == "closed"


@pytest.mark.parametrize("ignore", ["KeyError", [KeyError], (KeyError, 7), KeyError(), int, (int,)])
def test_what_is_no_exception_class_cannot_be_left_out(ignore: Any) -> None:
    with pytest.raises(TypeError, match=r"^ignore: must be exception classes, got "):
        CircuitBreaker(ignore=ignore)


def test_the_hook_goes_before_all_rules_and_leaves_the_rest_to_them(clock: ManualClock) -> None:
    said: dict[int | None, Outcome | None] = {429: OK, 503: None, 404: FAILED, None: FAILED}

    def breaker() -> CircuitBreaker:
        return breaker_of(clock, failed_statuses=[429], ignore=KeyError, classify=lambda call: said[call.status])

    assert settled(breaker(), clock, OK, status=429) is OK
    assert settled(breaker(), clock, FAILED, status=503) is OK, "None: 503 is not among the failed statuses"
    assert settled(breaker(), clock, OK, status=404) is FAILED
    assert settled(breaker(), clock, FAILED, error=KeyError()) is FAILED


def test_rules_hold_where_the_hook_raises(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    breaker = breaker_of(clock, failed_statuses=[429], classify=lambda call: Outcome(call.name.upper()), name="payments")
    assert settled(breaker, clock, OK, status=429) is FAILED
    assert "payments: its classifier raised; the default rules hold" in caplog.text


def test_slow_calls_are_measured_beside_any_rules(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, slow_call_s=1.0, failed_statuses=[429], probes=1, clock=clock, uniform=no_jitter)
    call = Call(now_us=clock.now_us())
    ticket = breaker.admit(call)
    assert ticket is not None
    clock.advance(1.5)
    call.status = 500
    breaker.settle(ticket, judge_status(500), call, clock.now_us())
    assert breaker.state.value == "open"
    with pytest.raises(CircuitOpen):
        breaker.admit(Call(now_us=clock.now_us()))


def test_the_rules_know_every_error_that_the_default_ones_ignore(clock: ManualClock) -> None:
    call = Call(now_us=clock.now_us())
    call.deadline_counts = False
    late = DeadlineExceeded("late", reason="expired")
    assert settled(breaker_of(clock, **ONLY_429), clock, judge_error(call, late), error=late) is IGNORED


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"failed_statuses": [99]},
            "failed_statuses: must be HTTP statuses between 100 and 599, or ranges such as 500..599, got '99'",
        ),
        (
            {"failed_statuses": ["5xx"]},
            "failed_statuses: must be HTTP statuses between 100 and 599, or ranges such as 500..599, got '5xx'",
        ),
        (
            {"failed_statuses": "500..599"},
            "failed_statuses: must be HTTP statuses between 100 and 599, or ranges such as 500..599, got '5'",
        ),
        (
            {"failed_statuses": [True]},
            "failed_statuses: must be HTTP statuses between 100 and 599, or ranges such as 500..599, got 'True'",
        ),
        ({"failed_codes": ["NOT-FOUND"]}, f"failed_codes: 'NOT-FOUND' is unknown; it can be {', '.join(COUNTED_CODES)}"),
        ({"failed_codes": ["CANCELLED"]}, f"failed_codes: 'CANCELLED' is unknown; it can be {', '.join(COUNTED_CODES)}"),
    ],
)
def test_settings_that_name_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        CircuitBreaker(**settings)
    assert str(refused.value) == f"CircuitBreakerSettings.{message}"


@pytest.mark.parametrize(
    ("given", "min_calls"),
    [({}, 20), ({"window_calls": 7}, 7), ({"window_calls": 21}, 20), ({"window_calls": 7, "min_calls": 2}, 2)],
)
def test_the_settings_themselves_know_how_many_calls_are_needed(given: dict[str, Any], min_calls: int) -> None:
    assert CircuitBreakerSettings(**given).min_calls == min_calls
    assert CircuitBreaker(**given).settings == CircuitBreakerSettings(**given)
