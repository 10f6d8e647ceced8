"""Values as a file writes them: `30s` for thirty seconds, `70%` for the float 0.7."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from resilience.config.schema import Key, Section, Shape
from resilience.settings import Kind, Option

_UNITS: Final = (("h", Fraction(3600)), ("m", Fraction(60)), ("s", Fraction(1)), ("ms", Fraction(1, 1000)))


def as_written(option: Option, value: Any) -> Any:
    """A setting as it stands in a file: a text, a number, a truth value, a list of texts, or None where it is not set."""
    if value is None or isinstance(value, bool):
        return value
    if option.kind is Kind.DURATION:
        return duration(value)
    if option.kind is Kind.SHARE:
        return f"{_plain(Fraction(str(value)) * 100)}%"
    if option.kind is Kind.RATE:
        return f"{_plain(Fraction(str(value)))}/s"
    return list(value) if option.kind is Kind.NAMES else value


def duration(duration_s: float) -> str:
    """A duration in the largest unit in which it is a whole number; below a millisecond a part of one."""
    exact_s = Fraction(str(duration_s))
    if exact_s == 0:
        return "0s"
    name, unit_s = next(((name, unit_s) for name, unit_s in _UNITS if exact_s % unit_s == 0), _UNITS[-1])
    return f"{_plain(exact_s / unit_s)}{name}"


def default_of(section: Section, key: Key) -> Any:
    """What holds for `key` where an entry of `section` does not give it, as a file would write it; None: nothing is set."""
    if key.default is not None:
        return key.default
    defaults = {item.name: item.default for item in dataclasses.fields(section.settings)}
    if key.fields[0] not in defaults:
        return None
    first = defaults[key.fields[0]]
    if first is dataclasses.MISSING:
        return None
    if key.shape is Shape.RANGE:
        ends = zip(key.options, key.fields, strict=True)
        return "..".join(str(as_written(option, defaults[field])) for option, field in ends)
    if key.shape is Shape.RETRY_ON:  # its list is what to retry in the place of the defaults, which it cannot write
        return None
    return as_written(key.options[0], first)


def ranges_of(key: Key) -> list[str]:
    """In what range a value of `key` must be, such as "10ms to 24h"; one for each form that it can have."""
    return [] if key.keys else list(dict.fromkeys(text for text in map(_range_of, key.options) if text))


def _range_of(option: Option) -> str:
    if option.values:
        return " or ".join(str(as_written(option, value)) for value in option.values)
    if option.minimum is not None and option.maximum is not None:
        return f"{as_written(option, option.minimum)} to {as_written(option, option.maximum)}"
    bounds = {"at least": option.minimum, "above": option.above, "at most": option.maximum, "below": option.below}
    return ", ".join(f"{words} {as_written(option, bound)}" for words, bound in bounds.items() if bound is not None)


def _plain(number: Fraction) -> str:
    """A number as a plain decimal: without an exponent, and without zeros at its end. Exact, since it came from a decimal."""
    text = f"{Decimal(number.numerator) / Decimal(number.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
