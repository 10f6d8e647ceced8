"""What tasks and threads have in common: every test runs through both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, CircuitOpen, Deadline, DeadlineExceeded, HealthSignal, Pipeline, Retry
from resilience.batch import (
    BatchCaller,
    BatchStopped,
    Err,
    FunctionBackend,
    Kind,
    Ok,
    Progress,
    RequestNotMade,
)
from resilience.health import Hold
from tests.batch.acts import KINDS, Acts, Failure, Fan, in_tasks

Make = Callable[..., BatchCaller]


def test_results_come_in_the_order_of_the_requests(fan: Fan, make: Make) -> None:
    results = fan(make(concurrency=3), Acts(), ["a", "fails", "b", "open", "c"])
    assert [type(result).__name__ for result in results] == ["Ok", "Err", "Ok", "Err", "Ok"]
    assert results.values() == [("done", "a"), ("done", "b"), ("done", "c")]
    assert results[0] == Ok(("done", "a"))


@pytest.mark.parametrize("act", KINDS)
def test_each_error_has_its_kind(fan: Fan, make: Make, act: str) -> None:
    (result,) = fan(make(), Acts(), [act])
    assert isinstance(result, Err)
    assert (result.kind, result.ok, result.abandoned) == (KINDS[act], False, False)


def test_no_requests_are_no_results(fan: Fan, make: Make) -> None:
    results = fan(make(), Acts(), [])
    assert (list(results), results.failed_share, results.exception_group()) == ([], 0.0, None)
    results.raise_if_all_failed()
    results.raise_if_failed_over(0.0)


def test_one_request(fan: Fan, make: Make) -> None:
    assert fan(make(), Acts(), ["a"]).values() == [("done", "a")]


@pytest.mark.parametrize("concurrency", [1, 4, 50])
def test_never_more_than_so_many_at_once(fan: Fan, make: Make, concurrency: int) -> None:
    acts = Acts()
    results = fan(make(concurrency=concurrency), acts, range(50))
    assert results.values() == [("done", number) for number in range(50)]
    assert acts.peak <= concurrency
    assert results.report.peak == concurrency


def test_a_request_that_cannot_be_made_ends_the_input_and_loses_nothing(fan: Fan, make: Make) -> None:
    def requests() -> Iterator[str]:
        yield "a"
        yield "b"
        raise KeyError("sku")

    results = fan(make(concurrency=1), Acts(), requests())
    assert results[:2] == [Ok(("done", "a")), Ok(("done", "b"))]
    (failure,) = results.errors()
    assert failure.kind is Kind.BUSINESS
    assert isinstance(failure.error, RequestNotMade)
    assert isinstance(failure.error.__cause__, KeyError)
    assert str(failure.error) == "the request could not be made: KeyError: 'sku'"


class Picky(FunctionBackend[Any, Any]):
    """Makes no request of what is no text."""

    def prepare(self, request: Any) -> Any:
        return request.upper()


def test_a_request_that_its_back_end_cannot_make_fails_alone_and_is_no_vote(fan: Fan, make: Make) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    acts = Acts()
    backend: Any = Picky(acts.acall if fan is in_tasks else acts.call, pipeline=Pipeline("stock", breaker))
    acts.acall = acts.call = backend  # type: ignore[method-assign]
    results = fan(make(), acts, ["a", 7, "b"])
    assert results.values() == [("done", "A"), ("done", "B")]
    (failure,) = results.errors()
    assert (failure.kind, type(failure.error), type(failure.error.__cause__)) == (Kind.BUSINESS, RequestNotMade, AttributeError)
    assert breaker.state is BreakerState.CLOSED


# --- time -------------------------------------------------------------------------------------------------------------------------


def test_a_call_that_hangs_costs_its_own_part_and_nothing_else(fan: Fan, make: Make, released: threading.Event) -> None:
    caller = make(concurrency=3, timeout_s=0.25)
    results = fan(caller, Acts(released), ["a", "hangs", "b", "c", "d", "e"])
    assert results.values() == [("done", act) for act in "abcde"]
    (failure,) = results.errors()
    assert failure.kind is Kind.TIMEOUT
    assert isinstance(failure.error, DeadlineExceeded)
    assert results.report.stopped == "timeout"


def test_each_call_has_its_own_time(fan: Fan, make: Make, released: threading.Event) -> None:
    results = fan(make(concurrency=1, call_timeout_s=0.15), Acts(released), ["hangs", "a", "hangs", "b"])
    assert [result.ok for result in results] == [False, True, False, True]
    assert {failure.kind for failure in results.errors()} == {Kind.TIMEOUT}
    assert results.report.stopped == ""


def test_what_was_not_begun_in_time_says_so(fan: Fan, make: Make, released: threading.Event) -> None:
    acts = Acts(released)
    results = fan(make(concurrency=1, timeout_s=0.05), acts, ["hangs", "a", "b"])
    assert acts.calls == ["hangs"]
    reasons = [getattr(failure.error, "reason", "") for failure in results.errors()]
    assert reasons == ["expired", "expired_on_arrival", "expired_on_arrival"]
    assert {failure.kind for failure in results.errors()} == {Kind.TIMEOUT}


def test_a_batch_never_outlives_the_deadline_of_its_caller(fan: Fan, make: Make, released: threading.Event) -> None:
    caller = make(timeout_s=60.0, call_timeout_s=60.0)
    with Pipeline("page", Deadline(0.3)).guard():
        results = fan(caller, Acts(released), ["a", "hangs"])
    assert [result.ok for result in results] == [True, False]
    assert results.report.took_s < 10.0


def test_a_caller_without_time_left_gets_no_call_made(fan: Fan, make: Make) -> None:
    acts = Acts()
    with Pipeline("page", Deadline(0.001)).guard() as call:
        call.deadline_us = 1
        results = fan(make(), acts, ["a", "b"])
    assert (acts.calls, [failure.kind for failure in results.errors()]) == ([], [Kind.TIMEOUT] * 2)


# --- guards -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [False, True])
def test_a_back_end_that_hangs_opens_its_breaker(fan: Fan, make: Make, released: threading.Event, retry: bool) -> None:
    breaker = CircuitBreaker(consecutive_failures=2)
    layers = [Retry(attempts=2)] if retry else []
    caller = make(pipeline=Pipeline("stock", *layers, breaker), call_timeout_s=0.05)
    results = fan(caller, Acts(released), ["hangs", "hangs"])
    assert {failure.kind for failure in results.errors()} == {Kind.TIMEOUT}
    assert breaker.state is BreakerState.OPEN
    refused = fan(make(pipeline=caller.pipeline), Acts(), ["a"])
    assert [failure.kind for failure in refused.errors()] == [Kind.REFUSED]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [((), BreakerState.CLOSED), ((Retry(attempts=2),), BreakerState.CLOSED), ((Deadline(0.01),), BreakerState.OPEN)],
    ids=["plain", "retry", "deadline"],
)
def test_a_call_with_little_time_left_is_no_evidence_unless_its_own_deadline_says_so(
    fan: Fan, make: Make, released: threading.Event, layers: tuple[Any, ...], expected: BreakerState
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    caller = make(pipeline=Pipeline("stock", *layers, breaker), call_timeout_s=60.0)
    with Pipeline("page", Deadline(0.1)).guard():
        results = fan(caller, Acts(released), ["hangs"])
    assert [failure.kind for failure in results.errors()] == [Kind.TIMEOUT]
    assert breaker.state is expected


def test_time_that_was_spent_waiting_for_a_place_is_none_that_a_call_had(fan: Fan, make: Make, released: threading.Event) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    caller = make(pipeline=Pipeline("stock", breaker), timeout_s=0.2, concurrency=1)
    results = fan(caller, Slow(released), ["slow", "hangs"])
    assert [result.ok for result in results] == [True, False]
    assert breaker.state is BreakerState.CLOSED


class Slow(Acts):
    """Takes 0.12 s for "slow"."""

    async def acall(self, act: Any) -> Any:
        if act == "slow":
            await asyncio.sleep(0.12)
        return await super().acall(act)

    def call(self, act: Any) -> Any:
        if act == "slow":
            threading.Event().wait(0.12)
        return super().call(act)


def test_one_sick_back_end_opens_its_own_breaker_only(fan: Fan, make: Make) -> None:
    breakers = {name: CircuitBreaker(consecutive_failures=3, name=name) for name in ("sick", "well")}
    acts = Acts()
    fn = acts.acall if fan is in_tasks else acts.call
    sick, well = (FunctionBackend(fn, name, Pipeline(name, breakers[name])) for name in breakers)
    caller = make(concurrency=1)
    pairs = [(sick, "fails"), (well, "a")] * 5
    results = caller_pairs(fan, caller, pairs)
    assert results.values() == [("done", "a")] * 5
    assert [failure.kind for failure in results.errors()] == [Kind.BUSINESS] * 3 + [Kind.REFUSED] * 2
    assert isinstance(results[-2].error, CircuitOpen)
    assert [breaker.state for breaker in breakers.values()] == [BreakerState.OPEN, BreakerState.CLOSED]


def caller_pairs(fan: Fan, caller: BatchCaller, pairs: Any) -> Any:
    """Each request with its back end."""

    async def run() -> Any:
        return await caller.acall(pairs)

    return asyncio.run(run()) if fan is in_tasks else caller.call(pairs)


def test_what_is_no_pair_fails_alone(fan: Fan, make: Make) -> None:
    acts = Acts()
    fn = acts.acall if fan is in_tasks else acts.call
    results = caller_pairs(fan, make(), [(fn, "a"), 7, ("no function", "x"), (fn, "b")])
    assert [result.ok for result in results] == [True, False, False, True]
    assert {type(failure.error) for failure in results.errors()} == {RequestNotMade}


def test_too_many_failures_stop_the_rest(fan: Fan, make: Make) -> None:
    acts = Acts()
    results = fan(make(concurrency=1, stop_over=0.5, stop_min_calls=4), acts, ["a", "fails", "fails", "fails", "b", "c"])
    assert acts.calls == ["a", "fails", "fails", "fails"]
    assert results.report.stopped == "failures"
    assert [failure.kind for failure in results.errors()] == [Kind.BUSINESS] * 3 + [Kind.CANCELLED] * 2
    assert {type(failure.error) for failure in results.errors()} == {Failure, BatchStopped}


def test_a_share_that_is_not_over_stops_nothing(fan: Fan, make: Make) -> None:
    results = fan(make(concurrency=1, stop_over=0.5, stop_min_calls=2), Acts(), ["a", "fails", "b", "fails"])
    assert (len(results.values()), results.report.stopped) == (2, "")


def test_it_shrinks_with_health(fan: Fan, make: Make) -> None:
    health = HealthSignal()
    caller, acts = make(concurrency=10, health=health), Acts()
    health.opened(Hold(), caller.clock.now_us(), None)
    assert (fan(caller, acts, range(30)).report.peak, acts.peak <= 3) == (3, True)


# --- telling ----------------------------------------------------------------------------------------------------------------------


def test_progress_is_told_after_each_result(fan: Fan, make: Make) -> None:
    told: list[Progress] = []
    fan(make(concurrency=1), Acts(), ["a", "fails", "b"], on_progress=told.append)
    assert told == [Progress(1, 3, 1, 0), Progress(2, 3, 1, 1), Progress(3, 3, 2, 1)]


def test_a_callback_that_raises_is_logged_once_and_dropped(fan: Fan, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Progress] = []

    def broken(progress: Progress) -> None:
        told.append(progress)
        raise RuntimeError("no display")

    results = fan(make(concurrency=1), Acts(), ["a", "b", "c"], on_progress=broken)
    assert (len(results.values()), len(told)) == (3, 1)
    assert [record.message for record in caplog.records] == ["prices: its progress callback raised and is told nothing more"]


def test_the_status_tells_what_happened(fan: Fan, make: Make, released: threading.Event) -> None:
    caller = make(concurrency=4, timeout_s=0.25)
    fan(caller, Acts(released), ["a", "fails", "open", "hangs"])
    status = caller.status()
    assert status["calls"] == {"ok": 1, "business": 1, "timeout": 1, "refused": 1, "cancelled": 0, "transport": 0}
    assert (status["batches"], status["in_flight"], status["concurrency"]) == ({"done": 0, "timeout": 1}, 0, 4)
