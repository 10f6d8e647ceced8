"""A coroutine inside a deadline takes its first step without a timer, and must not be able to tell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import traceback
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any

import pytest

from resilience import Call, DeadlineExceeded
from resilience.drivers import within
from resilience.testing import ManualClock

Work = Callable[[], Awaitable[Any]]
VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


class Failure(Exception):
    """What somebody else's future ends with."""


def expired(call: Call) -> DeadlineExceeded:
    return DeadlineExceeded("its time ran out", policy="deadline", reason="expired")


def inside(work: Work, clock: ManualClock, timeout_s: float = 5.0) -> Awaitable[Any]:
    """Await `work()` inside a deadline."""
    return within(call_of(clock, timeout_s), expired, clock, work)


def call_of(clock: ManualClock, timeout_s: float) -> Call:
    call = Call(now_us=clock.now_us())
    call.deadline_us = clock.now_us() + int(timeout_s * 1_000_000)
    return call


def failing() -> asyncio.Future[Any]:
    """A future that fails at the loop's next turn."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    loop.call_soon(future.set_exception, Failure("elsewhere"))
    return future


async def returns() -> Any:
    return (1, 2)


async def returns_an_error() -> Any:
    return StopIteration("as a value")


async def raises() -> Any:
    raise Failure("at once")


async def raises_stop() -> Any:
    raise StopIteration


async def waits() -> Any:
    await asyncio.sleep(0)
    return await asyncio.sleep(0, "waited")


async def waits_for_a_result() -> Any:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "result")
    return await future


async def waits_for_a_failure() -> Any:
    return await failing()


async def swallows_failures() -> Any:
    seen: list[Any] = []
    for _ in range(3):
        try:
            await failing()
        except Failure as error:
            seen.append((str(error), error.__context__))
        seen.append(sys.exc_info())
        await asyncio.sleep(0)
    return seen


async def returns_on_failure() -> Any:
    try:
        await failing()
    except Failure:
        return "fell back"


async def raises_another_on_failure() -> Any:
    with contextlib.suppress(Failure):
        await failing()
    raise ValueError("another")


async def raises_from_failure() -> Any:
    try:
        await failing()
    except Failure as error:
        raise ValueError("another") from error


async def cancels_itself() -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("by itself")
    await asyncio.sleep(1)


async def has_a_timeout() -> Any:
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    except TimeoutError:
        return "timed out"


async def has_a_group() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
    return [task.result() for task in tasks]


async def has_a_group_that_fails() -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits_for_a_failure())
        await asyncio.sleep(1)


async def draws() -> Any:
    async def numbers() -> Any:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    return [number async for number in numbers()]


async def sets_a_variable() -> Any:
    VARIABLE.set("first step")
    await asyncio.sleep(0)
    seen = VARIABLE.get()
    VARIABLE.set("later")
    return seen, asyncio.current_task() is not None


WORKS: list[Work] = [
    returns, returns_an_error, raises, raises_stop, waits, waits_for_a_result, waits_for_a_failure, swallows_failures,
    returns_on_failure, raises_another_on_failure, raises_from_failure, cancels_itself, has_a_timeout, has_a_group,
    has_a_group_that_fails, draws, sets_a_variable,
]  # fmt: skip


def end_of(awaited: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What came of awaiting it in a task: the result, or the error with its context and what its traceback shows of this file."""

    async def main() -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        try:
            result = await awaited()
        except BaseException as error:
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.name != "within"]
            return [repr(error), repr(error.__context__), repr(error.__cause__), frames, task.cancelling(), VARIABLE.get()]
        return [repr(result), task.cancelling(), VARIABLE.get()]

    return asyncio.run(main())


@pytest.mark.parametrize("work", WORKS)
def test_it_ends_as_if_it_were_awaited(clock: ManualClock, work: Work) -> None:
    async def awaited() -> Any:
        return await work()

    async def bounded() -> Any:
        return await inside(work, clock)

    expected, found = end_of(awaited), end_of(bounded)
    if len(expected) > 3:
        expected[3].remove("awaited")
        found[3].remove("bounded")
        assert found[3][-1] != "resumed", "the error was not raised there, it only passes"
        found[3] = [name for name in found[3] if name != "resumed"]
    assert found == expected
    assert clock.pending_timers == 0


def test_only_what_waits_has_a_timer(clock: ManualClock) -> None:
    pending: list[int] = []

    async def work() -> None:
        pending.append(clock.pending_timers)
        await asyncio.sleep(0)
        pending.append(clock.pending_timers)

    asyncio.run(_await(inside(work, clock)))
    assert (pending, clock.pending_timers) == ([0, 1], 0)


def test_a_first_step_that_takes_all_of_the_time(clock: ManualClock) -> None:
    happened: list[str] = []

    async def work() -> None:
        clock.advance(6.0)
        try:
            await asyncio.sleep(3600)
        finally:
            happened.append("stopped")

    with pytest.raises(DeadlineExceeded):
        asyncio.run(_await(inside(work, clock)))
    assert happened == ["stopped"]


def test_a_cancellation_reaches_it_while_it_waits_for_the_first_thing(clock: ManualClock) -> None:
    async def work() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            return f"cancelled {error.args}"
        return "slept"

    async def main() -> str:
        task: asyncio.Task[str] = asyncio.create_task(_await(inside(work, clock)))
        await asyncio.sleep(0)
        task.cancel("from outside")
        return await task

    assert asyncio.run(main()) == "cancelled ('from outside',)"


@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_closed_is_closed_within(clock: ManualClock, steps: int) -> None:
    """So is one that is given up, as the tasks of a loop are that is closed."""
    happened: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            happened.append("went on")
        except GeneratorExit:
            happened.append("closed")
            raise

    async def main() -> None:
        bounded = _await(inside(work, clock))
        for _ in range(steps):
            bounded.send(None)
        bounded.close()

    asyncio.run(main())
    assert (happened, clock.pending_timers) == (["closed"], 0)


def test_one_that_does_not_let_itself_be_closed(clock: ManualClock) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            await asyncio.sleep(0)

    async def main() -> None:
        bounded = _await(inside(work, clock))
        bounded.send(None)
        with pytest.raises(RuntimeError, match="coroutine ignored GeneratorExit"):
            bounded.close()

    asyncio.run(main())


def test_the_first_thing_is_not_kept(clock: ManualClock) -> None:
    """It may be a future with a large result, and the work after it long."""

    class Thing:
        """What it waits for."""

    kept: list[weakref.ref[Thing]] = []

    @coroutine
    def first() -> Generator[Any, None, None]:
        thing = Thing()
        kept.append(weakref.ref(thing))
        yield thing

    async def work() -> None:
        await first()
        await asyncio.sleep(0)

    async def main() -> None:
        bounded = _await(inside(work, clock))
        bounded.send(None)
        gc.collect()
        assert kept[0]() is not None
        bounded.send(None)
        assert kept[0]() is None
        bounded.close()

    asyncio.run(main())


def test_a_coroutine_that_somebody_awaits_already(clock: ManualClock) -> None:
    async def main() -> None:
        shared = waits()
        task = asyncio.create_task(_await(shared))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited already"):
            await inside(lambda: shared, clock)
        assert await task == "waited"

    asyncio.run(main())


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def test_who_is_cancelled_in_its_first_step_is_cancelled_whatever_its_deadline_does_meanwhile(clock: ManualClock) -> None:
    """As by Ctrl-C, with a clean-up that outlives the deadline."""
    cleaned_up = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            clock.advance(6.0)  # the deadline passes
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            cleaned_up.append(True)

    async def scenario() -> tuple[bool, int]:
        task = asyncio.ensure_future(inside(work, clock))
        await asyncio.wait([task])
        return task.cancelled(), task.cancelling()

    assert asyncio.run(scenario()) == (True, 1)
    assert cleaned_up


def test_where_nothing_could_cancel_it_work_does_not_even_begin(clock: ManualClock) -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    waiting = inside(work, clock).__await__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(waiting)
    assert begun == []


def test_outside_a_task_work_does_not_begin(clock: ManualClock) -> None:
    begun, said = [], []

    async def work() -> None:
        begun.append(True)

    def by_hand() -> None:
        try:
            next(inside(work, clock).__await__())
        except RuntimeError as error:
            said.append(str(error))

    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(by_hand)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert (begun, said) == ([], ["a deadline can only cancel a task; run this under asyncio"])
