"""One batch at work: which request is drawn when, what is due, and when it is over; the same for tasks and for threads.

It is driven from one place, the event loop or the thread of the caller, so it needs no lock; a driver (`gather.py`, `threads.py`)
begins the tries, and says when they have ended and when time has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from resilience.batch.adapter import Adapter, has_deadline
from resilience.batch.flight import FLYING, NEVER, Flight
from resilience.batch.flights import Flights
from resilience.batch.plan import BatchPlan
from resilience.batch.result import Err, Kind, RequestNotMade, Result
from resilience.batch.settling import Deliver
from resilience.batch.source import FedSource, Lack, Source
from resilience.health import PPB

_BEGUN_AT_ONCE: Final = 32
"""Calls that begin at the same instant, as the clock is read, where nothing of the user's runs between them."""

_ENDED_AT_ONCE: Final = 256
"""Calls that may be refused one after another before others have their turn."""


class Run(Flights):
    """The state of one batch.

    Args:
        plan: what the caller of the batch has settled beforehand.
        source: where requests come from.
        deliver: takes each result of a stream, once; None: they are kept in `results`, in the order of their requests.
    """

    def __init__(self, plan: BatchPlan, source: Source | FedSource, deliver: Deliver | None = None) -> None:
        super().__init__(plan, source.total, deliver)
        self.unread: Callable[[], int] | None = None
        """How many results wait to be read; for streams, which begin no more calls than their reader keeps up with."""
        self.is_interrupted: Callable[[], bool] | None = None
        """Whether there is something to do that does not wait until all is begun that there is room for."""
        self._source = source
        self._now_us = self.clock.now_us
        self._ahead = 0  # calls that may be handed over before there is room, to a driver that sees to the room itself
        self._filling = False
        self._around = plan.around
        self._call_us = plan.call_us
        self._half_us = plan.half_us
        self._home = copy_context()
        self._is_home = False
        if plan.trace is not None:
            self._home.run(plan.trace.enter)

    # --- what a driver tells: each in the context in which the batch began, whoever tells it --------------------------------------

    def start(self) -> None:
        """Begin."""
        self._at_home(self._start)

    def landed(self, flight: Flight, result: Result[Any]) -> None:
        """A try has ended."""
        self._at_home(self._land, flight, result)

    def tick(self) -> None:
        """Time has passed: do what is due, and find out when the next thing is."""
        self._at_home(self._tick)

    def refill(self) -> None:
        """There is room, or a request, that was not there before."""
        self._at_home(self._fill)

    def cancel(self) -> None:
        """The caller does not want it any more: stop what is in flight; what was not begun never is."""
        self._at_home(self._cancel)

    def _at_home(self, do: Callable[..., None], *args: Any) -> None:
        if self._is_home:
            do(*args)
            return
        self._is_home = True
        try:
            self._home.run(do, *args)
        except BaseException as error:
            self.broke(error)
        finally:
            self._is_home = False

    # --- beginning ----------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.clock.now_us() >= self.deadline_us:
            self._stop("timeout")
        elif self.deadline_us < NEVER:
            self.rearm()
        self._fill()

    @property
    def is_over(self) -> bool:
        """Whether every request has its result, and nothing is in flight that could still end."""
        return not self._more and not self.live

    def _cap(self) -> int:
        health = self.plan.health
        if health is None:
            return self.settings.concurrency
        return max(1, self.settings.concurrency * health.factor_ppb_at(self.clock.now_us()) // PPB)

    def _fill(self) -> None:
        """Begin as many calls as there is room for. Where the batch has been stopped: settle those that were not begun."""
        if self._filling:  # a result that comes while a call is being begun
            return
        self._filling = True
        try:
            cap = self._cap()
            self._draw(cap)
            while self._to_hedge and self.in_flight < cap:
                self._hedge(self._to_hedge.popleft())
        finally:
            self._filling = False

    def _draw(self, cap: int) -> None:
        """Draw requests while there is room among `cap` calls, and nothing that goes first."""
        draw, everybodys, unread, is_interrupted = self._source.draw, self._source.target, self.unread, self.is_interrupted
        now_us, is_quick = self._now_us(), self._source.is_quick
        while self._more:
            if unread is not None and (waiting := unread()) and waiting + self.in_flight >= cap:
                break
            if is_interrupted is not None and is_interrupted():
                break
            if self._at_once >= _ENDED_AT_ONCE:
                self._at_once = 0
                if self.lets_others_in():
                    break
            if self.in_flight >= cap + self._ahead and not self.stopped and not self._is_blocked():
                break
            try:
                drawn = draw()
            except RequestNotMade as error:
                self._settle(self._count(), None, Err(error, Kind.BUSINESS))
                continue
            if drawn.__class__ is Lack:
                self._more = drawn is Lack.NOT_YET
                break
            adapter, request = drawn if everybodys is None else (everybodys, drawn)
            if not is_quick or self._next % _BEGUN_AT_ONCE == 0:  # it may have taken long to draw
                now_us = self._now_us()
            self._begin(adapter, request, now_us)

    def _is_blocked(self) -> bool:
        """Whether there will be no room until what hangs lets go, which may be never."""
        if self.live or not self.stuck:
            return False
        self._stop("threads")
        return True

    def _begin(self, adapter: Adapter[Any, Any], request: Any, now_us: int) -> None:
        index = self._next  # `_count`, written out
        self._next = index + 1
        if self._deliver is None:
            self.results.append(None)
        if now_us >= self.deadline_us:
            self._stop("timeout")
        if self.stopped:
            self._at_once += 1
            self._settle(index, request, self._not_begun())
            return
        limit_us = self.deadline_us
        if self._call_us is not None and now_us + self._call_us < limit_us:
            limit_us = now_us + self._call_us
        flight = Flight(index, adapter, request, now_us, limit_us, self._around)
        if limit_us - now_us < self._half_us and not has_deadline(adapter.pipeline):
            flight.deadline_counts = False
        if self._hedge_us is not None and now_us + self._hedge_us < limit_us:
            flight.due_us = now_us + self._hedge_us
        self._send(flight, adapter)

    def _stop(self, why: str) -> None:
        if self.stopped:
            return
        super()._stop(why)
        self._to_hedge.clear()
        if self._source.is_fed or (self.unread is not None and not self._source.is_sized):
            self._more = False  # what may have no end is not drawn to its end

    # --- time, and ending before it -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_us = self.clock.now_us()
        if now_us >= self.deadline_us and not self.stopped:
            self._stop("timeout")
        for flight in [flight for flight in self.live if flight.due_us <= now_us]:
            self._due(flight, now_us)
        wake_us = NEVER if self.stopped else self.deadline_us
        for flight in self.live:
            if flight.due_us < wake_us:
                wake_us = flight.due_us
        self.wake_us = wake_us
        self._fill()

    def _cancel(self) -> None:
        self._stop("cancelled")
        self._more = False
        for flight in list(self.live):
            if flight in self.live and flight.phase is FLYING:
                self._end(flight, self._cancelled())
