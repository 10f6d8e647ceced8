"""Reads the texts a configuration file is made of: durations, rates, shares and ranges.

Every function takes the text of one YAML scalar and returns a number, or raises ValueError with a message for whoever
wrote the file: what was expected, what was found, and what to write instead. Arithmetic is exact until the last
step, so `70%` is the float 0.7 and `1/h` the float nearest to 1/3600.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from resilience.settings import Kind

RANGE_FORM: Final = "a range such as 100ms..2s, or one duration"
_UNITS_S: Final = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_UNIT_WORDS: Final = {
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
}
_LONGEST: Final = 40
_SHOWN: Final = 60
_NUMBER: Final = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_BARE: Final = re.compile(_NUMBER)
_DURATION: Final = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_RATE: Final = re.compile(rf"({_NUMBER})/({_NUMBER})?(ms|s|m|h)")
_SHARE: Final = re.compile(rf"({_NUMBER})(%?)")
_SPELT_OUT: Final = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_COMPOUND: Final = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h)){{2,}}")


def shown(text: str) -> str:
    """`text` quoted, escaped and cut, so that a message can carry it whatever it holds."""
    quoted = repr(text[: _SHOWN + 1])
    return quoted if len(quoted) <= _SHOWN + 2 else f"{quoted[: _SHOWN - 3]}...{quoted[0]}"


def parse_duration(text: str) -> float:
    """Read a duration: one number with one of the units ms, s, m and h, such as `250ms` or `1.5s`. Returns seconds.

    Raises:
        ValueError: it is no such text, or a duration between zero and one microsecond, the shortest there is here.
    """
    match = _DURATION.fullmatch(_bounded(text, Kind.DURATION.value))
    if match is None:
        raise ValueError(_refused(Kind.DURATION.value, text, _duration_hint(text)))
    exact_s = _duration(match[1], match[2])
    if 0 < exact_s < Fraction(1, 1_000_000):
        raise ValueError(f"must be 0s or at least 0.001ms, got {shown(text)}")
    return float(exact_s)


def parse_rate(text: str) -> float:
    """Read a rate: a count per period, such as `100/s`, `600/m` or `5/10s`. Returns the count per second.

    Raises:
        ValueError: it is no such text, or the period is zero.
    """
    match = _RATE.fullmatch(_bounded(text, Kind.RATE.value))
    if match is None:
        raise ValueError(_refused(Kind.RATE.value, text, _rate_hint(text)))
    period_s = _duration(match[2] or "1", match[3])
    if period_s == 0:
        raise ValueError(f"must be a count per period, and no period is zero; got {shown(text)}")
    return float(Fraction(match[1]) / period_s)


def parse_share(text: str) -> float:
    """Read a share: a percentage such as `70%`, or a plain number such as `0.7`. Returns the number, 1 for the whole.

    Raises:
        ValueError: it is no such text. A plain number above 1 is refused with what to write; percentages have no bound.
    """
    match = _SHARE.fullmatch(_bounded(text, Kind.SHARE.value))
    if match is None:
        raise ValueError(_refused(Kind.SHARE.value, text, _share_hint(text)))
    number, percent = Fraction(match[1]), match[2]
    if number > 1 and not percent:
        raise ValueError(_refused(Kind.SHARE.value, text, f"write {text}% for a percentage" if number <= 100 else ""))
    return float(number / 100 if percent else number)


def parse_range(text: str) -> tuple[float, float]:
    """Read a range of two durations such as `100ms..2s`; one duration stands for both ends. Returns both in seconds.

    Raises:
        ValueError: it is no such text, or the first duration is above the second.
    """
    first, dots, last = _bounded(text, RANGE_FORM, 2 * _LONGEST + 2).partition("..")
    try:
        low_s = parse_duration(first)
        high_s = parse_duration(last) if dots else low_s
    except ValueError as error:
        raise ValueError(str(error).replace(Kind.DURATION.value, RANGE_FORM, 1)) from None
    if low_s > high_s:
        raise ValueError(f"the first duration must be at most the second, got {shown(text)}")
    return low_s, high_s


def is_number(text: str) -> bool:
    """Whether `text` is a plain decimal number, without sign, exponent or leading zeros."""
    return _BARE.fullmatch(text) is not None


def _bounded(text: str, form: str, longest: int = _LONGEST) -> str:
    if len(text) > longest:
        raise ValueError(f"must be {form}, got a text of {len(text)} characters")
    return text


def _refused(form: str, text: str, hint: str) -> str:
    return f"must be {form}, got {shown(text)}" + (f"; {hint}" if hint else "")


def _duration(number: str, unit: str) -> Fraction:
    return Fraction(number) * _UNITS_S[unit]


def _duration_hint(text: str) -> str:
    if is_number(text):
        return f"say the unit: {text}s is seconds, {text}ms milliseconds"
    if text.startswith("-"):
        return "it cannot be negative"
    spelt = _SPELT_OUT.fullmatch(text)
    if spelt is not None and spelt[2].lower() in _UNIT_WORDS:
        return f"write {spelt[1]}{_UNIT_WORDS[spelt[2].lower()]}"
    if spelt is not None:
        return "the units are ms, s, m and h"
    if _COMPOUND.fullmatch(text) is not None:
        parts = (_duration(number, unit) for number, unit in _DURATION.findall(text))
        total_ms = sum(parts, Fraction(0)) * 1000
        return f"write one number with one unit: {_in_one_unit(total_ms)}"
    return ""


def _in_one_unit(total_ms: Fraction) -> str:
    return f"{total_ms / 1000}s" if total_ms % 1000 == 0 else f"{float(total_ms):.10g}ms"


def _rate_hint(text: str) -> str:
    if is_number(text):
        return f"say per what: {text}/s"
    if text.startswith("-"):
        return "it cannot be negative"
    count, slash, period = text.replace(" ", "").partition("/")
    word = _UNIT_WORDS.get(period.lower())
    if is_number(count) and slash and word:
        return f"write {count}/{word}"
    return f"write {count}/24h" if is_number(count) and period.lower() in ("d", "day") else ""


def _share_hint(text: str) -> str:
    if text.startswith("-"):
        return "it cannot be negative"
    number, percent, rest = text.partition("%")
    if percent and not rest and is_number(number.strip()):
        return f"write {number.strip()}%"
    return f"write 0{text}" if is_number(f"0{text}") else ""
