"""The only loop that blocks and the only loop that awaits. Both run the same plans of effects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from resilience.call import Call
from resilience.clock import Clock
from resilience.layers.base import Ask, Discard, Effect, Wait
from resilience.timers import wheel_of

if TYPE_CHECKING:
    import asyncio

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


class CancelTimer:
    """Cancels the current task at a deadline, and tells that cancellation from one that comes from elsewhere.

    The rules are those of `asyncio.timeout`: the cancellation is taken back with `uncancel`, and becomes a deadline error only if
    nobody else has asked for one.
    """

    __slots__ = ("_alone", "_cancelling", "_slot", "_task", "fired")

    def __init__(self, clock: Clock, deadline_us: int, now_us: int) -> None:
        import asyncio  # a service without tasks never loads it

        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline can only cancel a task; run this under asyncio")
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._alone: bool | None = None
        self.fired = False
        self._slot = wheel_of(loop, clock).join(self, deadline_us, now_us)

    def expire(self) -> None:
        """The deadline has passed."""
        self.fired = True
        self._task.cancel()

    def disarm(self) -> None:
        """Forget it. A cancellation of its own is taken back, also where somebody has swallowed the `CancelledError`."""
        self._slot.leave(self)
        if self.fired:
            self.takes_back()

    def takes_back(self) -> bool:
        """Whether a `CancelledError` just caught comes from this timer alone."""
        if self.fired and self._alone is None:
            self._alone = self._task.uncancel() <= self._cancelling
        return self._alone is True


async def within(
    call: Call, timeout: Timeout | None, clock: Clock, work: Callable[[], Awaitable[T]], now_us: int | None = None
) -> T:
    """Await `work()`, cancelled when the call's deadline passes; `timeout` makes the error that is raised then.

    `now_us` is the present, where that is no more the instant at which the call began.
    """
    if timeout is None or call.deadline_us is None:
        return await work()
    timer = CancelTimer(clock, call.deadline_us, call.now_us if now_us is None else now_us)
    try:
        return await work()
    except BaseException as error:
        if is_cancellation(error):
            if timer.takes_back():
                raise timeout(call) from error
            note_expiry(call, timeout, clock)
        raise
    finally:
        timer.disarm()


def is_cancellation(error: BaseException | None) -> bool:
    """Whether a task is ended by `error`."""
    import asyncio

    return isinstance(error, asyncio.CancelledError)


def note_expiry(call: Call, timeout: Timeout, clock: Clock) -> None:
    """A call was cancelled from further out. If its own time is over too, that is how it ended, whoever was first to say so."""
    if call.deadline_us is not None and clock.now_us() >= call.deadline_us:
        call.error = timeout(call)
