"""For tests of code that uses resilience: time that moves only when told, and an observer that remembers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable
from typing import Any, Final

from resilience.clock import US_PER_S, to_us
from resilience.events import Event, subscribe

__all__ = ["ManualClock", "RecordingObserver"]

_START_US: Final = 1_000 * US_PER_S
_START_WALL_S: Final = 1_700_000_000.0


class ManualClock:
    """A clock that stands still until it is told to move.

    `sleep` moves it by itself, so that code which waits runs through at once; `slept_s` lists those waits. `asleep` waits until
    some other task moves the clock, or moves it by itself with `auto_advance` (the default).

    Args:
        start_s: the first instant; default 1000.
        auto_advance: whether `asleep` moves the clock.
    """

    timer_slot_us = 1

    def __init__(self, start_s: float = _START_US / US_PER_S, *, auto_advance: bool = True) -> None:
        self._now_us = to_us(start_s)
        self._start_us = self._now_us
        self._auto_advance = auto_advance
        self._timers: list[tuple[int, int, ManualTimer]] = []
        self._order = itertools.count()
        self.slept_s: list[float] = []

    def now_us(self) -> int:
        return self._now_us

    def wall_s(self) -> float:
        return _START_WALL_S + (self._now_us - self._start_us) / US_PER_S

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.advance(duration_s)

    async def asleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        if self._auto_advance:
            self.advance(duration_s)
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.call_later(duration_s, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (self._now_us + to_us(delay_s), next(self._order), timer))
        return timer

    def advance(self, duration_s: float) -> None:
        """Move time forward, running the timers that come due, each at its instant."""
        target_us = self._now_us + to_us(duration_s)
        while self._timers and self._timers[0][0] <= target_us:
            due_us, _, timer = heapq.heappop(self._timers)
            self._now_us = max(self._now_us, due_us)
            timer.run()
        self._now_us = max(self._now_us, target_us)

    def step_back(self, duration_s: float) -> None:
        """Move time backwards, as broken clocks do."""
        self._now_us -= to_us(duration_s)

    @property
    def pending_timers(self) -> int:
        """Timers that have neither run nor been cancelled."""
        return sum(not timer.is_over for _, _, timer in self._timers)

    def __repr__(self) -> str:
        return f"ManualClock({self._now_us / US_PER_S:g} s)"


class ManualTimer:
    """A callback that a `ManualClock` will run."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback
        task = _running_task()
        self._armed_by = None if task is None else weakref.ref(task)

    @property
    def is_over(self) -> bool:
        """Whether it has run or was cancelled."""
        return self._callback is None

    def cancel(self) -> None:
        """Forget the callback."""
        self._callback = None

    def run(self) -> None:
        """Run it, unless it was cancelled. A task that moves the clock itself gets to its next `await` first, as with real time."""
        armed_by = None if self._armed_by is None else self._armed_by()
        if armed_by is not None and armed_by is _running_task():
            asyncio.get_running_loop().call_soon(self._run)
        else:
            self._run()

    def _run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


class RecordingObserver:
    """Remembers every event while it is entered: `with RecordingObserver() as observer: ...; observer.events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._unsubscribe: Callable[[], None] | None = None

    def on_event(self, event: Event) -> None:
        """Remember it."""
        self.events.append(event)

    def __enter__(self) -> RecordingObserver:
        self._unsubscribe = subscribe(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
