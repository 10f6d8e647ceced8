"""The only loop that blocks and the only loop that awaits. Both run the same plans of effects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import CoroutineType, coroutine
from typing import Any, TypeVar

from resilience.call import Call
from resilience.clock import Clock
from resilience.layers.base import Ask, Discard, Effect, Wait
from resilience.timers import CancelTimer, at_work, is_cancellation

T = TypeVar("T")
Timeout = Callable[[Call], BaseException]


class _CarriedStop(Exception):
    """A `StopIteration` of the user's on its way through a generator, where it could not travel as itself."""


def drive(plan: Generator[Effect, Any, T], clock: Clock, work: Callable[[], Any] | None = None) -> T:
    """Run a plan in this thread; `work` is what its attempts do."""
    try:
        effect = next(plan)
        while True:
            try:
                answer = perform(effect, clock, work)
            except StopIteration as stop:
                effect = plan.throw(_CarriedStop(stop))
            except BaseException as error:
                effect = plan.throw(error)
            else:
                effect = plan.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result
    except _CarriedStop as carried:
        raise carried.args[0] from None


def perform(effect: Effect, clock: Clock, work: Callable[[], Any] | None) -> Any:
    """Do what one effect asks for, blocking this thread."""
    if isinstance(effect, Wait):
        return clock.sleep(effect.wait_s)
    if isinstance(effect, Ask):
        return effect.store.ask(effect.question)
    if isinstance(effect, Discard):
        return effect.discard(effect.result)
    return _given(work)()


async def adrive(plan: Generator[Effect, Any, T], clock: Clock, work: Callable[[], Awaitable[Any]] | None = None) -> T:
    """Run a plan in this task; `work` is what its attempts await."""
    try:
        effect = next(plan)
        while True:
            try:
                answer = await aperform(effect, clock, work)
            except BaseException as error:
                effect = plan.throw(error)
            else:
                effect = plan.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result


async def aperform(effect: Effect, clock: Clock, work: Callable[[], Awaitable[Any]] | None) -> Any:
    """Do what one effect asks for, suspending this task."""
    if isinstance(effect, Wait):
        return await clock.asleep(effect.wait_s)
    if isinstance(effect, Ask):
        return await effect.store.aask(effect.question)
    if isinstance(effect, Discard):
        return await effect.discard(effect.result)
    return await within(effect.call, effect.timeout, clock, _given(work))


def _given(work: Callable[[], T] | None) -> Callable[[], T]:
    if work is None:
        raise TypeError("this plan does work, but none was given")
    return work


async def within(call: Call, timeout: Timeout | None, clock: Clock, work: Callable[[], Awaitable[T]]) -> T:
    """Await `work()`, cancelled when the call's deadline passes; `timeout` makes the error that is raised then.

    Nothing can cancel a coroutine before it waits for something. Its first step is taken by hand, to see whether it does. For one
    that does not, a timer would be the dearest part of its deadline.
    """
    if timeout is None or call.deadline_us is None:
        return await work()
    begun = at_work()
    timer: CancelTimer | None = None
    result: T
    try:
        awaitable = work()
        if type(awaitable) is not CoroutineType or awaitable.cr_await is not None:
            timer = CancelTimer(clock, call.deadline_us, begun)
            return await awaitable
        try:
            awaited = awaitable.send(None)
        except StopIteration as done:
            result = done.value
            return result
        rest = resumed(awaitable, awaited)
        del awaited  # it may have a result, which is the awaiting coroutine's alone
        timer = CancelTimer(clock, call.deadline_us, begun)
        result = await rest
        return result
    except BaseException as error:
        if is_cancellation(error):
            if timer is not None and timer.takes_back():
                raise timeout(call) from error
            note_expiry(call, timeout, clock)
        raise
    finally:
        if timer is not None:
            timer.disarm()


@coroutine
def resumed(begun: Any, awaited: Any) -> Generator[Any, None, Any]:
    """Await the rest of a coroutine whose first step, `begun.send(None)`, has ended with waiting for `awaited`.

    What is thrown into it reaches the coroutine as if that were awaited from its first step on. Its task sends it nothing but None,
    as those of asyncio do.
    """
    while True:
        thrown: BaseException | None = None
        try:
            yield awaited
        except GeneratorExit:
            begun.close()
            raise
        except BaseException as error:  # the coroutine's, which must not find it being handled
            trace = error.__traceback__
            thrown = error.with_traceback(None if trace is None else trace.tb_next)  # it was not raised in this frame
            del trace
        finally:
            del awaited
        if thrown is None:
            return (yield from begun)
        try:
            awaited = begun.throw(thrown)
        except StopIteration as done:
            return done.value
        finally:
            del thrown


def note_expiry(call: Call, timeout: Timeout, clock: Clock) -> None:
    """A call was cancelled from further out. If its own time is over too, that is how it ended, whoever was first to say so."""
    if call.deadline_us is not None and clock.now_us() >= call.deadline_us:
        call.error = timeout(call)
