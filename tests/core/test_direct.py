"""The direct way of a call that nobody records: its first try is the call itself, and only a second makes them two."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilience import (
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    Outcome,
    Pipeline,
    RateLimiter,
    Retry,
    current_call,
    current_deadline,
)
from resilience.call import CURRENT, FunctionCall
from resilience.direct import FirstTry, Once, direct_way
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, fail, via_async, via_sync

both_ways = pytest.mark.parametrize("send", [via_sync, via_async])


def fails_once(seen: list[Any], look: Callable[[], Any]) -> Callable[[], str]:
    """Work that fails at its first try; each try notes what it sees."""

    def work() -> str:
        seen.append(look())
        if len(seen) == 1:
            raise ConnectionError
        return "done"

    return work


def test_which_pipelines_have_a_direct_way(clock: ManualClock) -> None:
    breaker, retry, deadline = CircuitBreaker(clock=clock), Retry(clock=clock), Deadline(1.0, clock=clock)
    queueing = RateLimiter(1.0, max_wait_s=1.0, clock=clock)

    def way(*layers: Any) -> Any:
        pipeline = Pipeline("p", *layers)
        return direct_way("p", pipeline.outer, pipeline.retry, pipeline.inner)

    assert isinstance(way(), Once)
    assert isinstance(way(deadline, breaker), Once)
    assert isinstance(way(deadline, RateLimiter(1.0, clock=clock), retry, deadline, breaker), FirstTry)
    assert way(breaker, retry) is None  # what the breaker keeps outlives the first try
    assert way(queueing) is None
    assert way(retry, queueing) is None


@both_ways
def test_a_call_whose_first_try_is_enough_is_one_call(send: Drive, clock: ManualClock) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", Deadline(5.0, clock=clock), Retry(clock=clock), CircuitBreaker(clock=clock))
    assert send(pipeline, lambda: calls.append(CURRENT.get())) is None
    (call,) = calls
    assert isinstance(call, FunctionCall)
    assert call.parent is None
    assert call.settled
    assert call.held == []


@both_ways
def test_a_second_try_makes_the_call_around_both(send: Drive, clock: ManualClock) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", Deadline(5.0, clock=clock), Retry(backoff_s=1.0, clock=clock), Deadline(2.0, clock=clock))
    began_us = clock.now_us()
    assert send(pipeline, fails_once(calls, CURRENT.get)) == "done"
    first, second = calls
    whole = first.parent
    assert whole is second.parent
    assert (first.attempt, second.attempt, whole.attempt) == (0, 1, 0)
    assert (first.settled, second.settled, whole.settled) == (True, True, True)
    assert first.deadline_us == began_us + 2_000_000
    assert second.deadline_us == began_us + 3_000_000
    assert whole.deadline_us == began_us + 5_000_000
    assert (whole.now_us, second.now_us) == (began_us, began_us + 1_000_000)
    assert whole.parent is None


@both_ways
def test_what_a_first_try_left_behind_belongs_to_the_whole_call(send: Drive, clock: ManualClock) -> None:
    """Its own deadline is void once it has failed; that of the call is not, as long as there are other tries."""
    contexts: list[contextvars.Context] = []
    left_s: list[Any] = []
    pipeline = Pipeline("p", Deadline(10.0, clock=clock), Retry(backoff_s=1.0, clock=clock), Deadline(2.0, clock=clock))

    def look() -> None:
        if contexts:
            deadline = contexts[0].run(current_deadline, clock)
            within = contexts[0].run(current_call)
            left_s.append((None if deadline is None else deadline.remaining_s(), within and within.attempt))
        contexts.append(contextvars.copy_context())

    assert send(pipeline, fails_once([], look)) == "done"
    assert left_s == [(9.0, 0)]
    assert contexts[0].run(current_deadline, clock) is None
    assert contexts[0].run(current_call) is None


@both_ways
@pytest.mark.parametrize("tries", ["the first", "the second"])
def test_a_pipeline_called_within_any_try_does_not_retry(send: Drive, tries: str, clock: ManualClock) -> None:
    inner = Pipeline("inner", Retry(clock=clock))
    outer = Pipeline("outer", Retry(backoff_s=0.0, clock=clock))
    made: list[str] = []

    def refuse() -> None:
        made.append("inner")
        raise ConnectionError

    def work() -> str:
        made.append("outer")
        if tries == "the second" and made == ["outer"]:
            raise ConnectionError
        with pytest.raises(ConnectionError) as caught:
            inner.call(refuse)
        assert caught.value.__notes__ == ["retry: gave up after 1 attempt in 0 s: the call is being retried further out"]
        return "done"

    assert send(outer, work) == "done"
    assert made == (["outer", "inner"] if tries == "the first" else ["outer", "outer", "inner"])


@both_ways
def test_a_call_within_another_counts_its_tries_from_there(send: Drive, clock: ManualClock) -> None:
    inner = Pipeline("inner", Deadline(60.0, clock=clock), Retry(backoff_s=0.0, when_nested=True, clock=clock))
    outer = Pipeline("outer", Deadline(5.0, clock=clock), Retry(backoff_s=0.0, clock=clock))
    seen: list[tuple[int, int | None]] = []

    def look() -> None:
        call = CURRENT.get()
        assert call is not None
        seen.append((call.attempt, call.deadline_us))
        if len(seen) < 3:
            raise ConnectionError

    def work() -> None:
        if not seen:
            seen.append((-1, None))
            raise ConnectionError
        inner.call(look)

    bound_us = clock.now_us() + 5_000_000
    send(outer, work)
    assert seen[1:] == [(1, bound_us), (2, bound_us)]


@both_ways
def test_what_a_layer_raises_that_cannot_answer_is_no_vote(send: Drive, clock: ManualClock) -> None:
    outcomes: list[Outcome] = []

    class Notes:
        kind, name, votes_at_start, has_effects = "notes", "notes", False, False

        def admit(self, call: Any) -> str:
            return "token"

        def settle(self, token: str, outcome: Outcome, call: Any, now_us: int) -> None:
            assert token == "token"
            outcomes.append(outcome)

    class Broken(Notes):
        def admit(self, call: Any) -> str:
            raise ConnectionError("cannot say")

    for layers in ([Retry(1, clock=clock)], []):
        with pytest.raises(ConnectionError, match="cannot say"):
            send(Pipeline("p", *layers, Notes(), Broken()), lambda: None)
    assert outcomes == [Outcome.IGNORED, Outcome.IGNORED]


@both_ways
@pytest.mark.parametrize("has_retry", [True, False])
def test_a_probe_that_is_broken_off_gives_its_place_back(send: Drive, has_retry: bool, clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, probes=1, clock=clock)
    pipeline = Pipeline("p", *([Retry(clock=clock)] if has_retry else []), breaker)

    def breaks_off() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Failure):
        send(pipeline, fail)
    with pytest.raises(CircuitOpen):
        send(pipeline, lambda: None)
    clock.advance(30.0)
    with pytest.raises(KeyboardInterrupt):
        send(pipeline, breaks_off)
    assert breaker.state.value == "half_open"
    assert send(pipeline, lambda: "done") == "done"
    assert breaker.state.value == "closed"


def test_a_first_try_that_comes_too_late_has_failed_its_caller(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    pipeline = Pipeline("p", Deadline(1.0, clock=clock), Retry(clock=clock), breaker)

    def late() -> str:
        clock.advance(1.5)
        return "late"

    assert via_sync(pipeline, late) == "late"
    assert breaker.state.value == "open"


@both_ways
def test_a_result_that_is_worth_another_try_settles_as_it_was(send: Drive, clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    retry = Retry(backoff_s=0.0, on_result=lambda result: result == "busy", clock=clock)
    answers = iter(["busy", "busy", "done"])
    assert send(Pipeline("p", retry, breaker), lambda: next(answers)) == "done"
    assert breaker.decisions()["admitted"] == 3
    assert breaker.state.value == "closed"
    assert retry.status()["budget_tokens"] == pytest.approx(8.1)


@both_ways
def test_the_last_error_is_raised_without_those_before_it_as_its_context(send: Drive, clock: ManualClock) -> None:
    errors = [ConnectionError("first"), ConnectionError("second")]
    left = iter(errors)

    def work() -> None:
        raise next(left)

    with pytest.raises(ConnectionError, match="second") as caught:
        send(Pipeline("p", Retry(2, backoff_s=0.0, clock=clock)), work)
    assert caught.value is errors[1]
    assert caught.value.__context__ is None


def test_a_coroutine_function_is_named_also_where_there_is_a_retry(clock: ManualClock) -> None:
    async def charge() -> None:
        """Never begun."""

    for layers in ([Retry(clock=clock)], [CircuitBreaker(clock=clock), Retry(clock=clock)]):
        with pytest.raises(TypeError, match=r"charge is a coroutine function; use `await pipeline.acall"):
            _ = Pipeline("p", *layers).call(charge)


def test_a_cancelled_try_is_no_failure_and_not_tried_again(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    pipeline = Pipeline("p", Deadline(60.0, clock=clock), Retry(clock=clock), breaker)
    begun: list[int] = []

    async def scenario() -> None:
        async def waits() -> None:
            begun.append(1)
            await asyncio.Event().wait()

        sent: Awaitable[None] = pipeline.acall(waits)
        task = asyncio.ensure_future(sent)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert begun == [1]
    assert breaker.state.value == "closed"
    assert breaker.pool.single.failure_rate(clock.now_us()) == 0.0
