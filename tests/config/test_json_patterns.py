"""Expressions for numbers in a range are exact up to what they say they leave out."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilience.config import json_patterns as patterns
from resilience.settings import Kind, Option

PLAIN = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def matches(pattern: str, text: str) -> bool:
    return re.search(patterns.whole(pattern), text) is not None


@pytest.mark.parametrize("most", [1, 9, 10, 11, 99, 100, 101, 109, 120, 199, 305, 999, 1000, 1440])
@pytest.mark.parametrize("positive", [True, False])
def test_whole_numbers_one_by_one(most: int, positive: bool) -> None:
    pattern = re.compile(patterns.whole(patterns.number(Fraction(most), positive=positive)))
    found = [number for number in range(most * 10 + 20) if pattern.search(str(number))]
    assert found == list(range(int(positive), most + 1))


NUMBERS = st.decimals(0, 200_000, places=3, allow_nan=False).map(lambda number: f"{number:f}")


@given(NUMBERS, st.integers(1, 100_000), st.booleans())
@example("0", 1, True)
@example("0.000", 1, True)
@example("0.000", 1, False)
@example("1.000", 1, True)
@example("1.001", 1, True)
@example("99.999", 100, False)
@example("100.000", 100, False)
@example("100.001", 100, False)
def test_a_whole_limit_is_exact(text: str, most: int, positive: bool) -> None:
    expected = Fraction(text) <= most and not (positive and Fraction(text) == 0)
    assert matches(patterns.number(Fraction(most), positive=positive), text) == expected


@given(NUMBERS, st.fractions(0, 100, max_denominator=60))
@example("0", Fraction(1, 60))
@example("0.5", Fraction(1, 60))
@example("1", Fraction(1, 60))
def test_another_limit_is_taken_for_the_next_whole_number(text: str, most: Fraction) -> None:
    found = matches(patterns.number(most, positive=False), text)
    if Fraction(text) <= most:
        assert found
    elif Fraction(text) >= most + 1:
        assert not found


@given(NUMBERS, st.booleans())
def test_without_a_limit(text: str, positive: bool) -> None:
    assert matches(patterns.number(None, positive=positive), text) == (not positive or Fraction(text) > 0)


@pytest.mark.parametrize("text", ["", "00", "01", "1.", ".5", "-1", "+1", "1e3", "1_0", "1,5", " 1", "1 ", "٣"])
@pytest.mark.parametrize("most", [None, Fraction(5), Fraction(5, 2)])
def test_no_other_spelling_is_a_number(text: str, most: Fraction | None) -> None:
    assert PLAIN.fullmatch(text) is None
    assert not matches(patterns.number(most, positive=False), text)


def test_a_longest_duration_is_exact_in_every_unit_it_is_whole_in() -> None:
    pattern = patterns.duration(Option(Kind.DURATION, "", above=0, maximum=60))
    assert [text for text in ("60000ms", "60s", "1m", "0.01h") if matches(pattern, text)] == ["60000ms", "60s", "1m", "0.01h"]
    assert not any(matches(pattern, text) for text in ("60000.1ms", "60.1s", "1.1m", "1h", "0s", "0ms", "61s", "60"))


@pytest.mark.parametrize(
    ("kind", "minimum", "taken", "refused"),
    [
        (
            Kind.DURATION,
            0.01,
            [
                "10ms",
                "10.0ms",
                "11ms",
                "9.9999999999999999999999ms",
                "100ms",
                "0.01s",
                "0.010s",
                "0.011s",
                "0.1s",
                "1s",
                "0.5m",
                "1h",
            ],
            ["9ms", "9.99ms", "0ms", "0.0001ms", "0.009s", "0.0099s", "0s", "0.00s", "0.0001m", "0.000002h"],
        ),
        (Kind.DURATION, 0.001, ["1ms", "1.0ms", "0.001s", "0.00001667m", "0.0000003h"], ["0.9ms", "0.5ms", "0.00099s", "0.00001m"]),
        (
            Kind.SHARE,
            0.001,
            ["0.1%", "0.10%", "0.101%", "1%", "0.001", "0.0010", "0.5", "1"],
            ["0.09%", "0.0999%", "0%", "0.0009", "0"],
        ),
        (
            Kind.SHARE,
            0.125,
            ["12.5%", "12.51%", "13%", "20%", "0.125", "0.13"],
            ["12.4%", "12%", "12.0%", "9%", "2%", "0.12", "0.1"],
        ),
    ],
)
def test_a_lower_limit(kind: Kind, minimum: float, taken: list[str], refused: list[str]) -> None:
    option = Option(kind, "", minimum=minimum, maximum=1 if kind is Kind.SHARE else 86_400)
    pattern = patterns.duration(option) if kind is Kind.DURATION else patterns.share(option)
    assert [text for text in taken + refused if matches(pattern, text)] == taken


@given(NUMBERS, st.decimals(0, 200_000, places=3, allow_nan=False))
def test_any_lower_limit_is_exact(text: str, least: Decimal) -> None:
    option = Option(Kind.DURATION, "", minimum=float(least))
    assert matches(patterns.duration(option), f"{text}s") == (
        Fraction(text) >= Fraction(least) and (least == 0 or Fraction(text) > 0)
    )


def test_a_share_is_a_percentage_or_a_quoted_number() -> None:
    pattern = patterns.share(Option(Kind.SHARE, "", minimum=0, maximum=0.99))
    assert all(matches(pattern, text) for text in ("0%", "99%", "98.9%", "0", "0.5"))
    assert not any(matches(pattern, text) for text in ("99.1%", "100%", "-1%", "1.5", "50 %"))
