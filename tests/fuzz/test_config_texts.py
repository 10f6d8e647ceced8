"""Durations, rates, shares and ranges: any text is read exactly or refused with a message that can be printed."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilience.config.values import parse_duration, parse_range, parse_rate, parse_share

UNIT_S = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
UNITS = st.sampled_from([*UNIT_S])
PIECES = st.sampled_from([*"0123456789.,-+/%_ eE\n\x00\u0661\ud800", "ms", "s", "m", "h", "..", "inf", "nan", "1e999", "9" * 38])
TEXT = st.one_of(
    st.lists(PIECES, max_size=12).map("".join), st.text(max_size=60), st.integers(1, 10_240).map(lambda count: "9" * count)
)
NUMBER = st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=3).map(lambda number: f"{number:f}")
PARSERS: list[Callable[[str], Any]] = [parse_duration, parse_rate, parse_share, parse_range]


def read_or_message(parse: Callable[[str], Any], text: str) -> Any:
    """What is read, or the message of the refusal."""
    try:
        return parse(text)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TEXT)
@example(text="")
@example(text="\ud800")
@example(text="1" * 10_240 + "s")
@example(text="0.0000000000000000000000000000000000001s")
@example(text="1/" + "9" * 37 + "h")
@example(text="..")
@example(text="1s..")
@example(text="1s..2s..3s")
@example(text="100" + "0" * 35 + "%")
def test_any_text_is_a_number_that_can_be_used_or_a_message(parse: Callable[[str], Any], text: str) -> None:
    value = read_or_message(parse, text)
    if isinstance(value, str):
        assert value.isprintable()
        assert 0 < len(value) <= 400
        return
    for number in value if isinstance(value, tuple) else (value,):
        assert isinstance(number, float)
        assert math.isfinite(number)
        assert number >= 0


@given(NUMBER, UNITS)
def test_durations_are_exact(number: str, unit: str) -> None:
    exact_s = Fraction(number) * UNIT_S[unit]
    if 0 < exact_s < Fraction(1, 1_000_000):
        with pytest.raises(ValueError, match="at least"):
            parse_duration(number + unit)
        return
    assert parse_duration(number + unit) == float(exact_s)


@given(NUMBER, st.one_of(st.just(""), NUMBER), UNITS)
def test_rates_are_exact(count: str, periods: str, unit: str) -> None:
    period_s = Fraction(periods or 1) * UNIT_S[unit]
    if period_s == 0:
        with pytest.raises(ValueError, match="no period is zero"):
            parse_rate(f"{count}/{periods}{unit}")
        return
    assert parse_rate(f"{count}/{periods}{unit}") == float(Fraction(count) / period_s)


@given(NUMBER)
def test_shares_are_exact(number: str) -> None:
    assert parse_share(f"{number}%") == float(Fraction(number) / 100)
    if Fraction(number) <= 1:
        assert parse_share(number) == float(Fraction(number))
    else:
        with pytest.raises(ValueError, match="must be a share"):
            parse_share(number)


@given(st.integers(0, 10**6), UNITS, st.integers(0, 10**6), UNITS)
def test_ranges_are_two_durations_in_order(low: int, low_unit: str, high: int, high_unit: str) -> None:
    bounds = low * UNIT_S[low_unit], high * UNIT_S[high_unit]
    text = f"{low}{low_unit}..{high}{high_unit}"
    if bounds[0] > bounds[1]:
        with pytest.raises(ValueError, match="at most the second"):
            parse_range(text)
        return
    assert parse_range(text) == (float(bounds[0]), float(bounds[1]))
