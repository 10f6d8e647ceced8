"""A batch of threads, driven by the thread of its caller: it begins the tries, and takes what comes of them from a queue."""

from __future__ import annotations

import functools
import queue
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from resilience.batch.flight import NEVER, Flight
from resilience.batch.plan import BatchPlan
from resilience.batch.result import Err, Kind, Result, Settled
from resilience.batch.run import Run
from resilience.batch.settling import Deliver
from resilience.batch.source import Source
from resilience.batch.trying import blocking_try, vote_of_abandoned
from resilience.clock import SYSTEM_CLOCK, US_PER_S

_LOOK_EVERY_S: Final = 0.001
"""How often a clock is looked at that is not the system's, and cannot be waited for."""


class ThreadRun(Run):
    """A batch driven by one thread."""

    def __init__(self, plan: BatchPlan, source: Source, deliver: Deliver | None = None) -> None:
        super().__init__(plan, source, deliver)
        settings = self.settings
        if settings.most_threads <= settings.concurrency and not self._counts_from_the_start:
            self._ahead = settings.concurrency
        self._landings: queue.SimpleQueue[tuple[Flight, Result[Any]]] = queue.SimpleQueue()
        if not source.is_sized:
            self.is_interrupted = self._has_news

    @property
    def _counts_from_the_start(self) -> bool:
        """Whether it matters when each call begins. Else the pool bounds them, and its threads find the next one by themselves."""
        settings, plan = self.settings, self.plan
        return (
            settings.stop_over is not None
            or plan.call_us is not None
            or plan.hedge_us is not None
            or plan.health is not None
            or self._deliver is not None
        )

    # --- waiting ------------------------------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """See the batch through."""
        try:
            self.start()
            while not self.is_over:
                self._wait()
        finally:
            self._close()

    def stream(self, arrived: deque[Settled[Any, Any]]) -> Iterator[Settled[Any, Any]]:
        """See the batch through, and yield what has arrived."""
        try:
            self.start()
            while True:
                while arrived:
                    yield arrived.popleft()
                    if self._more:
                        self.refill()
                if self.is_over:
                    break
                self._wait()
        finally:
            self._close()

    def _has_news(self) -> bool:
        """For requests that may take long to draw: what has ended, or is due, does not wait for them."""
        return not self._landings.empty() or self._now_us() >= self.wake_us

    def lets_others_in(self) -> bool:
        """They have threads of their own."""
        return False

    def broke(self, error: BaseException) -> None:
        """This is the thread of whoever waits for the batch."""
        raise error

    def _wait(self) -> None:
        """Wait for a try that ends, or for the next thing that is due."""
        wait_s: float | None = None
        if self.wake_us < NEVER:
            wait_s = (self.wake_us - self.clock.now_us()) / US_PER_S
            if wait_s <= 0:
                self._take_landings()  # before anything is found to be late: the reader of a stream may have been away for long
                self.tick()
                return
        if self.clock is not SYSTEM_CLOCK:
            wait_s = _LOOK_EVERY_S
        try:
            flight, result = self._landings.get(timeout=wait_s)
        except queue.Empty:
            return
        self.landed(flight, result)

    def _take_landings(self) -> None:
        """What has ended up to now."""
        for _ in range(self._landings.qsize()):
            self.landed(*self._landings.get())

    def rearm(self) -> None:
        """Whoever waits reads `wake_us` itself."""

    def _close(self) -> None:
        try:
            if not self.is_over:
                self.cancel()
            while self.live:
                self._wait()
        finally:
            self.abandon_all()

    # --- tries --------------------------------------------------------------------------------------------------------------------

    def launch(self, flight: Flight, prepared: Any) -> Err | None:
        adapter = flight.adapter
        if adapter.is_async:
            return Err(TypeError(f"{adapter.name} is for tasks: await `acall` or `astream`"), Kind.BUSINESS)
        work = functools.partial(self._in_thread, flight, functools.partial(blocking_try, self.plan, flight, prepared))
        job = self.plan.pool.submit(work, functools.partial(self._in_thread, flight, self.no_thread))
        if job is None:
            return self.no_thread()
        flight.carrier = job
        return None

    def _in_thread(self, flight: Flight, make: Callable[[], Result[Any]]) -> None:
        self._landings.put((flight, make()))

    # --- tries that do not end ----------------------------------------------------------------------------------------------------

    def stop_try(self, flight: Flight) -> bool:
        dropped: bool = self.plan.pool.drop(flight.carrier)
        return dropped

    def can_stop(self, flight: Flight) -> bool:
        return False

    def give_up(self, flight: Flight) -> bool | None:
        if not self.plan.pool.abandon(flight.carrier):
            return None
        vote_of_abandoned(flight, self.clock.now_us())
        is_replaced: bool = flight.carrier.is_replaced
        return is_replaced
