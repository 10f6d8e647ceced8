"""The state machine of one circuit breaker, under one lock. It outlives changes of settings.

Every admission carries a ticket of the generation that issued it; a ticket of an older generation votes on nothing. While closed
all calls share one ticket, so that admitting is a single read; each probe of a half-open breaker has its own.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar, Final

from resilience.call import Call, Decision, Outcome
from resilience.clock import US_PER_S, to_us
from resilience.events import NO_EVENTS, BreakerChanged, Event, emit
from resilience.health import LONG_AGO_US, HealthSignal, Hold
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.breaker.window import CountWindow, TimeWindow, Window
from resilience.mark import Mark

_SHARE: Final = 1_000_000_000
_OK: Final = Outcome.OK
_LARGEST_JITTER: Final = 0.1
_MOST_GROWTHS: Final = 64  # beyond, the power would overflow; `open_max_s` was reached long before
Uniform = Callable[[], float]
"""Draws from [0, 1)."""


class BreakerState(Enum):
    """Closed: calls pass. Open: none does. Half-open: a few probe whether the dependency is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Ticket:
    """An admission by one machine; each generation has tickets of its own.

    `admitted_us` is when a probe was let through, None while closed.
    """

    __slots__ = ("admitted_us", "machine")

    def __init__(self, machine: Machine, admitted_us: int | None = None) -> None:
        self.machine = machine
        self.admitted_us = admitted_us


class Refusal:
    """Why a machine let nobody through, and for how long it will not."""

    __slots__ = ("reason", "retry_after_us")

    def __init__(self, reason: str, retry_after_us: int | None) -> None:
        self.reason = reason
        self.retry_after_us = retry_after_us


class Machine:
    """One breaker's state. `admit` and `settle` are its whole life; each returns or applies a decision under the lock."""

    __slots__ = (
        "_booked",
        "_failed_recoveries",
        "_failure_share",
        "_forced",
        "_generation",
        "_hold",
        "_holding",
        "_in_a_row",
        "_open_until_us",
        "_probes",
        "_probes_done",
        "_probes_failed",
        "_probes_slow",
        "_row_ends",
        "_slow_share",
        "_state",
        "_uniform",
        "_window",
        "admitted",
        "calm_until_us",
        "changing",
        "closed_ticket",
        "health",
        "key",
        "lock",
        "name",
        "probed",
        "refuses_until_us",
        "rejected",
        "settings",
        "would_reject",
    )
    kind: ClassVar[str] = "breaker"
    votes_at_start = True

    def __init__(
        self,
        policy: str,
        settings: CircuitBreakerSettings,
        health: HealthSignal | None,
        *,
        key: str | None = None,
        uniform: Uniform = random.random,
    ) -> None:
        self.name = policy
        self.key = key
        self.health = health
        self.calm_until_us = LONG_AGO_US
        self.admitted = self.rejected = self.probed = self.would_reject = 0
        self._booked = 0  # so many of `admitted` the window knows of, or need not know of: the others are successes of its present
        self._uniform = uniform
        self._hold = Hold()
        self._holding = False
        self._generation = 1
        self._state = BreakerState.CLOSED
        self._forced: str | None = None
        self._in_a_row = self._row_ends = 0  # failures in a row, unless more than `_row_ends` have been admitted since
        self._failed_recoveries = 0
        self._open_until_us = 0
        self._probes: dict[Ticket, int] = {}  # in flight, by the instant they were let through
        self._probes_done = self._probes_failed = self._probes_slow = 0
        self._set(settings)
        self._window = self._new_window()
        self.renew_lock()
        self.closed_ticket: Ticket | None = Ticket(self)
        self.refuses_until_us = 0  # while open; past instants, and those of a forced breaker, are for `admit` to look into

    def renew_lock(self) -> None:
        """A lock that nobody holds; in a forked child those of the parent's other threads stay locked."""
        self.lock = threading.Lock()
        self.changing = Mark(self)

    def bar(self) -> None:
        """Let no success be counted in one step any more."""
        self.calm_until_us = LONG_AGO_US

    def unbar(self) -> None:
        """Work out until when a success opens nothing: once that is so, each one more makes it more so."""
        window, calls = self._window, self._window.calls + self.admitted - self._booked + 1
        few_failed = not window.failures or window.failures * _SHARE < self._failure_share * calls
        few_slow = not window.slow_calls or window.slow_calls * _SHARE < self._slow_share * calls
        self.calm_until_us = window.until_us if few_failed and few_slow else LONG_AGO_US

    def _set(self, settings: CircuitBreakerSettings) -> None:
        self.settings = settings
        self._failure_share = round(settings.failure_rate * _SHARE)
        self._slow_share = round(settings.slow_call_rate * _SHARE)

    def _new_window(self) -> Window:
        settings = self.settings
        return TimeWindow(to_us(settings.window_s)) if settings.window_calls is None else CountWindow(settings.window_calls)

    # --- the life of a call -------------------------------------------------------------------------------------------------

    def admit(self, now_us: int, *, shadow: bool) -> Ticket | Refusal:
        """Let a call through, or say why not. `shadow`: by the settings that the call began with, it passes all the same."""
        ticket = self.closed_ticket
        if ticket is not None:
            return ticket
        refusal = self._refusal(now_us)
        if refusal is not None:
            self.rejected += not shadow  # no lock: CPython switches threads between calls and rounds of a loop, and here is neither
            self.would_reject += shadow
            return refusal
        with self.lock, self.changing:
            answer, events = self._admit(now_us)
            if isinstance(answer, Refusal):
                self.rejected += not shadow
                self.would_reject += shadow
        emit(events)
        return answer

    def settle(self, ticket: Ticket, outcome: Outcome, call: Call | None, now_us: int, *, slow: bool = False) -> None:
        """Take a ticket back with how its call went. One of an older generation votes on nothing; `call` itself does not matter."""
        # One step, as `_vote` does it in several (see `mark.py`): a success that opens nothing.
        if outcome is _OK and not slow and ticket is self.closed_ticket and now_us < self.calm_until_us:
            self.admitted += 1
            return
        # So far.
        with self.lock, self.changing:
            events = self._settle(ticket, outcome, slow, now_us)
        if events:
            emit(events)

    # --- operating ----------------------------------------------------------------------------------------------------------

    def configure(self, settings: CircuitBreakerSettings, health: HealthSignal | None, forced: str | None, now_us: int) -> None:
        """Go by new settings, all at once: another window starts empty; state, open timer and probes stay."""
        with self.lock, self.changing:
            old = self.settings
            events = self._leave_for(health, now_us)
            self._book()
            self._set(settings)
            if (old.window_s, old.window_calls) != (settings.window_s, settings.window_calls):
                self._window = self._new_window()
            events += self._force(forced, now_us) + self._mark_health(now_us)
            if self._state is BreakerState.HALF_OPEN:
                events += self._decide(now_us, now_us)
        emit(events)

    def force(self, state: str | None, now_us: int) -> None:
        """Hold it "open" or "closed" whatever happens; None lets it go: closed, with a fresh window."""
        emit(self.forced_now(state, now_us))

    def forced_now(self, state: str | None, now_us: int) -> list[Event]:
        """The same for a caller who holds a lock, and emits what this returns once it has let go of that."""
        with self.lock, self.changing:
            return self._force(state, now_us)

    def start_over(self, reason: str, now_us: int) -> None:
        """Closed, with an empty window, unless an operator holds it open."""
        events: Sequence[Event] = NO_EVENTS
        with self.lock, self.changing:
            if self._state is BreakerState.CLOSED:
                self._start_afresh()
            elif self._forced != "open":
                events = self._close(now_us, reason)
        emit(events)

    def retire(self, now_us: int) -> None:
        """It is removed: a signal that it holds is let go. Calls still under way settle as before."""
        with self.lock, self.changing:
            events = self._leave_for(None, now_us)
        emit(events)

    @property
    def state(self) -> BreakerState:
        """The state as the last call left it; half-open begins with the first call after the open time."""
        return self._state

    @property
    def generation(self) -> int:
        """Grows with every change of state."""
        return self._generation

    @property
    def forced(self) -> str | None:
        """ "open" or "closed" while an operator holds it so."""
        return self._forced

    def failure_rate(self, now_us: int) -> float:
        """The share of failed calls in the window; 0 while it is empty."""
        # One step: there is nothing to forget.
        if now_us < self.calm_until_us:
            window = self._window
            return window.failures / (window.calls + self.admitted - self._booked) if window.failures else 0.0
        # So far.
        with self.lock, self.changing:
            self._book()
            self._window.expire(now_us)
            return self._window.failures / self._window.calls if self._window.calls else 0.0

    def would_refuse(self, now_us: int) -> bool:
        """Whether a call would be refused now; nothing changes by asking. Not so where a call must come for it to go on."""
        with self.lock:
            if self.closed_ticket is not None:
                return False
            if self._forced == "open":
                return True
            if self._state is BreakerState.OPEN:
                return now_us < self._open_until_us
            if len(self._probes) + self._probes_done < self.settings.probes:
                return False
            return self._probe_wait_us(now_us) > 0

    def is_idle(self, now_us: int) -> bool:
        """Whether forgetting it loses nothing: closed, not forced, and no call in its window."""
        with self.lock, self.changing:
            self._book()
            self._window.expire(now_us)
            return (
                self.closed_ticket is not None and self._forced is None and self._window.calls == 0 and self._failures_in_a_row == 0
            )

    def _refusal(self, now_us: int) -> Refusal | None:
        """Open: by one comparison, with or without the lock."""
        wait_us = self.refuses_until_us - now_us
        return Refusal("open", wait_us) if wait_us > 0 else None

    # --- under the lock -----------------------------------------------------------------------------------------------------

    def _admit(self, now_us: int) -> tuple[Ticket | Refusal, list[Event]]:
        events: list[Event] = []
        if self.closed_ticket is not None:  # closed by another thread just now
            return self.closed_ticket, events
        if self._forced == "open":
            return Refusal("forced", None), events
        if self._state is BreakerState.HALF_OPEN:
            events += self._expire_probes(now_us)
        if self._state is BreakerState.OPEN:
            refusal = self._refusal(now_us)
            if refusal is not None:  # just now: its probes took too long, or another thread has opened it
                return refusal, events
            events.append(self._turn(BreakerState.HALF_OPEN, "open time over"))
        if self.closed_ticket is not None:
            return self.closed_ticket, events
        if self._holding and self.health is not None:
            self.health.reached(self._hold, now_us)
        if len(self._probes) + self._probes_done >= self.settings.probes:
            return Refusal("half_open", self._probe_wait_us(now_us)), events
        ticket = Ticket(self, now_us)
        self._probes[ticket] = now_us
        self.probed += 1
        return ticket, events

    def _settle(self, ticket: Ticket, outcome: Outcome, slow: bool, now_us: int) -> list[Event]:
        if ticket.admitted_us is not None:
            return self._settle_probe(ticket, outcome, slow, now_us)
        self._book()
        self.admitted += 1
        self._booked += 1
        if ticket is not self.closed_ticket or outcome is Outcome.IGNORED:
            self._row_ends += self._row_ends == self.admitted - 1  # it does not end a row
            return []
        return self._vote(outcome is Outcome.FAILED, slow, now_us)

    def _book(self) -> None:
        """Let the window know of the successes that `settle` has only counted."""
        if self._booked != self.admitted:
            self._window.add_successes(self.admitted - self._booked)
            self._booked = self.admitted

    def _start_afresh(self) -> None:
        self._booked = self.admitted
        self._window.clear()
        self._in_a_row = 0

    def _vote(self, failed: bool, slow: bool, now_us: int) -> list[Event]:
        self._window.add(now_us, failed, slow)
        if failed:
            self._in_a_row = self._in_a_row + 1 if self._row_ends == self.admitted - 1 else 1
            self._row_ends = self.admitted
        return self._judge(now_us)

    @property
    def _failures_in_a_row(self) -> int:
        """A success ends a row by being counted, and needs to do no more for it."""
        return self._in_a_row if self._row_ends == self.admitted else 0

    def _judge(self, now_us: int) -> list[Event]:
        """Open where the calls in the window call for it."""
        window, settings = self._window, self.settings
        if self._forced == "closed":
            return []
        if settings.consecutive_failures is not None and self._failures_in_a_row >= settings.consecutive_failures:
            return self._open(now_us, f"{self._in_a_row} failures in a row", now_us)
        if window.calls < settings.min_calls:
            return []
        if window.failures and window.failures * _SHARE >= self._failure_share * window.calls:
            return self._open(now_us, f"{window.failures} of {window.calls} calls failed", now_us)
        if window.slow_calls and settings.slow_call_s is not None and window.slow_calls * _SHARE >= self._slow_share * window.calls:
            return self._open(now_us, f"{window.slow_calls} of {window.calls} calls were slow", now_us)
        return []

    def _settle_probe(self, ticket: Ticket, outcome: Outcome, slow: bool, now_us: int) -> list[Event]:
        events = self._expire_probes(now_us)  # this one too, when it took too long
        if self._probes.pop(ticket, None) is None:
            return events
        if outcome is not Outcome.IGNORED:  # else its place is free; after a reload to fewer probes the others may be enough
            self._count_probe(outcome is Outcome.FAILED, slow)
        return events + self._decide(now_us, now_us)

    def _count_probe(self, failed: bool, slow: bool) -> None:
        self._probes_done += 1
        self._probes_failed += failed
        self._probes_slow += slow

    def _decide(self, settled_us: int, now_us: int) -> list[Event]:
        """Close or reopen when all probes have settled, the last of them at `settled_us`."""
        if self._probes or self._probes_done < self.settings.probes:
            return []
        failed, slow, done = self._probes_failed, self._probes_slow, self._probes_done
        if failed * _SHARE >= self._failure_share * done:
            self._failed_recoveries += 1
            return self._open(settled_us, f"{failed} of {done} probes failed", now_us)
        if slow and slow * _SHARE >= self._slow_share * done:
            self._failed_recoveries += 1
            return self._open(settled_us, f"{slow} of {done} probes were slow", now_us)
        return self._close(now_us, f"{done - failed} of {done} probes succeeded")

    def _expire_probes(self, now_us: int) -> list[Event]:
        """Count the probes that have taken too long as failed, each at the instant its time was over."""
        limit_us = self._half_open_us()
        settled_us = 0
        for ticket, admitted_us in list(self._probes.items()):
            if now_us - admitted_us >= limit_us:
                del self._probes[ticket]
                self._count_probe(failed=True, slow=False)
                settled_us = max(settled_us, admitted_us + limit_us)
        return self._decide(settled_us, now_us) if settled_us else []

    def _half_open_us(self) -> int:
        settings = self.settings
        return to_us(settings.open_for_s if settings.half_open_for_s is None else settings.half_open_for_s)

    def _probe_wait_us(self, now_us: int) -> int:
        """Until the oldest probe must have settled: by then the breaker has closed, or is open and says how long.

        There is one in flight: where the last has settled, and where `probes` is lowered, it is decided at once.
        """
        return min(self._probes.values()) + self._half_open_us() - now_us

    def _open(self, since_us: int, reason: str, now_us: int) -> list[Event]:
        """Open since an instant that may have passed unnoticed; the signal hears of it now, and never of the past."""
        settings = self.settings
        grown_s = settings.open_for_s * settings.open_growth ** min(self._failed_recoveries, _MOST_GROWTHS)
        open_s = min(grown_s, max(settings.open_max_s, settings.open_for_s))
        open_s *= 1.0 - _LARGEST_JITTER * self._uniform()  # earlier, never later: a fleet must not probe in step
        self._open_until_us = since_us + to_us(open_s)
        if settings.shadow:
            reason += "; in shadow: it refuses nothing"
        events: list[Event] = [self._turn(BreakerState.OPEN, reason)]
        return events + self._hold_anew(now_us)

    def _close(self, now_us: int, reason: str) -> list[Event]:
        self._failed_recoveries = 0
        self._start_afresh()
        events: list[Event] = [self._turn(BreakerState.CLOSED, reason)]
        return events + self._mark_health(now_us)

    def _force(self, state: str | None, now_us: int) -> list[Event]:
        if state == self._forced:
            return []
        self._forced = state
        if state != "open":
            return self._close(now_us, "forced closed" if state else "no longer forced")
        self._open_until_us = now_us
        events: list[Event] = [self._turn(BreakerState.OPEN, "forced open")]
        return events + self._hold_anew(now_us)

    def _turn(self, state: BreakerState, reason: str) -> Event:
        old, self._state = self._state, state
        self._generation += 1
        self._probes.clear()
        self._probes_done = self._probes_failed = self._probes_slow = 0
        self.closed_ticket = Ticket(self) if state is BreakerState.CLOSED else None
        self.refuses_until_us = self._open_until_us if state is BreakerState.OPEN and self._forced is None else 0
        return BreakerChanged(self.name, self.key, old.value, state.value, self._generation, reason)

    def _mark_health(self, now_us: int) -> list[Event]:
        """Bring this breaker's hold on the signal in line with its state."""
        if self._state is BreakerState.CLOSED or self.settings.shadow or self.health is None:
            return self._let_go(now_us)
        if self._holding:
            return []
        self._holding = True
        return self.health.opened(self._hold, now_us, None if self._forced == "open" else self._open_until_us)

    def _hold_anew(self, now_us: int) -> list[Event]:
        """A failed probe holds the signal from the end of the new open time, a forced breaker for ever; in shadow it lets go."""
        if not self.settings.shadow:
            self._holding = False
        return self._mark_health(now_us)

    def _leave_for(self, health: HealthSignal | None, now_us: int) -> list[Event]:
        """Write another signal from now on: this is a closing on the old one; `_mark_health` makes it an opening on the new."""
        if health is self.health:
            return []
        events = self._let_go(now_us)
        self.health = health
        return events

    def _let_go(self, now_us: int) -> list[Event]:
        if not self._holding or self.health is None:
            return []
        self._holding = False
        return self.health.closed(self._hold, now_us)

    def decisions(self) -> dict[Decision, int]:
        """How often each decision was made."""
        return {
            Decision.ADMITTED: self.admitted,
            Decision.REJECTED: self.rejected,
            Decision.PROBE: self.probed,
            Decision.WOULD_REJECT: self.would_reject,
        }

    def status(self, now_us: int) -> dict[str, object]:
        """What an operator wants to see."""
        return {
            "state": self._state.value,
            "forced": self._forced,
            "generation": self._generation,
            "failure_rate": self.failure_rate(now_us),
            "opens_for_s": max(0, self._open_until_us - now_us) / US_PER_S if self._state is BreakerState.OPEN else 0.0,
        }
