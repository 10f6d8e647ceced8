"""What every store of buckets must do, whatever it keeps them in. A test module subclasses these with a `store` fixture of its own.

`ask` puts one question at an instant of the test's own making, so a store is run with its clock in the test's hands.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from resilience.health import Phase
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import UNIT, Bucket, Decided, Pace, brought, decide, epoch_of, fresh, pace_of, ttl_ms
from tests.core.helpers import vectors

Ask = Callable[[Take, int], Decided]
"""Puts a question to the store at an instant in microseconds."""
START_US = 1_800_000_000_000_000


class ReferenceStore:
    """The arithmetic over a dictionary: what every store must agree with."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None], Bucket] = {}

    def ask(self, question: Take, now_us: int) -> Decided:
        """One question at an instant."""
        name = question.limit, question.key
        bucket = self._kept.pop(name, None) or fresh(question.fresh_units, question.pace, now_us)
        bucket = brought(bucket, question.pace, now_us)
        bucket, decided = decide(bucket, question.least, question.most, question.patience_us)
        if ttl_ms(bucket):  # a full one is forgotten, no other: the clock that it would be forgotten by is not the test's
            self._kept[name] = bucket
        return decided


def take(pace: Pace, cost: int = 1, *, most: int | None = None, patience_us: int = 0, key: str | None = None) -> Take:
    """A question about one bucket that is full when the store does not know it."""
    question = Take("limit", key, pace, pace.at(0)[1] if pace.steps else pace.capacity, cost, patience_us)
    question.most = cost if most is None else most
    return question


class BucketConformance:
    """Subclasses give a fixture `ask`.

    keeps_refusals: whether a bucket is written when a question is refused too. Otherwise a stretch before a change of its pace may
    be refilled by the pace after it, where askers go by paces of their own.
    """

    keeps_refusals = True

    def test_the_outside_table_of_token_buckets(self, ask: Ask) -> None:
        table = vectors("token_bucket_redis_cell")
        pace = pace_of(Fraction(1) / Fraction(str(table["emission_s"])), table["limit"], 0)
        for row in table["rows"]:
            values = dict(zip(table["columns"], row, strict=True))
            decided = ask(take(pace, values["cost"]), START_US + round(values["t"] * 1_000_000))
            is_limited = decided.wait_us != 0
            assert is_limited == values["limited"], row
            assert decided.units // UNIT == values["remaining"], row
            if is_limited:
                retry_s = -1 if decided.wait_us < 0 else -(-decided.wait_us // 1_000_000)
                assert retry_s == values["retry_after"], row

    def test_the_wait_is_exact(self, ask: Ask) -> None:
        pace = pace_of(Fraction(7, 3600), 1, 0)
        assert ask(take(pace), START_US).taken == 1
        wait_us = ask(take(pace), START_US).wait_us
        assert wait_us == -(-3600 * 1_000_000 // 7)
        assert ask(take(pace), START_US + wait_us - 1).wait_us == 1
        assert ask(take(pace), START_US + wait_us).taken == 1

    def test_many_looks_lose_nothing(self, ask: Ask) -> None:
        pace = pace_of(Fraction(1, 3), 2, 0)
        assert ask(take(pace, 2), START_US).taken == 2
        for step in range(1, 300):
            ask(take(pace, 1), START_US + step * 9_999)
        assert ask(take(pace, 1), START_US + 3_000_000).taken == 1

    def test_a_cost_above_the_bucket_is_never_there(self, ask: Ask) -> None:
        assert ask(take(pace_of(Fraction(10), 5, 0), 6), START_US) == Decided(0, -1, 5 * UNIT, False)

    def test_cost_zero_looks(self, ask: Ask) -> None:
        pace = pace_of(Fraction(10), 5, 0)
        assert ask(take(pace, 0), START_US) == Decided(0, 0, 5 * UNIT, False)

    def test_as_many_as_there_are(self, ask: Ask) -> None:
        pace = pace_of(Fraction(10), 5, 0)
        assert ask(take(pace, 1, most=3), START_US).taken == 3
        assert ask(take(pace, 1, most=3), START_US).taken == 2
        assert ask(take(pace, 1, most=3), START_US).taken == 0

    def test_first_come_first_served(self, ask: Ask) -> None:
        pace = pace_of(Fraction(10), 1, 0)
        assert ask(take(pace), START_US).taken == 1
        waits = [ask(take(pace, patience_us=250_000), START_US).wait_us for _ in range(3)]
        assert waits == [100_000, 200_000, 300_000]
        assert ask(take(pace, -1, patience_us=START_US + 200_000), START_US + 1).units == -1 * UNIT + 10
        assert ask(take(pace, -1, patience_us=START_US), START_US + 2).units == -1 * UNIT + 20, "too late to give back"

    def test_what_is_given_back_never_overfills(self, ask: Ask) -> None:
        pace = pace_of(Fraction(10), 5, 0)
        assert ask(take(pace, 3), START_US).taken == 3
        assert ask(take(pace, -3), START_US + 100_000).units == 5 * UNIT

    def test_keys_have_buckets_of_their_own(self, ask: Ask) -> None:
        pace = pace_of(Fraction(1), 1, 0)
        assert [ask(take(pace, key=key), START_US).taken for key in ("a", "b", "a", None)] == [1, 1, 0, 1]

    def test_a_clock_that_is_set_back_counts_as_no_time_and_forward_again_as_little(self, ask: Ask) -> None:
        pace, hour_us = pace_of(Fraction(10), 10, 0), 3_600_000_000
        assert ask(take(pace, 10), START_US).taken == 10
        assert ask(take(pace, 1), START_US - hour_us).taken == 0
        assert ask(take(pace, 1), START_US - hour_us + 100_000).taken == 1, "admits again at its rate"
        assert ask(take(pace, 10), START_US + hour_us).taken == 10
        assert ask(take(pace, 1), START_US).taken == 0
        assert ask(take(pace, 10), START_US + 1_000_000).taken == 10, "full again after one burst's time"

    def test_new_settings_fill_no_bucket(self, ask: Ask) -> None:
        assert ask(take(pace_of(Fraction(10), 10, 0), 10), START_US).taken == 10
        larger = pace_of(Fraction(10), 1_000, 0)
        assert ask(take(larger, 1), START_US).taken == 0
        assert ask(take(larger, 10), START_US + 1_000_000).taken == 10
        smaller = pace_of(Fraction(10), 3, 0)
        assert ask(take(smaller, 0), START_US + 9_000_000).units == 3 * UNIT

    def test_a_cut_is_followed_from_its_instant(self, ask: Ask) -> None:
        well = pace_of(Fraction(10), 100, 1)
        cut = pace_of(Fraction(10), 100, 2, Phase(1, 0, 300_000_000, 0, 60_000_000), START_US + 5_000_000)
        assert ask(take(well, 100), START_US).taken == 100
        at_us = START_US + 10_000_000
        assert ask(take(cut, 1, most=1_000), at_us) == Decided(30, 0, 0, True), "50 before it and 15 after, clamped to 30"
        late = ask(take(well, 1, most=1_000), at_us + 1_000_000)
        assert late == Decided(3, 0, 0, True), "whoever has not heard of the cut is decided by it"

    def test_what_no_fleet_has_a_part_in_goes_by_what_it_is_asked_with(self, ask: Ask) -> None:
        cut = pace_of(Fraction(10), 100, 7, Phase(1, 0, 300_000_000, 0, 60_000_000), START_US)
        alone = pace_of(Fraction(20), 200, 0)
        assert ask(take(cut, 1, most=1_000), START_US) == Decided(30, 0, 0, True)
        assert ask(take(alone, 1, most=1_000), START_US + 1_000_000) == Decided(20, 0, 0, False), (
            "its health is no longer the fleet's"
        )
        assert ask(take(cut, 1, most=1_000), START_US + 2_000_000).is_cut, "another process may not know that yet"

    def test_counts_of_different_signals_are_not_compared(self, ask: Ask) -> None:
        """A limiter that is moved to a signal with fewer changes goes by that one at once, and by its own count from then on."""
        cut = pace_of(Fraction(10), 100, 7, Phase(1, 0, 300_000_000, 0, 60_000_000), START_US)
        well = pace_of(Fraction(10), 100, epoch_of("vip", 1))
        worse = pace_of(Fraction(10), 100, epoch_of("vip", 2), Phase(1, 0, 500_000_000, 0, 60_000_000), START_US)
        assert ask(take(cut, 1, most=1_000), START_US) == Decided(30, 0, 0, True)
        assert ask(take(well, 1, most=1_000), START_US + 1_000_000) == Decided(10, 0, 0, False)
        assert ask(take(worse, 1, most=1_000), START_US + 2_000_000) == Decided(5, 0, 0, True)
        assert ask(take(well, 1, most=1_000), START_US + 3_000_000) == Decided(5, 0, 0, True), (
            "of two views of one signal the newer"
        )
        assert ask(take(cut, 1, most=1_000), START_US + 4_000_000) == Decided(3, 0, 0, True), "whoever has not moved yet"
        assert ask(take(worse, 1, most=1_000), START_US + 5_000_000) == Decided(5, 0, 0, True)

    def test_recovery_climbs_by_steps(self, ask: Ask) -> None:
        climbing = Phase(1, 0, 300_000_000, 50_000_000, 60_000_000)
        pace = pace_of(Fraction(1), 1_000, 3, climbing, START_US)
        question = take(pace, 1, most=10_000)
        question.fresh_units = 0
        ask(question, START_US)
        question.least = 0
        question.most = 0
        assert ask(question, START_US + 150_000_000).units == (18 + 21 + 12) * UNIT
        assert ask(question, START_US + 14 * 60_000_000 - 1).is_cut
        assert not ask(question, START_US + 14 * 60_000_000).is_cut

    @pytest.mark.parametrize("seed", range(40))
    def test_any_questions_are_answered_as_by_the_arithmetic(self, ask: Ask, seed: int) -> None:
        reference, dice = ReferenceStore(), random.Random(seed)
        paces = some_paces(dice)[0 if self.keeps_refusals else 2 :]
        now_us = START_US
        for _ in range(60):
            now_us += dice.choice((0, 1, 999, 10_000, 1_000_000, 61_000_000, 10**12, -500_000))
            pace = dice.choice(paces)
            cost = dice.choice((0, 1, 2, pace.capacity // UNIT, max(1, pace.capacity // UNIT // 3)))
            question = take(
                pace,
                dice.choice((cost, cost, cost, -cost)),
                most=cost * dice.choice((1, 1, 10)),
                patience_us=dice.choice((0, 0, 10**6, 10**9, now_us)),
                key=dice.choice((None, "a")),
            )
            assert ask(question, now_us) == reference.ask(question, now_us), (question, now_us)


def some_paces(dice: random.Random) -> list[Pace]:
    """A limit from one end of its range to the other, well, cut, and climbing."""
    rate = dice.choice((Fraction(1, 10**9), Fraction(1, 86_400), Fraction(1, 3), Fraction(100), Fraction(10**9), any_rate(dice)))
    burst = dice.choice((1, 3, 100, 10**6, 10**9))
    paces: list[Any] = [pace_of(rate, burst, 0), pace_of(rate, burst, epoch_of("another signal", 3)), pace_of(rate, burst, 1)]
    for epoch in (2, 4):
        factor_ppb = dice.choice((300_000_000, 10_000_000, 333_333_333, 950_000_000))
        held = Phase(1, 0, factor_ppb, 0, 60_000_000)
        climbing = Phase(2, 0, factor_ppb, dice.choice((50_000_000, 1_000_000, 70_000_001)), dice.choice((1_000, 60_000_000)))
        paces.append(pace_of(rate, burst, epoch, held, START_US + dice.randrange(10**8)))
        paces.append(pace_of(rate, burst, epoch + 1, climbing, START_US + dice.randrange(10**9)))
    return paces


def any_rate(dice: random.Random) -> Fraction:
    return Fraction(10 ** dice.uniform(-9, 9)).limit_denominator(10**9) or Fraction(1, 10**9)
