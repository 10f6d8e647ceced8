"""The arithmetic of a bucket that many processes share. The Redis script does the same, number for number.

A store keeps buckets, not limits: what a limit allows travels with each question as a `Pace`, and the pace of the last question
stays with the bucket, so that it can be refilled over a stretch in which nobody asked. Units are millionths of a token: a limit of
R tokens a second issues R units a microsecond. Every number and every product stays below 2^53, since numbers of Redis scripts are
doubles.
"""

from __future__ import annotations

import hashlib
import math
import struct
from fractions import Fraction
from typing import Final, NamedTuple

from resilience.health import PPB, Phase

UNIT: Final = 1_000_000
"""Units in one token."""
EXACT: Final = 1 << 53
"""Doubles are exact below this."""
NEVER: Final = -1
"""The wait for more tokens than a full bucket holds."""
CHANGES: Final = 1 << 32
"""An epoch counts changes up to here; what is above tells whose they are."""
_SIGNALS: Final = 1 << 20
_ROOM: Final = 1 << 52
_STANDS_STILL_US: Final = 1 << 51
_LEVEL: Final = struct.Struct("<3d")
_STEADY: Final = struct.Struct("<4d")
_CHANGING: Final = struct.Struct("<11d")
_LONGEST_TTL_MS: Final = 10**14


class Pace(NamedTuple):
    """What a limit allows, as its health factor moves: `numerator / denominator` units a microsecond, and `capacity` units at most.

    epoch: counts the changes of the factor that the fleet has agreed on, see `epoch_of`; where two askers differ, the newer one is
        right. 0: no fleet has a part in it, and each asker goes by what it asks with, as do those who follow different signals.
    start_us, every_us, steps: from `start_us` on, by the store's clock, both grow in so many steps, each after `every_us`.
    first, rise, least, growth: numerator and capacity at the start, and what each step adds to them. `steps` 0: none of it matters.
    """

    epoch: int
    numerator: int
    denominator: int
    capacity: int
    start_us: int = 0
    every_us: int = 0
    steps: int = 0
    first: int = 0
    rise: int = 0
    least: int = 0
    growth: int = 0

    def at(self, step: int) -> tuple[int, int]:
        """Numerator and capacity after so many steps."""
        if step >= self.steps:
            return self.numerator, self.capacity
        return self.first + self.rise * step, max(UNIT, self.least + self.growth * step)

    def step_at(self, now_us: int) -> int:
        """How many steps have passed at an instant."""
        return max(0, now_us - self.start_us) // self.every_us if self.steps else 0

    def pack(self) -> bytes:
        """As stores keep it: little-endian doubles, four while the factor is 1 and eleven else."""
        return _CHANGING.pack(*self) if self.steps else _STEADY.pack(*self[:4])

    @classmethod
    def unpack(cls, packed: bytes) -> Pace:
        """What `pack` made."""
        form = _STEADY if len(packed) == _STEADY.size else _CHANGING
        return cls(*map(int, form.unpack(packed)))


class Bucket(NamedTuple):
    """A bucket as a store keeps it: `units` in it at `at_us` by the store's clock, `rest` of a unit, and the pace it went by.

    Below 0 units others wait for what will come. `rest` counts parts of a unit of which `pace.denominator` make a whole.
    """

    units: int
    rest: int
    at_us: int
    pace: Pace

    def pack(self) -> bytes:
        """As stores keep it."""
        return _LEVEL.pack(self.units, self.rest, self.at_us) + self.pace.pack()

    @classmethod
    def unpack(cls, packed: bytes) -> Bucket:
        """What `pack` made."""
        units, rest, at_us = map(int, _LEVEL.unpack_from(packed))
        return cls(units, rest, at_us, Pace.unpack(packed[_LEVEL.size :]))


class Decided(NamedTuple):
    """What became of a question: so many whole tokens were `taken`, and are there after `wait_us`.

    Nothing taken and a wait of 0: it only looked. Nothing taken and a wait: refused. `units` are left; `is_cut` says whether health
    takes a part of the rate.
    """

    taken: int
    wait_us: int
    units: int
    is_cut: bool


def epoch_of(signal: str, changes: int) -> int:
    """The epoch of a fleet's signal that has changed so often: counts of different signals say nothing of which is newer.

    Of the signal `default` it is the count itself. Two names are taken for one with a chance of one in a million.
    """
    if changes == 0 or signal == "default":
        return min(changes, CHANGES - 1)
    digest = hashlib.blake2b(signal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (1 + int.from_bytes(digest, "little") % (_SIGNALS - 1)) * CHANGES + min(changes, CHANGES - 1)


def pace_of(rate_per_s: Fraction, burst: int, epoch: int, phase: Phase | None = None, start_us: int = 0) -> Pace:
    """The pace of a limit while its signal is in `phase`, which began at `start_us` by the store's clock.

    A ratio too fine for doubles is rounded down: a limit never gets more than its rate.
    """
    if phase is None or (phase.factor_ppb >= PPB and not phase.step_ppb):
        denominator = rate_per_s.denominator if _fits(rate_per_s, rate_per_s.denominator) else _coarse(rate_per_s)
        return Pace(epoch, _floor(rate_per_s, denominator), denominator, burst * UNIT)
    first, rise = rate_per_s * phase.factor_ppb / PPB, rate_per_s * phase.step_ppb / PPB
    denominator = math.lcm(rate_per_s.denominator, first.denominator, rise.denominator)
    if not _fits(rate_per_s, denominator):
        denominator = _coarse(rate_per_s)
    steps, every_us = (-(-(PPB - phase.factor_ppb) // phase.step_ppb), phase.every_us) if phase.step_ppb else (1, _STANDS_STILL_US)
    return Pace(
        epoch,
        _floor(rate_per_s, denominator),
        denominator,
        burst * UNIT,
        start_us,
        every_us,
        steps,
        _floor(first, denominator),
        int(rise * denominator),
        burst * phase.factor_ppb * UNIT // PPB,
        burst * phase.step_ppb * UNIT // PPB,
    )


def _fits(rate_per_s: Fraction, denominator: int) -> bool:
    return rate_per_s * denominator * denominator < _ROOM and denominator < _ROOM


def _coarse(rate_per_s: Fraction) -> int:
    """The largest denominator with which the products of the arithmetic stay exact."""
    return max(1, math.isqrt(_ROOM * rate_per_s.denominator // rate_per_s.numerator) - 1)


def _floor(rate: Fraction, denominator: int) -> int:
    return max(1, int(rate * denominator))


def brought(bucket: Bucket, pace: Pace, now_us: int) -> Bucket:
    """The bucket at `now_us`, refilled by the pace that it went by and, from where that starts, by the newer of the two.

    An instant of the future, left by a clock that was set back, becomes now.
    """
    units, rest, at_us, old = bucket
    if at_us > now_us:
        at_us, rest = now_us, 0
    is_one_signal = pace.epoch // CHANGES == old.epoch // CHANGES
    if is_one_signal and 0 < pace.epoch < old.epoch:
        pace = old
    if is_one_signal and pace.epoch > old.epoch:
        turn_us = min(max(pace.start_us, at_us), now_us)
        if pace.epoch == old.epoch + 1 or _is_slower(old, pace, at_us):
            units, _ = _refilled(units, rest if pace.epoch == old.epoch + 1 else 0, at_us, turn_us, old)
        else:  # what happened in between is not known: it was at least as slow as the slower of the two
            units, _ = _issued(units, 0, turn_us - at_us, *_first(pace))
        at_us, rest = turn_us, 0
    elif pace.denominator != old.denominator:
        rest = 0
    units, rest = _refilled(units, rest, at_us, now_us, pace)
    return Bucket(units, rest, now_us, pace)


def _first(pace: Pace) -> tuple[int, int, int]:
    numerator, capacity = pace.at(0)
    return numerator, pace.denominator, capacity


def _is_slower(old: Pace, pace: Pace, at_us: int) -> bool:
    return old.at(old.step_at(at_us))[0] / old.denominator <= pace.at(0)[0] / pace.denominator


def _refilled(units: int, rest: int, at_us: int, until_us: int, pace: Pace) -> tuple[int, int]:
    """What is in the bucket after a stretch of one pace, step by step. A stretch of nothing clamps it."""
    while True:
        step = pace.step_at(at_us)
        numerator, capacity = pace.at(step)
        end_us = until_us if step >= pace.steps else min(until_us, pace.start_us + (step + 1) * pace.every_us)
        units, rest = _issued(units, rest, end_us - at_us, numerator, pace.denominator, capacity)
        if end_us >= until_us:
            if step < pace.step_at(until_us):  # the step falls on the very end
                units = min(units, pace.at(step + 1)[1])
            return units, rest
        at_us = end_us


def _issued(units: int, rest: int, elapsed_us: int, numerator: int, denominator: int, capacity: int) -> tuple[int, int]:
    whole, part = divmod(elapsed_us, denominator)
    more, rest = divmod(part * numerator + rest, denominator)
    units += whole * numerator + more
    return (capacity, 0) if units >= capacity else (units, rest)


def decide(bucket: Bucket, least: int, most: int, patience_us: int) -> tuple[Bucket, Decided]:
    """Take whole tokens from a bucket that was brought up to now: as many as there are from `least` to `most`.

    If there are fewer, `least` are reserved where they come within `patience_us`. A negative `least` gives tokens back, unless an
    instant `patience_us` that is not 0 has passed.
    """
    units, rest, now_us, pace = bucket
    numerator, capacity = pace.at(pace.step_at(now_us))
    is_cut = numerator < pace.numerator
    if least < 0:
        if patience_us == 0 or now_us < patience_us:
            units = min(capacity, units - least * UNIT)
        return Bucket(units, 0 if units >= capacity else rest, now_us, pace), Decided(0, 0, units, is_cut)
    if least * UNIT > capacity:
        return bucket, Decided(0, NEVER, units, is_cut)
    if units >= least * UNIT:
        taken = min(most, units // UNIT)
        units -= taken * UNIT
        return Bucket(units, rest, now_us, pace), Decided(taken, 0, units, is_cut)
    missing = least * UNIT - units
    wait_us = min(EXACT, -((rest - missing * pace.denominator) // numerator))
    if wait_us > patience_us:
        return bucket, Decided(0, wait_us, units, is_cut)
    units -= least * UNIT
    return Bucket(units, rest, now_us, pace), Decided(least, wait_us, units, is_cut)


def ttl_ms(bucket: Bucket) -> int:
    """How long the bucket must be kept: until it is full at its present pace, whatever its health will be, and a second more.

    0: it is full, and need not be kept. One that is forgotten is read as full.
    """
    units, _, now_us, pace = bucket
    if units >= pace.capacity:
        return 0
    numerator, _ = pace.at(pace.step_at(now_us))
    return min(_LONGEST_TTL_MS, math.ceil((pace.capacity - units) * pace.denominator / numerator / 1000) + 1000)


def fresh(units: int, pace: Pace, now_us: int) -> Bucket:
    """A bucket that the store does not know: full, but for what `units` allow."""
    return Bucket(min(units, pace.at(pace.step_at(now_us))[1]), 0, now_us, pace)
