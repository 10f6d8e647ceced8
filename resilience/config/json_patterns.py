"""Regular expressions for the texts of a configuration file, as JSON Schema takes them (ECMA-262, which Python reads alike).

They are never stricter than the loader. Where an expression cannot say all of a rule, it says less: that a duration is zero or at
least a microsecond, and a longest one that is no whole number of its unit, are left to the loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from resilience.config.routes import ANY_SEGMENT
from resilience.config.schema import NAME_PATTERN, NONE
from resilience.layers.keys import HEADER_PREFIX
from resilience.settings import Option

_DECIMALS: Final = 12
_NEARLY: Final = 12
_FRACTION: Final = r"(?:\.[0-9]+)?"
_NO_FRACTION: Final = r"(?:\.0+)?"
_UPPER_CASE_TOKEN: Final = r"!#$%&'*+\-.^_`|~0-9A-Z"
_UNITS_S: Final = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_UNIT: Final = "(?:ms|s|m|h)"
_HERE_ENDS: Final = r"(?![^/])"
"""The end of a path segment: a slash follows, or nothing."""
_NO_PLACEHOLDER: Final = rf"(?!\{{[^/\n]*\}}{_HERE_ENDS}|<[^/\n]*>{_HERE_ENDS}|:[^/\n]+{_HERE_ENDS})"
_ANY: Final = f"\\{ANY_SEGMENT}"
_ANY_NUMBER: Final = f"/{_ANY}{_ANY}"

NAME: Final = f"^(?!{NONE}$){NAME_PATTERN}$"
SIGNAL: Final = f"^{NAME_PATTERN}$"
HEADER: Final = f"^{HEADER_PREFIX}[{_UPPER_CASE_TOKEN}a-z]+$"
METHOD: Final = f"^[{_UPPER_CASE_TOKEN}]+$"
NETWORK: Final = r"^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|(?=.*:)[0-9A-Fa-f.:]+)(?:/[0-9.]+)?$"
PATH: Final = rf"^(?![\s\S]*%[0-9A-Fa-f]{{2}})(?:/(?:{_ANY}{{1,2}}|{_NO_PLACEHOLDER}[^/?#*]*))+$"
_GRPC_SEGMENT: Final = rf"/(?:{_ANY}|{_NO_PLACEHOLDER}[^/*]+)"
GRPC: Final = (
    f"^(?:(?:{_ANY_NUMBER})*{_GRPC_SEGMENT}(?:{_ANY_NUMBER})*{_GRPC_SEGMENT}(?:{_ANY_NUMBER})*"
    f"|(?:{_ANY_NUMBER})+(?:{_GRPC_SEGMENT}(?:{_ANY_NUMBER})*)?|{_GRPC_SEGMENT}(?:{_ANY_NUMBER})+)$"
)


def whole(pattern: str) -> str:
    """The expression that a whole text must match."""
    return f"^(?:{pattern})$"


def duration(option: Option) -> str:
    """Durations in the range of `option`."""
    longest_s = None if option.maximum is None else Fraction(str(option.maximum))
    units = ((unit, unit_s, None if longest_s is None else longest_s / unit_s) for unit, unit_s in _UNITS_S.items())
    positive = _is_positive(option)
    return "|".join(f"{_not_below(_least(option) / unit_s)}{number(most, positive=positive)}{unit}" for unit, unit_s, most in units)


def duration_range(first: Option, last: Option) -> str:
    """Two durations in the ranges of these options, or one."""
    return rf"(?:{duration(first)})(?:\.\.(?:{duration(last)}))?"


def rate(option: Option) -> str:
    """Rates. How many at most is left to the loader."""
    count = number(None, positive=_is_positive(option))
    return f"{count}/(?:{number(None, positive=True)})?{_UNIT}"


def share(option: Option) -> str:
    """Shares in the range of `option`: percentages, and plain numbers in quotes."""
    most = Fraction(str(1 if option.maximum is None else option.maximum))
    positive = _is_positive(option)
    percent = None if option.maximum is None else most * 100
    least = _least(option)
    percentage = f"{_not_below(least * 100)}{number(percent, positive=positive)}%"
    return f"{percentage}|{_not_below(least)}{number(min(most, Fraction(1)), positive=positive)}"


def status_range(lowest: int, highest: int) -> str:
    """Ranges of HTTP statuses between these two, which are the first and last of their hundreds."""
    status = f"[{lowest // 100}-{highest // 100}][0-9]{{2}}"
    return rf"{status}\.\.{status}"


def number(most: Fraction | None, *, positive: bool) -> str:
    """Plain decimals up to `most`. One that is no whole number is taken for the next whole number, less a little."""
    zero = r"0\.[0-9]*[1-9][0-9]*" if positive else f"0{_FRACTION}"
    if most is None:
        return f"(?:{zero}|[1-9][0-9]*{_FRACTION})"
    top = most.numerator // most.denominator
    parts = [zero]
    if most != top:
        parts += [f"(?:{digits}){_FRACTION}" for digits in _alternatives(top)]
    else:
        parts += [f"(?:{digits}){_FRACTION}" for digits in _alternatives(top - 1)]
        if top > 0:
            parts.append(f"{top}{_NO_FRACTION}")
    return f"(?:{'|'.join(parts)})"


def _least(option: Option) -> Fraction:
    return Fraction(str(option.minimum or 0))


def _not_below(least: Fraction) -> str:
    """Keeps the number that follows from being below `least`. Of a least one that is no short decimal, the first digits count.

    One so near below it that both are the same float is let through: it has a row of nines.
    """
    whole_part, rest = divmod(least, 1)
    decimals = f"{int(rest * 10**_DECIMALS):0{_DECIMALS}d}".rstrip("0")
    below = [f"(?:{digits}){_FRACTION}" for digits in (["0"] if whole_part else []) + list(_alternatives(int(whole_part) - 1))]
    if decimals:
        starts = (rf"\.{decimals[:place]}[0-{int(digit) - 1}][0-9]*" for place, digit in enumerate(decimals) if digit != "0")
        parts = (rf"\.{decimals[:place]}" for place in range(1, len(decimals)))
        below.append(f"{int(whole_part)}(?:{'|'.join((*starts, *parts))})?")
    return rf"(?!(?![0-9.]*9{{{_NEARLY}}})(?:{'|'.join(below)})(?![0-9.]))" if below else ""


def _alternatives(top: int) -> Iterator[str]:
    if top > 0:
        yield "|".join(_from_one_to(top))


def _from_one_to(top: int) -> Iterator[str]:
    """The whole numbers from 1 to `top`, without leading zeros: the shorter ones, then digit by digit what stays below it."""
    digits = str(top)
    if len(digits) > 1:
        yield f"[1-9][0-9]{{0,{len(digits) - 2}}}"
    for place, digit in enumerate(digits):
        lowest = 1 if place == 0 else 0
        if int(digit) > lowest:
            yield f"{digits[:place]}[{lowest}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}"
    yield digits


def _is_positive(option: Option) -> bool:
    return option.above is not None or (option.minimum is not None and option.minimum > 0)
