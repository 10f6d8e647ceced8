"""The arithmetic of shared buckets over a dictionary."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from resilience.layers.limiter.shared_bucket import pace_of
from tests.stores.conformance import Ask, BucketConformance, ReferenceStore, any_rate


class TestArithmetic(BucketConformance):
    @pytest.fixture
    def ask(self) -> Ask:
        return ReferenceStore().ask


def test_a_pace_is_never_above_the_rate_it_is_for() -> None:
    """It is rounded down, over the whole range of rates."""
    dice = random.Random(7)
    for _ in range(2_000):
        rate = any_rate(dice)
        pace = pace_of(rate, 1, 0)
        assert Fraction(pace.numerator, pace.denominator) <= rate
        assert Fraction(pace.numerator, pace.denominator) >= rate * Fraction(999, 1000)
        assert pace.numerator * pace.denominator < 1 << 52
