"""The two drivers run the same plans: the seam to stores that need I/O, and what goes wrong there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, Outcome, Permit, Pipeline, RateLimited, Retry, Verdict
from resilience.drivers import adrive, drive
from resilience.layers.base import Ask, Wait
from resilience.testing import ManualClock
from tests.core.helpers import Drive, succeed


class RemoteStore:
    """A store that answers over I/O, in both forms."""

    def __init__(self, clock: ManualClock, *answers: Any) -> None:
        self._clock = clock
        self._answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def ask(self, question: Any) -> Any:
        self.asked.append(("sync", question))
        return self._answer()

    async def aask(self, question: Any) -> Any:
        self.asked.append(("async", question))
        await asyncio.sleep(0)
        return self._answer()

    def _answer(self) -> Any:
        self._clock.advance(0.01)
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class RemoteLimiter:
    """A layer whose state lives in a store: "yes" admits, "wait" asks again after a second, "no" refuses."""

    kind, name, votes_at_start, has_effects = "limiter", "remote", False, True

    def __init__(self, store: RemoteStore, clock: ManualClock) -> None:
        self._store = store
        self.clock = clock
        self.settled: list[tuple[Any, Outcome]] = []
        self.given_back = 0

    def admit(self, call: Call) -> Ask:
        return Ask(self._store, call.name, self._resume)

    def _resume(self, answer: str) -> Any:
        if answer == "no":
            raise RateLimited("the store said no", policy="remote")
        if answer == "wait":
            return Wait(1.0, self._give_back)
        return "token"

    def _give_back(self) -> None:
        self.given_back += 1

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        self.settled.append((token, outcome))


def test_a_store_is_asked_by_both_drivers(clock: ManualClock, drive: Drive) -> None:
    store = RemoteStore(clock, "yes")
    limiter = RemoteLimiter(store, clock)
    instants: list[int] = []

    class Spy:
        kind, name, votes_at_start, has_effects = "spy", "spy", False, False

        def admit(self, call: Call) -> None:
            instants.append(call.now_us)

        def settle(self, *_: object) -> None: ...

    assert drive(Pipeline("p", Spy(), limiter, Spy()), succeed) == "done"
    assert [form for form, _ in store.asked] == ["sync" if drive.__name__ == "via_sync" else "async"]
    assert limiter.settled == [("token", Outcome.OK)]
    assert instants[1] - instants[0] == 10_000, "the call's instant is renewed after the trip"


def test_an_answer_may_be_a_wait_or_a_refusal(clock: ManualClock, drive: Drive) -> None:
    waiting = RemoteLimiter(RemoteStore(clock, "wait"), clock)
    assert drive(Pipeline("p", waiting), succeed) == "done"
    assert (clock.slept_s, waiting.given_back) == ([1.0], 0)
    breaker, ran = CircuitBreaker(min_calls=1, clock=clock), []
    refusing = RemoteLimiter(RemoteStore(clock, "no"), clock)
    with pytest.raises(RateLimited, match="the store said no"):
        drive(Pipeline("p", breaker, refusing), lambda: ran.append(1))
    assert (ran, refusing.settled, breaker.pool.single._window.calls) == ([], [], 0)


def test_a_store_that_fails_fails_the_call_before_its_work(clock: ManualClock, drive: Drive) -> None:
    breaker, ran = CircuitBreaker(min_calls=1, probes=1, clock=clock), []
    store = RemoteStore(clock, ConnectionError("the store is away"), "yes")
    pipeline = Pipeline("p", breaker, RemoteLimiter(store, clock))
    with pytest.raises(ConnectionError, match="the store is away"):
        drive(pipeline, lambda: ran.append(1))
    assert (ran, breaker.state.value, breaker.pool.single._window.calls) == ([], "closed", 0)
    assert drive(pipeline, succeed) == "done"


def test_cancelled_while_the_store_is_asked(clock: ManualClock) -> None:
    limiter = RemoteLimiter(RemoteStore(clock, "yes"), clock)

    async def work() -> None:
        raise AssertionError("it ran")

    async def main() -> None:
        task = asyncio.create_task(Pipeline("p", limiter).acall(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert limiter.settled == []


def test_a_plan_without_work_says_so(clock: ManualClock) -> None:
    pipeline = Pipeline("p")
    with pytest.raises(TypeError, match="this plan does work, but none was given"):
        drive(pipeline.plan(Call()), clock)
    with pytest.raises(TypeError, match="this plan does work, but none was given"):
        asyncio.run(adrive(pipeline.plan(Call()), clock))


class Kept:
    """Takes over what tries return: whole numbers, of which 3 is good."""

    def __init__(self, *, is_async: bool = False) -> None:
        self.is_async = is_async
        self.happened: list[str] = []

    def least_us(self) -> int:
        """A try needs no time."""
        return 1

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """Whether it is worth another."""
        return Verdict(retryable=error is None and result != 3)

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """Of an error."""
        self.happened.append(f"judged {error!r}")
        return Outcome.IGNORED

    def keep(self, permit: Permit, result: Any) -> None:
        """Settled by the test."""
        self.happened.append(f"kept {result}")
        permit.settle(Outcome.OK)

    def discard(self, result: Any) -> Any:
        """Awaited by tasks."""
        self.happened.append(f"discarded {result}")

        return asyncio.sleep(0) if self.is_async else None


@pytest.mark.parametrize("is_async", [False, True])
def test_results_that_outlive_their_tries(clock: ManualClock, is_async: bool) -> None:
    """A result that is tried again is discarded before the wait; the last one is kept for the try and for the call."""
    kept, results = Kept(is_async=is_async), iter([1, 2, 3])
    pipeline = Pipeline("p", CircuitBreaker(clock=clock), Retry(jitter="none", clock=clock), CircuitBreaker(clock=clock))
    call = Call()
    pipeline.begin(call)

    def work() -> int:
        kept.happened.append(f"tried after {len(clock.slept_s)} waits")
        return next(results)

    async def awork() -> int:
        return work()

    plan = pipeline.plan(call, results=kept)
    assert (asyncio.run(adrive(plan, clock, awork)) if is_async else drive(plan, clock, work)) == 3
    assert kept.happened == [
        *("tried after 0 waits", "kept 1", "discarded 1"),
        *("tried after 1 waits", "kept 2", "discarded 2"),
        *("tried after 2 waits", "kept 3", "kept 3"),
    ]


def test_what_an_error_shows_is_said_by_whoever_takes_the_results(clock: ManualClock) -> None:
    kept, breaker = Kept(), CircuitBreaker(consecutive_failures=1, clock=clock)
    pipeline = Pipeline("p", breaker)
    call = Call()
    pipeline.begin(call)
    with pytest.raises(ZeroDivisionError):
        drive(pipeline.plan(call, results=kept), clock, lambda: 1 // 0)
    assert kept.happened == ["judged ZeroDivisionError('integer division or modulo by zero')"]
    assert breaker.state.value == "closed"


def test_a_plan_that_is_abandoned_settles(clock: ManualClock) -> None:
    """Whoever drives a plan by hand and drops it must not keep its permits."""
    limiter = RemoteLimiter(RemoteStore(clock), clock)
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    pipeline = Pipeline("p", breaker, limiter)
    plan = pipeline.plan(Call())
    assert isinstance(next(plan), Ask)
    plan.send("wait")
    plan.close()
    assert (limiter.given_back, limiter.settled) == (1, [])
    begun = pipeline.plan(Call())
    next(begun)
    begun.send("yes")
    begun.close()
    assert limiter.settled == [("token", Outcome.IGNORED)]
    assert breaker.state.value == "closed"
