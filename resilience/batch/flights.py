"""The tries of one batch that are in flight: how each begins, and how it ends: by itself, at its limit, outdone, or never.

Arithmetic on what is in flight and the present instant; the same for tasks and for threads.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from resilience.batch.adapter import Adapter, FunctionBackend
from resilience.batch.flight import FLYING, NEVER, Flight, Phase
from resilience.batch.plan import BatchPlan
from resilience.batch.result import Err, Kind, Result, not_made, timed_out
from resilience.batch.settling import Deliver, Settling
from resilience.batch.trying import FATAL

log = logging.getLogger("resilience")

_ONE_MORE_TURN_US: Final = 1_000
"""Where the whole process stood still while a try should have ended, that gets its turn before it is given up."""


class Flights(Settling, ABC):
    """The tries of one batch. Args as for `Settling`."""

    def __init__(self, plan: BatchPlan, total: int | None, deliver: Deliver | None) -> None:
        super().__init__(plan, total, deliver)
        self.deadline_us = NEVER if plan.deadline_us is None else plan.deadline_us
        self.wake_us = self.deadline_us
        self.live: set[Flight] = set()
        self.stuck = 0
        self.in_flight = 0
        self._more = True
        self._at_once = 0  # calls that have ended before they began, since others had their turn
        self._to_hedge: deque[Flight] = deque()

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

    @abstractmethod
    def lets_others_in(self) -> bool:
        """Many calls have ended at once. Whether to go on with further ones only after others have had their turn."""

    @abstractmethod
    def broke(self, error: BaseException) -> None:
        """Let whoever waits for the batch raise `error`: it ends as by a cancellation."""

    @abstractmethod
    def _fill(self) -> None:
        """Begin as many calls as there is room for."""

    # --- beginning ----------------------------------------------------------------------------------------------------------------

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
        except BaseException:
            self._forget(flight)
            raise
        else:
            try:
                begun = self.launch(flight, prepared)
            except BaseException:  # a key function that is interrupted
                self._forget(flight)
                raise
            if begun is None:
                return
            failed = begun
        self._at_once += 1
        self._land(flight, failed)

    def _forget(self, flight: Flight) -> None:
        """It was never begun, and the batch is about to end by what kept it from it."""
        self.live.discard(flight)
        self.in_flight -= 1

    def _shorten(self, flight: Flight, limit_us: int) -> None:
        """A try has less time than the batch gives it."""
        flight.limit_us = limit_us
        if limit_us < flight.due_us:
            flight.due_us = limit_us
            if limit_us < self.wake_us:
                self.wake_us = limit_us
                self.rearm()

    def _hedge(self, first: Flight) -> None:
        if first not in self.live or first.phase is not FLYING:
            return
        if not _may_hedge(first) or not self.plan.budget_of(first.adapter).take():
            return
        self.tally.hedged += 1
        self._send(first.second(self.clock.now_us()), first.adapter)

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
            flight.carrier = flight.innermost = None  # they hold the flight
            if isinstance(result, Err) and isinstance(result.error.__cause__, FATAL):
                self.broke(result.error.__cause__)
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

    # --- at its limit -------------------------------------------------------------------------------------------------------------

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
        now_us = self.clock.now_us()
        told_us = now_us if instead is None or self.can_stop(flight) else min(now_us, flight.limit_us)
        flight.due_us = told_us + self.plan.grace_us  # a thread knows its limit, however late this is: it is not told
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

    def abandon_all(self) -> None:
        """Wait for nothing any more."""
        for flight in list(self.live):
            self._abandon(flight)
        self.live.clear()


def _may_hedge(first: Flight) -> bool:
    """Whether its request may be sent a second time. What cannot tell is not asked to do anything twice."""
    try:
        return bool(first.adapter.may_hedge(first.request))
    except Exception:
        log.exception("%s: cannot tell whether a request may be sent a second time; it is not", first.adapter.name)
        return False
