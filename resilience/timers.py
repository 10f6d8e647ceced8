"""Deadline timers that share: deadlines a few milliseconds apart wake the loop once.

A timer for each request is the dearest part of a deadline, and nearly every one is cancelled. Here the deadlines of one event loop
fall into slots of `clock.timer_slot_us`; a slot arms one timer when its first member comes and is left to fire when they have gone,
unless that is far off: callers choose their deadlines, and would leave a timer behind for each. A deadline is never met early, and
at most one slot late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, ref

from resilience.clock import US_PER_S, Clock, Timer

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("resilience")
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
            timer = self._timer()
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

    def join(self, member: Expires, deadline_us: int, now_us: int) -> Slot:
        """Let `member.expire()` be called once `deadline_us` has passed, unless it leaves the slot before."""
        index = -(-deadline_us // self._slot_us)
        slot = self._slots.get(index)
        if slot is None:
            delay_s = max(0, index * self._slot_us - now_us) / US_PER_S
            slot = self._slots[index] = Slot(self, index, delay_s, self._clock)
        slot.members.add(member)
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
