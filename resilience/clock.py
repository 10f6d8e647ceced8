"""Where time comes from. No other module of the core reads a clock; tests put a manual one in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Context
from typing import Final, Protocol, runtime_checkable

monotonic_ns: Final = time.monotonic_ns
"""What `SystemClock` reads. Always looked up here, never kept, so that whoever freezes time for a test freezes all of it."""
US_PER_S: Final = 1_000_000
"""Microseconds in a second. Instants are whole microseconds on a monotonic clock, so that arithmetic on them is exact."""
NS_PER_US: Final = 1_000


def to_us(duration_s: float) -> int:
    """A duration in whole microseconds, rounded to the nearest."""
    return round(duration_s * US_PER_S)


wall_ns: Final = time.time_ns
"""Nanoseconds since the Unix epoch, for the beginnings and ends of spans."""


class Timer(Protocol):
    """A pending callback that can be cancelled; `asyncio.TimerHandle` is one."""

    def cancel(self) -> None:
        """Forget the callback if it has not run yet."""


@runtime_checkable
class Clock(Protocol):
    """Tells the time, waits, and arms timers.

    `timer_slot_us` is how far apart deadlines may be that share a timer: at most so late is one met. 1 means each has its own.
    """

    timer_slot_us: int

    def now_us(self) -> int:
        """The monotonic instant in microseconds."""

    def wall_s(self) -> float:
        """Seconds since the Unix epoch, for HTTP dates, log records and the age of files only."""

    def sleep(self, duration_s: float) -> None:
        """Block this thread for `duration_s` seconds."""

    async def asleep(self, duration_s: float) -> None:
        """Suspend this task for `duration_s` seconds."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` on the running event loop after `delay_s` seconds."""


class SystemClock:
    """The machine's monotonic clock."""

    __slots__ = ()
    timer_slot_us = 4_000

    def now_us(self) -> int:
        return monotonic_ns() // NS_PER_US

    def wall_s(self) -> float:
        return time.time()

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)

    async def asleep(self, duration_s: float) -> None:
        import asyncio  # a service without tasks never loads it

        await asyncio.sleep(duration_s)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        import asyncio

        # In an empty context: that of the caller would keep alive, until then, whatever request it belongs to.
        return asyncio.get_running_loop().call_later(delay_s, callback, context=Context())

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK: Final = SystemClock()
