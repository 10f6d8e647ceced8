"""One batch at work: what begins when, what is settled how, and when it is over; the same for tasks and for threads.

Arithmetic on what is in flight and the present instant. It is driven from one place, the event loop or the thread of the caller,
so it needs no lock; a driver (`gather.py`, `threads.py`) begins the tries, and says when they have ended and when time has passed.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from resilience.batch.adapter import Adapter, FunctionBackend
from resilience.batch.flight import FLYING, NEVER, Flight, Phase
from resilience.batch.plan import BatchPlan
from resilience.batch.result import (
    BatchStopped,
    CallCancelled,
    Err,
    Kind,
    PoolExhausted,
    Report,
    RequestNotMade,
    Result,
    not_made,
    timed_out,
)
from resilience.batch.source import FedSource, Lack, Source
from resilience.batch.tally import Tally
from resilience.clock import US_PER_S
from resilience.health import PPB

log = logging.getLogger("resilience")

_ONE_MORE_TURN_US: Final = 1_000
"""Where the whole process stood still while a try should have ended, that gets its turn before it is given up."""
Deliver = Callable[[int, Any, "Result[Any]"], None]
"""Takes the result of the request at an index."""


class Run(ABC):
    """The state of one batch.

    Args:
        plan: what the caller of the batch has settled beforehand.
        source: where requests come from.
        deliver: takes each result of a stream, once; None: they are kept in `results`, in the order of their requests.
    """

    def __init__(self, plan: BatchPlan, source: Source | FedSource, deliver: Deliver | None = None) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.clock = plan.clock
        self.began_us = plan.began_us
        self.deadline_us = NEVER if plan.deadline_us is None else plan.deadline_us
        self.wake_us = self.deadline_us
        self.live: set[Flight] = set()
        self.stuck = 0
        self.in_flight = 0
        self.tally = Tally()
        self.stopped = ""
        self.unread: Callable[[], int] | None = None
        """How many results wait to be read; for streams, which begin no more calls than their reader keeps up with."""
        self._source = source
        self._deliver = deliver
        self.results: list[Any] = []
        self._ahead = 0  # calls that may be handed over before there is room, to a driver that sees to the room itself
        self._more = True
        self._filling = False
        self._next = 0
        self._around = plan.around
        self._call_us = plan.call_us
        self._hedge_us = plan.hedge_us
        self._to_hedge: deque[Flight] = deque()
        self._stop_over = self.settings.stop_over
        self._on_progress = plan.on_progress
        self._counts_only = deliver is None and plan.on_progress is None and plan.hedge_us is None
        self._home = copy_context()
        self._is_home = False
        if plan.trace is not None:
            self._home.run(plan.trace.enter)

    # --- what a driver does -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def launch(self, flight: Flight, prepared: Any) -> Err | None:
        """Begin a try. Returns an error where it could not even begin."""

    @abstractmethod
    def stop_try(self, flight: Flight) -> bool:
        """Tell a try to end. True: it had not begun, and is over."""

    @abstractmethod
    def can_stop(self, flight: Flight) -> bool:
        """Whether a try that is told to end will do so, as a task does and a thread does not."""

    @abstractmethod
    def give_up(self, flight: Flight) -> bool | None:
        """Nobody waits for a try any more that does not end. Returns whether its place may be given away; None: it has ended."""

    @abstractmethod
    def rearm(self) -> None:
        """`wake_us` is earlier than it was."""

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
        finally:
            self._is_home = False

    def _start(self) -> None:
        if self.clock.now_us() >= self.deadline_us:
            self._stop("timeout")
        elif self.deadline_us < NEVER:
            self.rearm()
        self._fill()

    # --- beginning ----------------------------------------------------------------------------------------------------------------

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
            now_us = self.clock.now_us()
            draw, everybodys, unread = self._source.draw, self._source.target, self.unread
            while self._more:
                if unread is not None and unread() >= cap:
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
                self._begin(adapter, request, now_us)
            while self._to_hedge and self.in_flight < cap:
                self._hedge(self._to_hedge.popleft())
        finally:
            self._filling = False

    def _is_blocked(self) -> bool:
        """Whether there will be no room until what hangs lets go, which may be never."""
        if self.live or not self.stuck:
            return False
        self._stop("threads")
        return True

    def _count(self) -> int:
        """One more request. Returns its place."""
        index = self._next
        self._next = index + 1
        if self._deliver is None:
            self.results.append(None)
        return index

    def _begin(self, adapter: Adapter[Any, Any], request: Any, now_us: int) -> None:
        index = self._next  # `_count`, written out
        self._next = index + 1
        if self._deliver is None:
            self.results.append(None)
        if self.stopped:
            self._settle(index, request, self._not_begun())
            return
        limit_us = self.deadline_us
        if self._call_us is not None and now_us + self._call_us < limit_us:
            limit_us = now_us + self._call_us
        flight = Flight(index, adapter, request, now_us, limit_us, self._around)
        if self._hedge_us is not None and now_us + self._hedge_us < limit_us:
            flight.due_us = now_us + self._hedge_us
        self._send(flight, adapter)

    def _send(self, flight: Flight, adapter: Adapter[Any, Any]) -> None:
        self.live.add(flight)
        self.in_flight = in_flight = self.in_flight + 1
        if in_flight > self.tally.peak:
            self.tally.peak = in_flight
        if flight.due_us < self.wake_us:
            self.wake_us = flight.due_us
            self.rearm()
        try:
            prepared = flight.request if type(adapter) is FunctionBackend else adapter.prepare(flight.request)  # as it is
        except Exception as error:
            failed = Err(not_made(error), Kind.BUSINESS)
        else:
            begun = self.launch(flight, prepared)
            if begun is None:
                return
            failed = begun
        self._land(flight, failed)

    def _shorten(self, flight: Flight, limit_us: int) -> None:
        """A try has less time than the batch gives it."""
        flight.limit_us = limit_us
        if limit_us < flight.due_us:
            flight.due_us = limit_us
            if limit_us < self.wake_us:
                self.wake_us = limit_us
                self.rearm()

    # --- ending -------------------------------------------------------------------------------------------------------------------

    def _land(self, flight: Flight, result: Result[Any]) -> None:
        phase = flight.phase
        if phase is Phase.ABANDONED:  # it was settled when it was given up
            return
        self.live.discard(flight)
        self.in_flight -= 1
        if phase is Phase.STUCK:
            self.stuck -= 1
        else:
            flight.carrier = flight.permit = flight.innermost = None  # they hold the flight
            if phase is FLYING and flight.twin is None:
                if self._counts_only and not isinstance(result, Err):  # `_settle`, where nobody else takes part in it
                    self.tally.ok += 1
                    self.results[flight.index] = result
                else:
                    self._settle(flight.index, flight.request, result)
            else:
                self._take(flight, result)
        if self._more or self._to_hedge:
            self._fill()

    def _take(self, flight: Flight, result: Result[Any]) -> None:
        if flight.is_outdone:
            return
        stopped_by = flight.stopped_by
        if stopped_by is not None and isinstance(result, Err) and result.kind is not stopped_by.kind:
            if result.kind is not Kind.CANCELLED:
                stopped_by.error.__cause__ = result.error
            result = stopped_by  # a value that comes within the grace is still taken
        if flight.twin is not None:
            decided = self._of_two(flight, flight.twin, result)
            if decided is None:
                return
            result = decided
        self._settle(flight.index, flight.request, result)

    def _of_two(self, flight: Flight, twin: Flight, result: Result[Any]) -> Result[Any] | None:
        """The result of a request with two tries, one of which has ended; None: it depends on the other."""
        if isinstance(result, Err):
            if twin.failure is None:
                flight.failure = result
                return None
            return twin.failure if twin.failure.abandoned else result
        twin.is_outdone = True
        if twin in self.live and twin.phase is FLYING:
            self._end(twin, None)
        return result

    def _settle(self, index: int, request: Any, result: Result[Any]) -> None:
        tally = self.tally
        if not isinstance(result, Err):
            tally.ok += 1
            if self._hedge_us is not None:
                self.plan.budget.earn()
        else:
            tally.fail(result)
            if self._stop_over is not None and tally.is_over(self._stop_over, self.settings.stop_min_calls):
                self._stop("failures")
        if self._deliver is None:
            self.results[index] = result
        else:
            self._deliver(index, request, result)
        if self._on_progress is not None:
            self._tell()

    def _stop(self, why: str) -> None:
        """Begin no further call. Those in flight go on to their own ends."""
        if self.stopped:
            return
        self.stopped = why
        self._to_hedge.clear()
        if self._source.is_fed or (self.unread is not None and not self._source.is_sized):
            self._more = False  # what may have no end is not drawn to its end

    def _not_begun(self) -> Err:
        name = self.plan.name
        if self.stopped == "timeout":
            return timed_out(name, began=False)
        if self.stopped == "threads":
            return self.no_thread()
        if self.stopped == "failures":
            return Err(BatchStopped(f"{name}: too many calls before this one have failed"), Kind.CANCELLED)
        return self._cancelled()

    def no_thread(self) -> Err:
        """The result of a call for which there is no thread."""
        return Err(PoolExhausted(policy=self.plan.name, reason="threads"), Kind.REFUSED)

    # --- time ---------------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_us = self.clock.now_us()
        if now_us >= self.deadline_us and not self.stopped:
            self._stop("timeout")
        for flight in [flight for flight in self.live if flight.due_us <= now_us]:
            self._due(flight, now_us)
        self._fill()
        wake_us = NEVER if self.stopped else self.deadline_us
        for flight in self.live:
            if flight.due_us < wake_us:
                wake_us = flight.due_us
        self.wake_us = wake_us

    def _due(self, flight: Flight, now_us: int) -> None:
        if flight not in self.live:  # its twin has just ended it
            return
        if flight.phase is Phase.STOPPED:
            flight.phase = Phase.OVERDUE
            flight.due_us = now_us + _ONE_MORE_TURN_US
        elif flight.phase is Phase.OVERDUE:
            self._abandon(flight)
        elif now_us >= flight.limit_us:
            self._end(flight, timed_out(self.plan.name))
        else:
            flight.due_us = flight.limit_us
            if not self.stopped:
                self._to_hedge.append(flight)

    def _end(self, flight: Flight, instead: Err | None) -> None:
        """Tell a try to end; what it does not answer in time is settled as `instead`."""
        flight.phase = Phase.STOPPED
        flight.stopped_by = instead
        flight.due_us = self.clock.now_us() + self.plan.grace_us
        if flight.due_us < self.wake_us:
            self.wake_us = flight.due_us
            self.rearm()
        if self.stop_try(flight):
            if instead is None or instead.kind is Kind.TIMEOUT:
                instead = flight.stopped_by = timed_out(self.plan.name, began=False)
            self._land(flight, instead)
        elif instead is None and not self.can_stop(flight):  # nobody needs what comes of it
            self._abandon(flight)

    def _abandon(self, flight: Flight) -> None:
        is_replaced = self.give_up(flight)
        if is_replaced is None:  # it has ended just now, and what came of it is on its way here
            flight.due_us = NEVER
            return
        self.live.discard(flight)
        if is_replaced:
            flight.phase = Phase.ABANDONED
            self.in_flight -= 1
        else:
            flight.phase = Phase.STUCK
            self.stuck += 1
        self.tally.abandoned += not flight.is_outdone
        instead = flight.stopped_by
        if instead is not None:
            self._take(flight, Err(instead.error, instead.kind, abandoned=True))

    # --- hedges -------------------------------------------------------------------------------------------------------------------

    def _hedge(self, first: Flight) -> None:
        if first not in self.live or first.phase is not FLYING:
            return
        if not first.adapter.may_hedge(first.request) or not self.plan.budget_of(first.adapter).take():
            return
        self.tally.hedged += 1
        self._send(first.second(self.clock.now_us()), first.adapter)

    # --- ending before its time ---------------------------------------------------------------------------------------------------

    def _cancel(self) -> None:
        self._stop("cancelled")
        self._more = False
        for flight in list(self.live):
            if flight in self.live and flight.phase is FLYING:
                self._end(flight, self._cancelled())

    def _cancelled(self) -> Err:
        return Err(CallCancelled(f"{self.plan.name}: the batch was cancelled"), Kind.CANCELLED)

    def abandon_all(self) -> None:
        """Wait for nothing any more."""
        for flight in list(self.live):
            self._abandon(flight)
        self.live.clear()

    # --- telling ------------------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        try:
            self._on_progress(self.tally.progress(self._source.total))
        except Exception:
            self._on_progress = None
            log.exception("%s: its progress callback raised and is told nothing more", self.plan.name)

    def report(self) -> Report:
        """How it went, up to now."""
        took_s = (self.clock.now_us() - self.began_us) / US_PER_S
        return self.tally.report(self.settings.concurrency, self.stopped, took_s)
