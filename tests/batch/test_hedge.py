"""Second tries for the slowest calls: the first value wins, and a budget pays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, Pipeline, Retry
from resilience.batch import Balanced, BatchCaller, FunctionBackend, Kind, Results
from resilience.call import CURRENT
from resilience.layers.retry.budget import RetryBudget
from resilience.testing import ManualClock
from tests.batch.acts import TIMEOUT_S, until

Make = Callable[..., BatchCaller]


class Slow:
    """The first try of each of `slow` hangs; a second one answers."""

    def __init__(self, *slow: str, then: BaseException | None = None) -> None:
        self.slow = slow
        self.then = then
        self.tries: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        self.released = threading.Event()

    def _try(self, request: str) -> bool:
        call = CURRENT.get()
        attempt = 0 if call is None else call.attempt
        self.tries.append((request, attempt))
        return request in self.slow and attempt == 0

    async def acall(self, request: str) -> str:
        if self._try(request):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(request)
                raise
        return self._end(request)

    def call(self, request: str) -> str:
        if self._try(request):
            self.released.wait(TIMEOUT_S)
        return self._end(request)

    def _end(self, request: str) -> str:
        if self.then is not None:
            raise self.then
        return f"done {request}"


@pytest.mark.parametrize("layers", [(), (CircuitBreaker(),), (Retry(attempts=3),)], ids=["none", "plain", "retry"])
def test_the_slowest_get_a_second_try(make: Make, layers: tuple[Any, ...]) -> None:
    slow = Slow("b")
    caller = make(hedge_after_s=0.05, pipeline=Pipeline("stock", *layers) if layers else None)
    results = asyncio.run(caller.acall(slow.acall, ["a", "b", "c"]))
    assert results.values() == ["done a", "done b", "done c"]
    assert slow.tries == [("a", 0), ("b", 0), ("c", 0), ("b", 1)]
    assert (slow.cancelled, results.report.hedged, results.report.abandoned) == (["b"], 1, 0)
    assert caller.status()["hedged"] == 1


def test_in_threads_the_outdone_try_is_left_behind_and_accounted_for(make: Make) -> None:
    slow = Slow("b")
    caller = make(hedge_after_s=0.25)
    results = caller.call(slow.call, ["a", "b", "c"])
    assert results.values() == ["done a", "done b", "done c"]
    assert (results.report.hedged, results.report.abandoned) == (1, 0)
    assert caller.status()["abandoned"]["now"] == 1
    slow.released.set()


def test_an_outdone_try_says_nothing_of_its_back_end(make: Make) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    slow = Slow("b")
    caller = make(hedge_after_s=0.05, pipeline=Pipeline("stock", breaker))
    asyncio.run(caller.acall(slow.acall, ["b"]))
    assert breaker.state is BreakerState.CLOSED


def test_where_one_fails_the_other_may_still_succeed(make: Make) -> None:
    async def first_succeeds(request: str) -> str:
        call = CURRENT.get()
        if call is not None and call.attempt:
            raise ConnectionError
        await asyncio.sleep(0.1)
        return "first"

    results = asyncio.run(make(hedge_after_s=0.02).acall(first_succeeds, ["a"]))
    assert (results.values(), results.report.hedged) == (["first"], 1)


def test_where_both_fail_it_has_failed_once(make: Make) -> None:
    async def fails(request: str) -> str:
        await asyncio.sleep(0.05)
        raise ConnectionError

    results = asyncio.run(make(hedge_after_s=0.02).acall(fails, ["a"]))
    assert [failure.kind for failure in results.errors()] == [Kind.TRANSPORT]


def hung(caller: BatchCaller, clock: ManualClock, count: int) -> Results[Any]:
    """What comes of calls of which every try hangs, and whose hedges are due after 1 s and limits after 2 s."""
    inside = 0

    async def hangs(request: int) -> None:
        nonlocal inside
        inside += 1
        await asyncio.Event().wait()

    async def run() -> Results[Any]:
        task = asyncio.create_task(caller.acall(hangs, range(count)))
        await until(lambda: inside == count)
        clock.advance(1.0)
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(1.0)
        return await task

    return asyncio.run(run())


def test_where_both_hang_it_is_late_once(make: Make, clock: ManualClock) -> None:
    results = hung(make(hedge_after_s=1.0, call_timeout_s=2.0, clock=clock), clock, 1)
    assert [failure.kind for failure in results.errors()] == [Kind.TIMEOUT]
    assert results.report.hedged == 1


def test_the_budget_bounds_them(make: Make, clock: ManualClock) -> None:
    settings: dict[str, Any] = {"hedge_after_s": 1.0, "call_timeout_s": 2.0, "concurrency": 100, "clock": clock}
    assert hung(make(**settings), clock, 40).report.hedged == 5  # of ten tokens, until half of them are left
    own = Retry(budget=(4, 0.1), clock=clock)
    caller = make(**settings, pipeline=Pipeline("stock", own))
    assert hung(caller, clock, 40).report.hedged == 2
    assert own.status()["budget_tokens"] <= 2


def test_none_is_sent_where_there_is_no_room(make: Make) -> None:
    slow = Slow("a", "b")
    results = asyncio.run(make(hedge_after_s=0.02, call_timeout_s=0.2, concurrency=2).acall(slow.acall, ["a", "b"]))
    assert (results.report.hedged, results.report.peak) == (0, 2)


def test_requests_that_wait_go_before_second_tries(make: Make) -> None:
    slow = Slow("a")
    results = asyncio.run(make(hedge_after_s=0.05, concurrency=2).acall(slow.acall, ["a", *"bcdefgh"]))
    assert len(results.values()) == 8
    assert slow.tries[-1] == ("a", 1)


def test_what_may_not_be_repeated_is_not(make: Make) -> None:
    class Once(FunctionBackend[Any, Any]):
        def may_hedge(self, request: Any) -> bool:
            return False

    slow = Slow("a")
    backend = Once(slow.acall)
    results = asyncio.run(make(hedge_after_s=0.02, call_timeout_s=0.1).acall(backend, ["a"]))
    assert (results.report.hedged, slow.tries) == (0, [("a", 0)])


def test_it_goes_to_another_endpoint(make: Make) -> None:
    async def hangs(request: str) -> str:
        return str(await asyncio.Event().wait())

    async def answers(request: str) -> str:
        return "other"

    balanced: Any = Balanced(FunctionBackend(hangs), FunctionBackend(answers), rule="least_in_flight")
    results = asyncio.run(make(hedge_after_s=0.05, call_timeout_s=5.0).acall(balanced, ["a"]))
    assert (results.values(), results.report.hedged) == (["other"], 1)


def test_a_budget_that_is_dry_costs_nothing_more() -> None:
    budget = RetryBudget(4, 0.5)
    assert [budget.take() for _ in range(5)] == [True, True, False, False, False]
    assert budget.tokens == 2.0
    budget.earn()
    assert budget.take()
