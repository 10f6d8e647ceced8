"""Whether a store is asked at all: a circuit breaker of ours in front of it, which the store's own thread probes.

Two trips in a row without an answer open it. From then on decisions cost nothing and wait for nothing; every half second the
store's thread, never a call, tries one trip, and one answer closes it.
"""

from __future__ import annotations

from typing import Final

from resilience.call import Outcome
from resilience.clock import Clock
from resilience.events import StoreChanged, emit, untold
from resilience.layers.breaker.machine import BreakerState, Machine, Refusal, Ticket
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.limiter.questions import Away

_SETTINGS: Final = CircuitBreakerSettings(
    failure_rate=1.0,
    window_s=10.0,
    min_calls=1_000_000,
    consecutive_failures=2,
    open_for_s=0.5,
    probes=1,
    half_open_for_s=5.0,
)
RETRY_US: Final = 500_000


class StoreBreaker:
    """The breaker of one store in one process."""

    def __init__(self, store: str, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._machine = Machine(f"{store} store", _SETTINGS, None)
        self.whose = ""  # which of several servers
        self.reason = ""
        self.failures = 0
        self._is_clean = True

    @property
    def is_closed(self) -> bool:
        """Whether the store may be asked. One read, without a lock."""
        return self._machine.closed_ticket is not None

    @property
    def state(self) -> str:
        """closed, open or half_open."""
        return self._machine.state.value

    def admit(self) -> Ticket | None:
        """A ticket for a trip of a call, or None where there must be none."""
        return self._machine.closed_ticket

    def admit_probe(self) -> Ticket | None:
        """A ticket for a trip of the store's own thread: the one probe, once it is time for it."""
        with untold():
            answer = self._machine.admit(self._clock.now_us(), shadow=False)
        return None if isinstance(answer, Refusal) else answer

    def settle(self, ticket: Ticket, trouble: str | None) -> None:
        """A trip has ended; `trouble` says what was wrong with it, None that there was an answer."""
        if trouble is None and self._is_clean and ticket is self._machine.closed_ticket:  # nearly always
            return
        self._is_clean = trouble is None
        was = self._machine.state
        if trouble is not None:
            self.reason = self.whose + trouble
            self.failures += 1
        with untold():
            self._machine.settle(ticket, Outcome.OK if trouble is None else Outcome.FAILED, None, self._clock.now_us())
        now = self._machine.state
        if was is BreakerState.CLOSED and now is BreakerState.OPEN:
            emit([StoreChanged(self._store, False, self.reason)])
        elif was is not BreakerState.CLOSED and now is BreakerState.CLOSED:
            emit([StoreChanged(self._store, True, f"{self.whose}it answers again")])

    def ignore(self, ticket: Ticket) -> None:
        """A trip has ended that says nothing of the store."""
        with untold():
            self._machine.settle(ticket, Outcome.IGNORED, None, self._clock.now_us())

    def away(self, reason: str = "") -> Away:
        """The answer in the place of one."""
        return Away(reason or self.reason or "the store is away", RETRY_US)

    def renew_locks(self) -> None:
        """In a forked child: another thread of the parent may have held it."""
        self._machine = Machine(f"{self._store} store", _SETTINGS, None)
