"""Durations, rates, shares and ranges."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config.values import parse_duration, parse_range, parse_rate, parse_share, shown
from tests.config.reading import refusal

UNITS_S = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1m", 60.0),
        ("2h", 7200.0),
        ("0s", 0.0),
        ("0.5s", 0.5),
        ("1.5m", 90.0),
        ("0.001ms", 1e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "per_s"),
    [
        ("100/s", 100.0),
        ("600/m", 10.0),
        ("5/10s", 0.5),
        ("1/h", 1 / 3600),
        ("0.5/s", 0.5),
        ("1/250ms", 4.0),
        ("0/s", 0.0),
    ],
)
def test_rates(text: str, per_s: float) -> None:
    assert parse_rate(text) == per_s


@pytest.mark.parametrize(
    ("text", "share"),
    [("70%", 0.7), ("0.7", 0.7), ("0%", 0.0), ("100%", 1.0), ("1", 1.0), ("0", 0.0), ("12.5%", 0.125), ("150%", 1.5)],
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms..2s", (0.1, 2.0)), ("1s", (1.0, 1.0)), ("1s..1s", (1.0, 1.0)), ("0s..1m", (0.0, 60.0))],
)
def test_ranges(text: str, seconds: tuple[float, float]) -> None:
    assert parse_range(text) == seconds


@given(st.integers(0, 10**9), st.sampled_from(sorted(UNITS_S)))
def test_a_duration_is_the_float_nearest_to_the_exact_value(count: int, unit: str) -> None:
    assert parse_duration(f"{count}{unit}") == float(count * UNITS_S[unit])


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.sampled_from(sorted(UNITS_S)))
def test_a_rate_is_the_float_nearest_to_the_exact_value(count: int, period: int, unit: str) -> None:
    assert parse_rate(f"{count}/{period}{unit}") == float(count / (period * UNITS_S[unit]))


@given(st.integers(0, 100_000))
def test_a_share_is_the_float_nearest_to_the_exact_value(thousandths_of_a_percent: int) -> None:
    percent = Fraction(thousandths_of_a_percent, 1000)
    assert parse_share(f"{float(percent):.3f}%") == float(percent / 100)


DURATION = "must be a duration such as 250ms, 5s, 1m or 2h, got "
RATE = "must be a rate such as 100/s, 600/m or 5/10s, got "
SHARE = "must be a share such as 70% or 0.7, got "
RANGE = "must be a range such as 100ms..2s, or one duration, got "


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_duration, "30", DURATION + "'30'; say the unit: 30s is seconds, 30ms milliseconds"),
        (parse_duration, "0", DURATION + "'0'; say the unit: 0s is seconds, 0ms milliseconds"),
        (parse_duration, "-5s", DURATION + "'-5s'; it cannot be negative"),
        (parse_duration, "5 sec", DURATION + "'5 sec'; write 5s"),
        (parse_duration, "5S", DURATION + "'5S'; write 5s"),
        (parse_duration, "2 hours", DURATION + "'2 hours'; write 2h"),
        (parse_duration, "10us", DURATION + "'10us'; the units are ms, s, m and h"),
        (parse_duration, "1d", DURATION + "'1d'; the units are ms, s, m and h"),
        (parse_duration, "1m30s", DURATION + "'1m30s'; write one number with one unit: 90s"),
        (parse_duration, "1s50ms", DURATION + "'1s50ms'; write one number with one unit: 1050ms"),
        (parse_duration, "", DURATION + "''"),
        (parse_duration, "s", DURATION + "'s'"),
        (parse_duration, "05s", DURATION + "'05s'"),
        (parse_duration, ".5s", DURATION + "'.5s'"),
        (parse_duration, "1e3s", DURATION + "'1e3s'"),
        (parse_duration, "5s\n", DURATION + "'5s\\n'"),
        (parse_duration, "٣s", DURATION + "'٣s'"),
        (parse_duration, "9" * 41 + "s", "must be a duration such as 250ms, 5s, 1m or 2h, got a text of 42 characters"),
        (parse_duration, "0.0001ms", "must be 0s or at least 0.001ms, got '0.0001ms'"),
        (parse_rate, "100", RATE + "'100'; say per what: 100/s"),
        (parse_rate, "100 / s", RATE + "'100 / s'; write 100/s"),
        (parse_rate, "100/sec", RATE + "'100/sec'; write 100/s"),
        (parse_rate, "100/minute", RATE + "'100/minute'; write 100/m"),
        (parse_rate, "100/day", RATE + "'100/day'; write 100/24h"),
        (parse_rate, "-1/s", RATE + "'-1/s'; it cannot be negative"),
        (parse_rate, "100/", RATE + "'100/'"),
        (parse_rate, "100rps", RATE + "'100rps'"),
        (parse_rate, "5/0s", "must be a count per period, and no period is zero; got '5/0s'"),
        (parse_share, "70", SHARE + "'70'; write 70% for a percentage"),
        (parse_share, "170", SHARE + "'170'"),
        (parse_share, "70 %", SHARE + "'70 %'; write 70%"),
        (parse_share, ".7", SHARE + "'.7'; write 0.7"),
        (parse_share, "-1%", SHARE + "'-1%'; it cannot be negative"),
        (parse_share, "0,7", SHARE + "'0,7'"),
        (parse_range, "2s..1s", "the first duration must be at most the second, got '2s..1s'"),
        (parse_range, "1..2s", RANGE + "'1'; say the unit: 1s is seconds, 1ms milliseconds"),
        (parse_range, "1s..", RANGE + "''"),
        (parse_range, "1s...2s", RANGE + "'.2s'"),
        (parse_range, "1s" * 60, "must be a range such as 100ms..2s, or one duration, got a text of 120 characters"),
    ],
)
def test_what_is_refused(parse: Callable[[str], object], text: str, message: str) -> None:
    assert refusal(parse, text) == message


@given(st.text(max_size=60), st.sampled_from([parse_duration, parse_rate, parse_share, parse_range]))
def test_any_text_is_read_or_refused(text: str, parse: Callable[[str], object]) -> None:
    assert refusal(parse, text).isprintable()


@pytest.mark.parametrize("parse", [parse_duration, parse_rate, parse_share, parse_range])
def test_a_million_digits_are_refused_by_their_length(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="got a text of 1000000 characters"):
        parse("9" * 1_000_000)


@given(st.text())
def test_what_is_shown_is_short_and_printable(text: str) -> None:
    quoted = shown(text)
    assert quoted.isprintable()
    assert len(quoted) <= 62


def test_what_is_shown_is_quoted_and_cut() -> None:
    assert shown("a") == "'a'"
    assert shown("x\x1b[31m\n") == r"'x\x1b[31m\n'"
    assert shown("a" * 60) == repr("a" * 60)
    assert shown("a" * 61) == "'" + "a" * 56 + "...'"
