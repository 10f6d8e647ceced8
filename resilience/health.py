"""The health signal: the one shared state that breakers write, and limiters and retries read.

An incident cuts the factor once; when the last breaker has closed or let go, the factor climbs by whole steps. Everything is
computed from elapsed time when it is read: there is no timer, and nothing is accumulated.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, Clock, to_us
from resilience.events import Event, HealthChanged, emit
from resilience.registry import enrol
from resilience.settings import Kind, option, validate

PPB: Final = 1_000_000_000
"""The factor is kept in whole parts per billion, so that steps add up without drift."""
NEVER_US: Final = 1 << 62
LONG_AGO_US: Final = -NEVER_US
_PHASES_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How far an incident cuts the limiters of a signal, and how they come back."""

    cut: float = option(Kind.SHARE, "share of the rate taken away when an incident starts", default=0.7, minimum=0, maximum=0.99)
    recover: float = option(
        Kind.SHARE, "share of the configured rate given back after each full step", default=0.05, minimum=0.001, maximum=1
    )
    every_s: float = option(Kind.DURATION, "length of one step of recovery", default=60.0, minimum=0.001, maximum=86_400)
    floor: float | None = option(
        Kind.SHARE, "the factor never falls below; not set: 1 - cut", default=None, minimum=0.001, maximum=1, optional=True
    )

    def __post_init__(self) -> None:
        validate(self)

    def cut_ppb(self, factor_ppb: int) -> int:
        """The factor when an incident starts at `factor_ppb`. A floor raised since never lifts it."""
        kept = PPB - round(self.cut * PPB)
        floor = kept if self.floor is None else round(self.floor * PPB)
        return min(factor_ppb, max(floor, factor_ppb * kept // PPB))


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which the factor follows one rule: it stands still (`step_ppb` 0) or climbs by whole steps."""

    number: int
    start_us: int
    factor_ppb: int
    step_ppb: int
    every_us: int

    def factor_ppb_at(self, now_us: int) -> int:
        """The factor at an instant of this phase."""
        steps = max(0, now_us - self.start_us) // self.every_us
        return min(PPB, self.factor_ppb + self.step_ppb * steps)

    def next_step_us(self, now_us: int) -> int:
        """When the factor moves next if nothing else happens."""
        if self.step_ppb == 0 or self.factor_ppb_at(now_us) >= PPB:
            return NEVER_US
        return self.start_us + (max(0, now_us - self.start_us) // self.every_us + 1) * self.every_us


class Hold:
    """A breaker's hand on a signal: while it holds and is reached by calls, the factor stays down."""

    __slots__ = ("forever", "from_us")

    def __init__(self) -> None:
        self.from_us = 0
        self.forever = False

    def until_us(self, every_us: int) -> int:
        """When it lets go by itself if no call reaches its breaker."""
        return NEVER_US if self.forever else self.from_us + every_us


class Stretch:
    """A time in which nothing moves the factor: up to `until_us`, which is long ago from the moment that something does."""

    __slots__ = ("until_us",)

    def __init__(self, until_us: int) -> None:
        self.until_us = until_us


class HealthSignal:
    """Shared by the breakers that write it and the limiters and retries that read it.

    Args:
        cut: share of the rate that an incident takes away, 0 to 0.99.
        recover: share of the configured rate that comes back after each full `every_s`, 0.001 to 1.
        every_s: seconds of one step of recovery, above 0.
        floor: the factor never falls below; default 1 - `cut`.
        name: for telemetry and status.
        clock: where time comes from.

    Raises:
        ValueError: a setting is out of range.
    """

    epoch = 0
    """Counts the changes of the factor that a fleet has agreed on; 0 where the signal is this process's own."""

    def __init__(
        self,
        *,
        cut: float = 0.7,
        recover: float = 0.05,
        every_s: float = 60.0,
        floor: float | None = None,
        name: str = "default",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.clock = clock
        self.settings = HealthSettings(cut, recover, every_s, floor)
        self._lock = threading.Lock()
        self._holds: set[Hold] = set()
        self._incidents = 0
        self._every_us = to_us(every_s)
        self.phase = Phase(0, clock.now_us(), PPB, 0, self._every_us)
        self._phases = deque([self.phase], maxlen=_PHASES_KEPT)
        self.stretch = Stretch(NEVER_US)
        self._told_ppb = PPB
        enrol(self)

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def factor(self) -> float:
        """1 when well; what limiters multiply their rate with."""
        return self.factor_ppb_at(self.clock.now_us()) / PPB

    @property
    def in_incident(self) -> bool:
        """Whether a breaker holds the signal now."""
        self.sync(self.clock.now_us())
        return bool(self._holds)

    @property
    def incidents(self) -> int:
        """How many incidents have started since this signal was made."""
        return self._incidents

    def factor_ppb_at(self, now_us: int) -> int:
        """The factor at `now_us` in parts per billion."""
        phase = self.phase if now_us < self.stretch.until_us else self.sync(now_us)
        return phase.factor_ppb_at(now_us) if phase.step_ppb else phase.factor_ppb

    def sync(self, now_us: int) -> Phase:
        """Bring the signal up to `now_us` and return the phase in force. Costs one comparison while nothing is due."""
        if now_us >= self.stretch.until_us:
            with self._lock:
                events = self._advance(now_us)
            emit(events)
        return self.phase

    def phases_after(self, number: int) -> list[Phase]:
        """The phases since the one numbered `number`, oldest first; those of the distant past are forgotten."""
        with self._lock:
            return [phase for phase in self._phases if phase.number > number]

    def status(self) -> dict[str, Any]:
        """What an operator wants to see."""
        return {"factor": self.factor, "in_incident": self.in_incident, "incidents": self._incidents}

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._lock = threading.Lock()

    # --- writing: breakers call these under their own lock and emit what they return after releasing it ------------------

    def opened(self, hold: Hold, now_us: int, open_until_us: int | None) -> list[Event]:
        """A breaker has opened, or a probe of it has failed. `open_until_us` None means it is forced open."""
        with self._lock:
            events = self._advance(now_us)
            starts = not self._holds
            was_last = starts or (hold in self._holds and self._is_last(hold))
            hold.forever = open_until_us is None
            hold.from_us = now_us if open_until_us is None else max(now_us, open_until_us)
            self._holds.add(hold)
            if starts:
                self._incidents += 1
                factor_ppb = self.phase.factor_ppb_at(now_us)
                self._enter(now_us, self.settings.cut_ppb(factor_ppb), climbing=False)
            if was_last:
                self._begin_stretch(now_us)
            return events + self._tell("incident", now_us)

    def closed(self, hold: Hold, now_us: int) -> list[Event]:
        """A breaker has closed, is removed, or stops writing this signal."""
        with self._lock:
            events = self._advance(now_us)
            if hold in self._holds:
                self._holds.remove(hold)
                if all(other.until_us(self._every_us) <= now_us for other in self._holds):
                    self._holds.clear()
                    self._enter(now_us, self.phase.factor_ppb, climbing=True)
                if not self._holds or self._is_last(hold):
                    self._begin_stretch(now_us)
            return events

    def reached(self, hold: Hold, now_us: int) -> None:
        """A call has come to a breaker whose open time is over. A breaker that has let go is not taken back by this."""
        if hold.from_us < now_us < hold.until_us(self._every_us):
            hold.from_us = now_us

    def configure(self, settings: HealthSettings, now_us: int | None = None) -> None:
        """Follow new settings: the factor reached is the new start, a new cut and floor apply from the next incident."""
        now_us = self.clock.now_us() if now_us is None else now_us
        with self._lock:
            events = self._advance(now_us)
            if settings != self.settings:
                self.settings = settings
                self._every_us = to_us(settings.every_s)
                self._enter(now_us, self.phase.factor_ppb_at(now_us), climbing=not self._holds)
                self._begin_stretch(now_us)
        emit(events)

    # --- under the lock ----------------------------------------------------------------------------------------------------

    def _advance(self, now_us: int) -> list[Event]:
        """Let go of the signal when no breaker has been reached for long enough, and note steps of recovery."""
        if self._holds:
            if now_us < self.stretch.until_us:
                return []  # at the soonest then: with a thousand breakers open, each change must not ask them all
            until_us = max(hold.until_us(self._every_us) for hold in self._holds)
            if until_us <= now_us:
                self._holds.clear()
                self._enter(until_us, self.phase.factor_ppb, climbing=True)
        self._begin_stretch(now_us)
        return self._tell("recovery", now_us)

    def _is_last(self, hold: Hold) -> bool:
        """Whether no other hold is known to last longer: the instant of the next look at all of them depends on this one."""
        return hold.until_us(self._every_us) >= self.stretch.until_us

    def _enter(self, start_us: int, factor_ppb: int, *, climbing: bool) -> None:
        step_ppb = round(self.settings.recover * PPB) if climbing and factor_ppb < PPB else 0
        start_us = max(start_us, self.phase.start_us)
        self.phase = Phase(self.phase.number + 1, start_us, factor_ppb, step_ppb, self._every_us)
        self._phases.append(self.phase)

    def _begin_stretch(self, now_us: int) -> None:
        ended, self.stretch = self.stretch, Stretch(self._next_check_us(now_us))
        ended.until_us = LONG_AGO_US

    def _next_check_us(self, now_us: int) -> int:
        if self._holds:
            return max(hold.until_us(self._every_us) for hold in self._holds)
        return self.phase.next_step_us(now_us)

    def _tell(self, reason: str, now_us: int) -> list[Event]:
        factor_ppb, old_ppb = self.phase.factor_ppb_at(now_us), self._told_ppb
        if factor_ppb == old_ppb or (factor_ppb < old_ppb and reason == "recovery"):  # a thread that is late tells no news
            return []
        self._told_ppb = factor_ppb
        return [HealthChanged(self.name, old_ppb / PPB, factor_ppb / PPB, reason)]

    def __repr__(self) -> str:
        return f"HealthSignal({self.name!r}, factor={self.factor:g})"
