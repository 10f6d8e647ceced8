"""The token clock: how many tokens a limit has issued since it began.

A bucket is one number, the reading of this clock at which it was empty. Its level is the reading now less that number, so a new
rate, a cut or a recovery changes the clock's pace and touches no bucket: a change is O(1) for a table of any size. A bucket that
would hold more than the capacity is read as full; `floor` remembers how full "full" was when the capacity last changed.

All of it is whole numbers: microseconds, and billionths of a token. Nothing is lost to rounding between changes.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from fractions import Fraction
from typing import Final

from resilience.clock import US_PER_S
from resilience.health import NEVER_US, PPB, HealthSignal, Phase
from resilience.layers.limiter.settings import RateLimiterSettings

TOKEN: Final = PPB
"""Units in one token."""
_LATE_KEYS: Final = 4_096
"""So many are in flight at a change of settings at most. For more, buckets are read by the books of those of now: too strictly."""


class TokenClock:
    """Issues tokens at rate x factor. Not locked: its table's lock guards it.

    factor_ppb: the health factor that it goes by. rate_per_s: the effective rate, which is rate x factor. whole_per_us: the units
    that each microsecond issues, where that is a whole number, as at all rates of whole thousandths a second; else 0.
    full_from_us: from when on a full bucket holds the capacity: what a capacity has grown by is not there at once.
    """

    __slots__ = (
        "_configured_per_s",
        "_health",
        "burst",
        "capacity",
        "denominator",
        "factor_ppb",
        "floor",
        "full_from_us",
        "late",
        "numerator",
        "phase",
        "rate_per_s",
        "reading",
        "since_us",
        "until_us",
        "whole_per_us",
    )

    def __init__(self, rate_per_s: Fraction, burst: int, health: HealthSignal | None, now_us: int) -> None:
        self.since_us = now_us
        self.reading = 0
        self._set(rate_per_s, burst, PPB)
        self.floor = -self.capacity
        self.late: dict[Hashable | None, int] = {}
        self.follow_signal(health, now_us)

    # --- reading --------------------------------------------------------------------------------------------------------

    def read(self, now_us: int) -> int:
        """Units issued until `now_us`. Time that goes backwards counts as zero."""
        elapsed_us = now_us - self.since_us
        return self.reading + elapsed_us * self.numerator // self.denominator if elapsed_us > 0 else self.reading

    def full(self, reading: int) -> int:
        """The number that stands for a full bucket at `reading`."""
        return max(self.floor, reading - self.capacity)

    def wait_us(self, units: int) -> int:
        """Microseconds in which so many units are issued at the present pace, rounded up."""
        return -(-units * self.denominator // self.numerator)

    def wait_until_us(self, reading: int, now_us: int) -> int:
        """Microseconds until the clock reads `reading` at the present pace: a microsecond earlier, it does not yet."""
        return self.since_us - (self.reading - reading) * self.denominator // self.numerator - now_us

    # --- changing -------------------------------------------------------------------------------------------------------

    def goes_by(self, settings: RateLimiterSettings) -> bool:
        """Whether it has their rate and burst."""
        return settings.capacity == self.burst and settings.exact_rate_per_s == self._configured_per_s

    def hand_over(self, settings: RateLimiterSettings, now_us: int) -> TokenClock:
        """The clock that goes on by new settings: refilled at the old rate up to now, less what exceeds the new capacity.

        This one stands still from now on, for the calls that began under it. What they take is booked here as well: by the
        successor's books alone, which begin where a bucket is full by now, they would be refused what was there in their time.
        """
        successor = copy(self)
        successor.late = {}
        successor._turn(now_us, settings.exact_rate_per_s, settings.capacity, self.factor_ppb)
        self.reading = self.read(now_us)
        self.since_us = NEVER_US
        return successor

    def book_late(self, key: Hashable | None, due: int) -> None:
        """The bucket of `key` for those who come late, of which one of them has taken."""
        if key in self.late or len(self.late) < _LATE_KEYS:
            self.late[key] = due

    def follow_signal(self, health: HealthSignal | None, now_us: int) -> None:
        """Go by another signal's factor from now on."""
        self._health = health
        self.phase: Phase | None = None
        self.until_us = NEVER_US
        factor_ppb = PPB
        if health is not None:
            self.phase = health.phase
            factor_ppb = self.phase.factor_ppb_at(now_us)
            self.until_us = self.phase.next_step_us(now_us)
        self._turn(now_us, self._configured_per_s, self.burst, factor_ppb)

    def catch_up(self, now_us: int) -> None:
        """Follow every move of the factor up to `now_us`, each at its own instant. The signal was synced to `now_us` before.

        A signal that has seen a later instant, before the clock was set back, moves this one no further than to `now_us`.
        """
        health = self._health
        if health is None or self.phase is None:
            return
        for phase in health.phases_after(self.phase.number):
            start_us = min(phase.start_us, now_us)
            if phase.number == self.phase.number + 1:
                self._follow(self.phase, start_us)
            else:  # too long asleep to know what happened in between: nothing is issued for that time
                self.since_us = max(self.since_us, start_us)
            self.phase = phase
            self._turn(start_us, self._configured_per_s, self.burst, phase.factor_ppb)
        self._follow(self.phase, now_us)
        self.until_us = self.phase.next_step_us(now_us)

    def _follow(self, phase: Phase, until_us: int) -> None:
        step_us = phase.next_step_us(self.since_us)
        while step_us <= until_us:
            self._turn(step_us, self._configured_per_s, self.burst, phase.factor_ppb_at(step_us))
            step_us = phase.next_step_us(step_us)

    def _turn(self, at_us: int, rate_per_s: Fraction, burst: int, factor_ppb: int) -> None:
        self.reading = self.read(at_us)
        self.since_us = max(self.since_us, at_us)
        old_capacity = self.capacity
        self._set(rate_per_s, burst, factor_ppb)
        self.floor = max(self.floor, self.reading - min(old_capacity, self.capacity))
        self.full_from_us = self.since_us + max(0, self.wait_us(self.floor + self.capacity - self.reading))

    def _set(self, rate_per_s: Fraction, burst: int, factor_ppb: int) -> None:
        pace = rate_per_s * factor_ppb * TOKEN / PPB / US_PER_S
        self._configured_per_s = rate_per_s
        self.burst = burst
        self.factor_ppb = factor_ppb
        self.rate_per_s = float(rate_per_s * factor_ppb / PPB)  # each refusal tells it
        self.numerator, self.denominator = pace.numerator, pace.denominator
        self.whole_per_us = pace.numerator if pace.denominator == 1 else 0
        self.capacity = max(TOKEN, burst * TOKEN * factor_ppb // PPB)
