"""For tests of code that uses resilience: time that moves only when told, an observer that remembers, a guard against leaks."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

from resilience.clock import US_PER_S, to_us
from resilience.events import Event, subscribe
from resilience.leaks import Leaked, LeakGuard

__all__ = ["Leaked", "ManualClock", "RecordingObserver", "no_leaks_fixture", "nothing_leaks"]

_KINDS: Final = ("threads", "tasks", "permits")
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
        if delay_s <= 0 and _running_task() is not None:  # due already: as with real time, nobody needs to move the clock
            asyncio.get_running_loop().call_soon(timer.run_now)
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
            asyncio.get_running_loop().call_soon(self.run_now)
        else:
            self.run_now()

    def run_now(self) -> None:
        """Run it, unless it was cancelled."""
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


def nothing_leaks(*, threads: bool = True, tasks: bool = True, permits: bool = True, wait_s: float = 1.0) -> LeakGuard:
    """Guard a block that must leave nothing behind: `with nothing_leaks(): ...`, or `async with` inside a coroutine.

    What counts is what began inside the block, anywhere in the process. A block that raises keeps its own exception; what it left
    behind is added to that as a note.

    Args:
        threads: look for threads that still run.
        tasks: look for asyncio tasks that are not done, and for those that `asyncio.run` had to cancel when it closed its loop.
        permits: look for calls that were admitted and never settled, also where their permit was garbage collected; for probes that
            a half-open breaker still waits for; and for tokens reserved in a limiter's queue that nobody waits for.
        wait_s: how long, in seconds, what is about to end may take for it. Spent only where something is left.

    Raises:
        Leaked: when the block is left. An `AssertionError`; `leaks` names each thing that was left, and where it came from.
    """
    return LeakGuard(threads=threads, tasks=tasks, permits=permits, wait_s=wait_s)


def no_leaks_fixture(*, autouse: bool = False, wait_s: float = 1.0) -> Any:
    """Make a pytest fixture that guards each test that uses it: `no_leaks = no_leaks_fixture(autouse=True)` in `conftest.py`.

    A test marked `@pytest.mark.may_leak("threads", "tasks", "permits")` may leak what its mark names, or anything if it names
    nothing.

    Args:
        autouse: guard every test below that `conftest.py`, whether it asks for the fixture or not.
        wait_s: see `nothing_leaks`.

    Raises:
        ImportError: pytest is not installed. Nothing else in this module needs it.
    """
    import pytest  # noqa: PLC0415 - nothing else here needs it

    @pytest.fixture(autouse=autouse)
    def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
        """Fail the test if it leaks threads, tasks or permits."""
        mark = request.node.get_closest_marker("may_leak")
        may_leak = () if mark is None else mark.args or _KINDS
        unknown = [kind for kind in may_leak if kind not in _KINDS]
        if unknown:
            raise ValueError(f"may_leak: knows {', '.join(_KINDS)}; got {', '.join(map(repr, unknown))}")
        with LeakGuard(**{kind: kind not in may_leak for kind in _KINDS}, wait_s=wait_s):
            yield

    return no_leaks
