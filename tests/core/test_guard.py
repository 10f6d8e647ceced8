"""`with pipeline.guard()` and `async with pipeline.guard()`: one block, settled by how it is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from resilience import (
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
    current_deadline,
)
from resilience.call import CURRENT
from resilience.testing import ManualClock
from tests.core.helpers import Failure, no_jitter

Form = str


@pytest.fixture(params=["with", "async with"])
def form(request: pytest.FixtureRequest) -> Form:
    chosen: Form = request.param
    return chosen


def guarded(form: Form, pipeline: Pipeline, error: BaseException | None = None, **arguments: Any) -> Any:
    """Enter a block, leave it with `error`; returns the call."""

    async def main() -> Any:
        async with pipeline.guard(**arguments) as call:
            if error is not None:
                raise error
        return call

    if form == "async with":
        return asyncio.run(main())
    with pipeline.guard(**arguments) as call:
        if error is not None:
            raise error
    return call


@pytest.mark.parametrize(
    ("error", "calls", "failures"),
    [(None, 1, 0), (Failure(), 1, 1), (asyncio.CancelledError(), 0, 0), (RateLimited("theirs"), 0, 0), (GeneratorExit(), 0, 0)],
)
def test_a_block_settles_by_how_it_is_left(
    clock: ManualClock, form: Form, error: BaseException | None, calls: int, failures: int
) -> None:
    breaker = CircuitBreaker(clock=clock)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
        guarded(form, Pipeline("p", breaker), error)
    window = breaker.pool.single._window
    assert (window.calls, window.failures) == (calls, failures)
    assert CURRENT.get() is None


def test_key_cost_and_name(clock: ManualClock, form: Form) -> None:
    limiter = RateLimiter(1.0, burst=10, key=lambda call: "everybody", clock=clock)
    pipeline = Pipeline("p", limiter)
    call = guarded(form, pipeline, name="import", key="203.0.113.7", cost=8)
    assert (call.name, call.key, call.cost) == ("import", "203.0.113.7", 8)
    with pytest.raises(RateLimited):
        guarded(form, pipeline, key="203.0.113.7", cost=8)
    guarded(form, pipeline, key="203.0.113.8", cost=8)
    guarded(form, pipeline, cost=8)


def test_a_refused_block_does_not_run(clock: ManualClock, form: Form) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock, uniform=no_jitter)
    pipeline = Pipeline("p", breaker)
    with pytest.raises(Failure):
        guarded(form, pipeline, Failure())
    with pytest.raises(CircuitOpen):
        guarded(form, pipeline, AssertionError("it ran"))
    assert CURRENT.get() is None


def test_a_guard_waits_for_the_limiter(clock: ManualClock, form: Form) -> None:
    pipeline = Pipeline("p", RateLimiter(1.0, burst=1, max_wait_s=5.0, clock=clock))
    for _ in range(3):
        guarded(form, pipeline)
    assert clock.slept_s == [1.0, 1.0]


def test_a_guard_with_a_retry_is_refused(clock: ManualClock) -> None:
    pipeline = Pipeline("p", Retry(clock=clock))
    with pytest.raises(TypeError, match="pipeline 'p': has a retry, and a block cannot be run again; use call, acall or @pipeline"):
        pipeline.guard()


def test_a_guard_guards_one_block(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, clock=clock)
    guard, refused = Pipeline("p", limiter).guard(), Pipeline("p", limiter).guard()
    with guard:
        pass
    with pytest.raises(RateLimited), refused:
        pass
    clock.advance(10.0)
    for used in (guard, refused):
        with pytest.raises(RuntimeError, match="a guard guards one block; make a new one"), used:
            pass
    with pytest.raises(RuntimeError, match="a guard is left that was never entered"):
        Pipeline("p").guard().__exit__(None, None, None)


def test_the_deadline_holds_inside(clock: ManualClock, form: Form) -> None:
    pipeline = Pipeline("p", Deadline(2.0, clock=clock))
    with pipeline.guard():
        deadline = current_deadline(clock)
        assert deadline is not None
        assert deadline.remaining_s() == 2.0
    assert current_deadline(clock) is None


def test_an_async_block_is_cancelled_when_its_deadline_passes(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    pipeline = Pipeline("p", Deadline(2.0, name="api", clock=clock), breaker)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(clock.advance, 2.0)
        with pytest.raises(DeadlineExceeded) as raised:
            async with pipeline.guard("report"):
                await asyncio.Event().wait()
        assert str(raised.value) == "api: the time for report ran out"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())
    assert breaker.state.value == "open"
    assert clock.pending_timers == 0


@pytest.mark.parametrize("swallows", [True, False])
def test_an_async_block_that_answers_its_cancellation_in_its_own_way(clock: ManualClock, swallows: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(clock.advance, 2.0)
        try:
            async with Pipeline("p", Deadline(2.0, clock=clock)).guard():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if not swallows:
                        raise Failure from None
        except Failure:
            assert not swallows
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())
    assert clock.pending_timers == 0


def test_cancelled_from_outside_a_block_stays_cancelled(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)

    async def block() -> None:
        async with Pipeline("p", Deadline(2.0, clock=clock), breaker).guard():
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert breaker.state.value == "closed"
    assert clock.pending_timers == 0


def test_left_in_another_context_it_still_settles(clock: ManualClock) -> None:
    """An asynchronous generator may be entered by one task and closed by another, as dependencies of web frameworks are."""
    breaker = CircuitBreaker(clock=clock)
    pipeline = Pipeline("p", breaker)

    async def connection() -> AsyncIterator[str]:
        with pipeline.guard():
            yield "a connection"

    async def main() -> None:
        used = connection()
        assert await asyncio.create_task(anext(used)) == "a connection"  # type: ignore[arg-type]
        assert [item async for item in used] == []

    asyncio.run(main())
    assert breaker.pool.single._window.calls == 1
