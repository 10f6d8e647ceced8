"""The state machine of one circuit breaker, under one lock. It outlives changes of settings.

Every admission carries a ticket of the generation that issued it; a ticket of an older generation votes on nothing. While closed
all calls share one ticket, so that admitting is a single read; each probe of a half-open breaker has its own.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final

from resilience.call import Outcome
from resilience.clock import US_PER_S, to_us
from resilience.events import BreakerChanged, Event, emit
from resilience.health import HealthSignal, Hold
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.breaker.window import CountWindow, TimeWindow, Window

_SHARE: Final = 1_000_000_000
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
    """An admission by one machine in one generation. `admitted_us` is when a probe was let through, None while closed."""

    __slots__ = ("admitted_us", "generation", "machine")

    def __init__(self, machine: Machine, generation: int, admitted_us: int | None = None) -> None:
        self.machine = machine
        self.generation = generation
        self.admitted_us = admitted_us


class Refusal:
    """Why a machine let nobody through, and for how long it will not."""

    __slots__ = ("reason", "retry_after_us")

    def __init__(self, reason: str, retry_after_us: int | None) -> None:
        self.reason = reason
        self.retry_after_us = retry_after_us


class Machine:
    """One breaker's state. `admit` and `settle` are its whole life; each returns or applies a decision under the lock."""

    def __init__(
        self,
        policy: str,
        settings: CircuitBreakerSettings,
        health: HealthSignal | None,
        *,
        key: str | None = None,
        uniform: Uniform = random.random,
    ) -> None:
        self.policy = policy
        self.key = key
        self.health = health
        self.lock = threading.Lock()
        self.admitted = self.rejected = self.probed = self.would_reject = 0
        self._uniform = uniform
        self._hold = Hold()
        self._holding = False
        self._generation = 1
        self._state = BreakerState.CLOSED
        self._forced: str | None = None
        self._in_a_row = 0
        self._failed_recoveries = 0
        self._open_until_us = 0
        self._probes: dict[Ticket, int] = {}  # in flight, by the instant they were let through
        self._probes_done = self._probes_failed = self._probes_slow = 0
        self._set(settings)
        self._window = self._new_window()
        self.closed_ticket: Ticket | None = Ticket(self, self._generation)

    def _set(self, settings: CircuitBreakerSettings) -> None:
        self.settings = settings
        self._failure_share = round(settings.failure_rate * _SHARE)
        self._slow_share = round(settings.slow_call_rate * _SHARE)
        self._slow_us = None if settings.slow_call_s is None else to_us(settings.slow_call_s)

    def _new_window(self) -> Window:
        settings = self.settings
        return TimeWindow(to_us(settings.window_s)) if settings.window_calls is None else CountWindow(settings.window_calls)

    # --- the life of a call -------------------------------------------------------------------------------------------------

    def admit(self, now_us: int) -> Ticket | Refusal:
        """Let a call through, or say why not."""
        ticket = self.closed_ticket
        if ticket is not None:
            return ticket
        with self.lock:
            answer, events = self._admit(now_us)
            if isinstance(answer, Refusal):
                self.rejected += not self.settings.shadow
                self.would_reject += self.settings.shadow
        emit(events)
        return answer

    def settle(self, ticket: Ticket, outcome: Outcome, slow: bool, now_us: int) -> None:
        """Take a ticket back with how its call went. One of an older generation votes on nothing."""
        events: list[Event] = []
        with self.lock:
            if ticket is self.closed_ticket:
                self.admitted += 1
                if outcome is not Outcome.IGNORED:
                    events = self._vote(outcome is Outcome.FAILED, slow, now_us)
            elif ticket.admitted_us is None:
                self.admitted += 1
            elif self._probes.pop(ticket, None) is not None and outcome is not Outcome.IGNORED:
                events = self._count_probe(outcome is Outcome.FAILED, slow, now_us)
        if events:
            emit(events)

    def is_slow(self, duration_us: int) -> bool:
        """Whether a call that took so long to start answering is slow."""
        return self._slow_us is not None and duration_us > self._slow_us

    @property
    def measures_time(self) -> bool:
        """Whether it matters how long a call took."""
        return self._slow_us is not None

    # --- operating ----------------------------------------------------------------------------------------------------------

    def configure(self, settings: CircuitBreakerSettings, now_us: int) -> None:
        """Go by new settings: another window starts empty; state, open timer and probes stay."""
        with self.lock:
            old = self.settings
            self._set(settings)
            if (old.window_s, old.window_calls) != (settings.window_s, settings.window_calls):
                self._window = self._new_window()
            events = self._mark_health(now_us)
            if self._state is BreakerState.HALF_OPEN:
                events += self._decide(now_us)
        emit(events)

    def force(self, state: str | None, now_us: int) -> None:
        """Hold it "open" or "closed" whatever happens; None lets it go: closed, with a fresh window."""
        with self.lock:
            events = self._force(state, now_us)
        emit(events)

    def move_to(self, health: HealthSignal | None, now_us: int) -> None:
        """Write another signal: this counts as closed on the old one now, and where it is open as an opening on the new."""
        with self.lock:
            if health is self.health:
                return
            events = self._let_go(now_us)
            self.health = health
            events += self._mark_health(now_us)
        emit(events)

    def retire(self, now_us: int) -> None:
        """It is removed: a signal that it holds is let go. Calls still under way settle as before."""
        self.move_to(None, now_us)

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
        with self.lock:
            self._window.expire(now_us)
            return self._window.failures / self._window.calls if self._window.calls else 0.0

    def is_idle(self, now_us: int) -> bool:
        """Whether forgetting it loses nothing: closed, not forced, and no call in its window."""
        with self.lock:
            self._window.expire(now_us)
            return self.closed_ticket is not None and self._forced is None and self._window.calls == 0 and self._in_a_row == 0

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
            if now_us < self._open_until_us:
                return Refusal("open", self._open_until_us - now_us), events
            events.append(self._turn(BreakerState.HALF_OPEN, "open time over"))
        if self.closed_ticket is not None:
            return self.closed_ticket, events
        if self._holding and self.health is not None:
            self.health.reached(self._hold, now_us)
        if len(self._probes) + self._probes_done >= self.settings.probes:
            return Refusal("half_open", self._probe_wait_us(now_us)), events
        ticket = Ticket(self, self._generation, now_us)
        self._probes[ticket] = now_us
        self.probed += 1
        return ticket, events

    def _vote(self, failed: bool, slow: bool, now_us: int) -> list[Event]:
        window, settings = self._window, self.settings
        window.add(now_us, failed, slow)
        if self._forced == "closed":
            return []
        if failed:
            self._in_a_row += 1
            if self._in_a_row == settings.consecutive_failures:
                return self._open(now_us, f"{self._in_a_row} failures in a row")
        else:
            self._in_a_row = 0
        if window.calls < settings.min_calls:
            return []
        if window.failures and window.failures * _SHARE >= self._failure_share * window.calls:
            return self._open(now_us, f"{window.failures} of {window.calls} calls failed")
        if window.slow_calls and self._slow_us is not None and window.slow_calls * _SHARE >= self._slow_share * window.calls:
            return self._open(now_us, f"{window.slow_calls} of {window.calls} calls were slow")
        return []

    def _count_probe(self, failed: bool, slow: bool, now_us: int) -> list[Event]:
        self._probes_done += 1
        self._probes_failed += failed
        self._probes_slow += slow
        return self._decide(now_us)

    def _decide(self, now_us: int) -> list[Event]:
        if self._probes or self._probes_done < self.settings.probes:
            return []
        failed, slow, done = self._probes_failed, self._probes_slow, self._probes_done
        if failed * _SHARE >= self._failure_share * done:
            self._failed_recoveries += 1
            return self._open(now_us, f"{failed} of {done} probes failed")
        if slow and slow * _SHARE >= self._slow_share * done:
            self._failed_recoveries += 1
            return self._open(now_us, f"{slow} of {done} probes were slow")
        return self._close(now_us, f"{done - failed} of {done} probes succeeded")

    def _expire_probes(self, now_us: int) -> list[Event]:
        limit_us = self._half_open_us()
        events: list[Event] = []
        for ticket, admitted_us in list(self._probes.items()):
            if now_us - admitted_us >= limit_us:
                del self._probes[ticket]
                events += self._count_probe(failed=True, slow=False, now_us=admitted_us + limit_us)
        return events

    def _half_open_us(self) -> int:
        settings = self.settings
        return to_us(settings.open_for_s if settings.half_open_for_s is None else settings.half_open_for_s)

    def _probe_wait_us(self, now_us: int) -> int:
        """Until the oldest probe must have settled: by then the breaker has closed, or is open and says how long."""
        oldest_us = min(self._probes.values(), default=now_us)
        return max(1, oldest_us + self._half_open_us() - now_us)

    def _open(self, now_us: int, reason: str) -> list[Event]:
        settings = self.settings
        grown_s = settings.open_for_s * settings.open_growth ** min(self._failed_recoveries, _MOST_GROWTHS)
        open_s = min(grown_s, max(settings.open_max_s, settings.open_for_s))
        open_s *= 1.0 - _LARGEST_JITTER * self._uniform()  # earlier, never later: a fleet must not probe in step
        self._open_until_us = now_us + to_us(open_s)
        events: list[Event] = [self._turn(BreakerState.OPEN, reason)]
        self._holding = False  # a failed probe holds the signal anew, from the end of the new open time
        return events + self._mark_health(now_us)

    def _close(self, now_us: int, reason: str) -> list[Event]:
        self._failed_recoveries = 0
        self._in_a_row = 0
        self._window.clear()
        events: list[Event] = [self._turn(BreakerState.CLOSED, reason)]
        return events + self._mark_health(now_us)

    def _force(self, state: str | None, now_us: int) -> list[Event]:
        if state == self._forced:
            return []
        self._forced = state
        if state != "open":
            return self._close(now_us, "forced closed" if state else "no longer forced")
        self._open_until_us = now_us
        self._holding = False
        events: list[Event] = [self._turn(BreakerState.OPEN, "forced open")]
        return events + self._mark_health(now_us)

    def _turn(self, state: BreakerState, reason: str) -> Event:
        old, self._state = self._state, state
        self._generation += 1
        self._probes.clear()
        self._probes_done = self._probes_failed = self._probes_slow = 0
        self.closed_ticket = Ticket(self, self._generation) if state is BreakerState.CLOSED else None
        return BreakerChanged(self.policy, self.key, old.value, state.value, self._generation, reason)

    def _mark_health(self, now_us: int) -> list[Event]:
        """Bring this breaker's hold on the signal in line with its state."""
        writes = self.health is not None and not self.settings.shadow and self._forced != "closed"
        if self._state is BreakerState.CLOSED or not writes or self.health is None:
            return self._let_go(now_us)
        if self._holding:
            return []
        self._holding = True
        return self.health.opened(self._hold, now_us, None if self._forced == "open" else self._open_until_us)

    def _let_go(self, now_us: int) -> list[Event]:
        if not self._holding or self.health is None:
            return []
        self._holding = False
        return self.health.closed(self._hold, now_us)

    def status(self, now_us: int) -> dict[str, object]:
        """What an operator wants to see."""
        return {
            "state": self._state.value,
            "forced": self._forced,
            "generation": self._generation,
            "failure_rate": self.failure_rate(now_us),
            "opens_for_s": max(0, self._open_until_us - now_us) / US_PER_S if self._state is BreakerState.OPEN else 0.0,
        }
