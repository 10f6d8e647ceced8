"""A call and its attempts: what an edge says of the whole holds for every try."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Call, Deadline, Decision, Outcome, Pipeline, RateLimiter, Retry
from resilience.call import CURRENT, AttemptCall
from resilience.drivers import drive
from resilience.layers.retry import RetrySettings
from resilience.testing import ManualClock
from tests.core.helpers import raiser


class Request(Call):
    __slots__ = ()

    def peer(self) -> str | None:
        return "203.0.113.7"

    def headers(self, name: str) -> list[str]:
        return [f"{name} of the request"]

    def host(self) -> str | None:
        return "shop.example"

    def method(self) -> str | None:
        return "PUT"


def test_an_attempt_is_asked_like_its_call(clock: ManualClock) -> None:
    whole = Request("orders", key="alice", cost=3)
    whole.deadline_us, whole.deadline_counts = 5_000_000, False
    attempt = AttemptCall(whole, 2, clock.now_us())
    assert (attempt.name, attempt.key, attempt.cost, attempt.attempt) == ("orders", "alice", 3, 2)
    assert (attempt.deadline_us, attempt.deadline_counts, attempt.parent) == (5_000_000, False, whole)
    assert (attempt.peer(), attempt.headers("x"), attempt.host(), attempt.method()) == (
        "203.0.113.7", ["x of the request"], "shop.example", "PUT",
    )  # fmt: skip
    assert (attempt.args, attempt.kwargs) == ((), {})


def test_an_attempt_has_all_that_a_call_has() -> None:
    whole = Call("orders", key="alice", cost=3, now_us=7)
    attempt = AttemptCall(whole, 0, 7)
    expected = {name: getattr(whole, name) for name in Call.__slots__ if hasattr(whole, name)} | {"parent": whole}
    assert {name: getattr(attempt, name, "nothing") for name in expected} == expected
    assert attempt.held is not whole.held


def test_a_plain_call_comes_from_nowhere() -> None:
    call = Call()
    assert (call.peer(), call.headers("x"), call.host(), call.method(), call.carrier) == (None, [], None, None, None)


def test_every_attempt_costs_what_the_call_costs(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=9, key="client_address", clock=clock)
    pipeline = Pipeline("p", Retry(3, backoff_s=0, clock=clock), limiter)
    request = Request("orders", cost=4)
    pipeline.begin(request)
    assert drive(pipeline.plan(request), clock, raiser([OSError(), None])) == "done"
    assert limiter.quota(Request(now_us=clock.now_us())).remaining == 1


@pytest.mark.parametrize(("on", "runs"), [((), 1), (("rate_limited",), 3), (("circuit_open",), 1), (("503", "rate_limited"), 3)])
def test_refusals_of_ours_are_retried_where_the_file_says_so(clock: ManualClock, on: tuple[str, ...], runs: int) -> None:
    settings = RetrySettings(on=on, backoff_base_s=0.0, backoff_max_s=0.0)
    retry = Retry.over(Retry(clock=clock).state, settings, name="retry", clock=clock)
    limiter = RateLimiter(0.001, burst=1, clock=clock)
    pipeline = Pipeline("p", retry, limiter)
    pipeline.call(lambda: None)
    with pytest.raises(Exception, match="over the limit"):
        pipeline.call(lambda: None)
    assert limiter.decisions()["rejected"] == runs


def test_the_vocabulary() -> None:
    assert [outcome.value for outcome in Outcome] == ["ok", "failed", "ignored"]
    assert [decision.value for decision in Decision] == [
        "admitted", "rejected", "queued", "probe", "retried", "expired", "would_reject",
    ]  # fmt: skip


def test_calls_take_no_attributes_of_their_own() -> None:
    call: Any = Call()
    with pytest.raises(AttributeError):
        call.typo = 1


def test_a_call_within_a_retry_counts_as_one(clock: ManualClock) -> None:
    """Whoever it calls is told how many tries were made, here and further out."""
    outer, inner = Pipeline("outer", Retry(2, backoff_s=0.0, clock=clock)), Pipeline("inner", Deadline(9.0, clock=clock))
    seen = []

    def work() -> None:
        call = CURRENT.get()
        assert call is not None
        seen.append(call.attempt)
        raise OSError

    with pytest.raises(OSError):
        outer.call(lambda: inner.call(work))
    assert seen == [0, 1]


def test_a_call_that_brings_a_higher_number_keeps_it(clock: ManualClock) -> None:
    around = Pipeline("around", Deadline(9.0, clock=clock))
    request, within, plain = Call(), Call(), Call()
    request.attempt, within.attempt = 2, 5
    around.begin(request)
    mark = CURRENT.set(request)
    try:
        around.begin(within)
        around.begin(plain)
    finally:
        CURRENT.reset(mark)
    assert (request.attempt, within.attempt, plain.attempt) == (2, 5, 2)
