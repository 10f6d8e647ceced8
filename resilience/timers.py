"""Deadline timers that share: deadlines a few milliseconds apart wake the loop once.

A timer for each request is the dearest part of a deadline, and nearly every one is cancelled. Here the deadlines of one event loop
fall into slots of `clock.timer_slot_us`; a slot arms one timer when its first member comes and is left to fire when they have gone,
unless that is far off: callers choose their deadlines, and would leave a timer behind for each. A deadline is never met early, and
at most one slot late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary, ref

from resilience.clock import US_PER_S, Clock, Timer

if TYPE_CHECKING:
    import asyncio
    from asyncio import Task

log = logging.getLogger("resilience")
_asyncio: Any = None  # a service without tasks never loads it
_LINGERS_S: Final = 60.0
"""An empty slot is left to fire by itself when it does so within this time of being made."""


class Expires(Protocol):
    """What waits for a deadline."""

    def expire(self) -> None:
        """The deadline has passed."""


class Slot:
    """The members whose deadlines are met together."""

    __slots__ = ("_timer", "_wheel", "index", "members")

    def __init__(self, wheel: TimerWheel, index: int, delay_s: float, clock: Clock) -> None:
        self._wheel = wheel
        self.index = index
        self.members: set[Expires] = set()
        timer = clock.call_later(delay_s, self._fire)
        # Kept only where it will be cancelled, and weakly: it refers to its loop, and would keep a closed loop alive for ever.
        self._timer: Callable[[], Timer | None] | None = None
        if wheel.is_exact or delay_s > _LINGERS_S:
            self._timer = ref(timer)

    def leave(self, member: Expires) -> None:
        """Forget `member`, if it is still waiting."""
        members = self.members
        members.discard(member)
        if not members and self._timer is not None:
            self._end()

    def _end(self) -> None:
        """All have left a slot that must not leave its timer behind."""
        timer = None if self._timer is None else self._timer()
        if timer is not None:
            timer.cancel()
        self._wheel.forget(self)

    def _fire(self) -> None:
        self._wheel.forget(self)
        for member in list(self.members):
            try:
                member.expire()
            except Exception:
                log.exception("a deadline could not be enforced")


class TimerWheel:
    """The slots of one event loop and one clock."""

    __slots__ = ("_clock", "_slot_us", "_slots", "is_exact")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slot_us = clock.timer_slot_us
        self._slots: dict[int, Slot] = {}
        self.is_exact = self._slot_us == 1

    def join(self, member: Expires, deadline_us: int, now_us: int | None = None) -> Slot:
        """Let `member.expire()` be called once `deadline_us` has passed, unless it leaves the slot before.

        The clock is read where there is no slot yet and `now_us` does not tell the time.
        """
        index = -(-deadline_us // self._slot_us)
        slot = self._slots.get(index) or self._new_slot(index, now_us)
        slot.members.add(member)
        return slot

    def _new_slot(self, index: int, now_us: int | None = None) -> Slot:
        if now_us is None:
            now_us = self._clock.now_us()
        delay_s = max(0, index * self._slot_us - now_us) / US_PER_S
        slot = self._slots[index] = Slot(self, index, delay_s, self._clock)
        return slot

    def forget(self, slot: Slot) -> None:
        """The slot is over; deadlines that fall into it from now on get a new one."""
        if self._slots.get(slot.index) is slot:
            del self._slots[slot.index]


_wheels: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Clock, TimerWheel]]] = WeakKeyDictionary()
_last: tuple[object, object, TimerWheel | None] = (None, None, None)  # holds one loop, until the next asks


def wheel_of(loop: asyncio.AbstractEventLoop, clock: Clock) -> TimerWheel:
    """The wheel of an event loop; nearly always the one asked for last."""
    global _last
    last_loop, last_clock, wheel = _last
    if wheel is not None and last_loop is loop and last_clock is clock:
        return wheel
    wheels = _wheels.setdefault(loop, {})
    wheel = wheels.get(clock)
    if wheel is None:
        wheel = wheels[clock] = TimerWheel(clock)
    _last = (loop, clock, wheel)
    return wheel


def at_work() -> tuple[Task[Any], int]:
    """The task that is at work here, and how many want it cancelled by now.

    Raises:
        RuntimeError: it is none of asyncio's, and so nothing that a deadline could cancel.
    """
    task = (_asyncio or _load_asyncio()).current_task()
    if task is None:
        raise RuntimeError("a deadline can only cancel a task; run this under asyncio")
    return task, task.cancelling()


class CancelTimer:
    """Cancels the current task at a deadline, and tells that cancellation from one that comes from elsewhere.

    The rules are those of `asyncio.timeout`: the cancellation is taken back with `uncancel`, and becomes a deadline error only if
    nobody else has asked for one since `begun`, which is what `at_work` said when the work began. Without it that is now.
    """

    __slots__ = ("_alone", "_cancelling", "_slot", "_task", "fired")

    def __init__(self, clock: Clock, deadline_us: int, begun: tuple[Task[Any], int] | None = None) -> None:
        self._task, self._cancelling = task, _ = at_work() if begun is None else begun
        self._alone: bool | None = None
        self.fired = False
        loop = task.get_loop()
        last_loop, last_clock, wheel = _last  # `wheel_of` and `join`, written out
        if wheel is None or last_loop is not loop or last_clock is not clock:
            wheel = wheel_of(loop, clock)
        index = -(-deadline_us // wheel._slot_us)
        self._slot = slot = wheel._slots.get(index) or wheel._new_slot(index)
        slot.members.add(self)

    def expire(self) -> None:
        """The deadline has passed."""
        self.fired = True
        self._task.cancel()

    def disarm(self) -> None:
        """Forget it. A cancellation of its own is taken back, also where somebody has swallowed the `CancelledError`."""
        slot = self._slot  # `leave`, written out
        slot.members.discard(self)
        if not slot.members and slot._timer is not None:
            slot._end()
        if self.fired:
            self.takes_back()

    def takes_back(self) -> bool:
        """Whether a `CancelledError` just caught comes from this timer alone."""
        if self.fired and self._alone is None:
            self._alone = self._task.uncancel() <= self._cancelling
        return self._alone is True


def is_cancellation(error: BaseException | None) -> bool:
    """Whether a task is ended by `error`."""
    return isinstance(error, (_asyncio or _load_asyncio()).CancelledError)


def _load_asyncio() -> Any:
    """Once: asking for a module that is loaded takes longer than what is wanted of it."""
    global _asyncio
    import asyncio

    _asyncio = asyncio
    return asyncio
