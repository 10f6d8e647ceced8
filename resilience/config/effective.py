"""Every setting of an entry as it holds, and where it comes from: a line of the file, or a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from resilience.config.document import Document
from resilience.config.report import Position
from resilience.config.schema import NONE, Key, Section, Shape
from resilience.config.walk import dotted
from resilience.config.written import as_written
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.retry.on import DEFAULT_ADVISED_CODES, DEFAULT_CODES, DEFAULT_STATUSES, OWN_REFUSALS, RetryOn
from resilience.layers.statuses import GRPC_CODES
from resilience.settings import Kind, Option

NOT_SET: Final = "not set"
_NOT_SET_MEANS: Final = "not set: "
_PERIODS: Final = (("s", 1), ("m", 60), ("h", 3600))
_DIGITS: Final = 12

# What holds where a setting is not set, for those whose settings class leaves that to its users.
_DERIVED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "burst": lambda settings: settings.capacity,
    "floor": lambda settings: round(1 - settings.cut, _DIGITS),
    "half_open_for_s": lambda settings: settings.open_for_s,
    "grow_by": lambda settings: settings.added_at_most,
    "shrink_by": lambda settings: settings.taken_at_most,
    "max_abandoned": lambda settings: settings.abandoned_at_most,
}


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in force.

    Attributes:
        key: as the file writes it below its entry, such as "rate" or "budget.ratio".
        value: what holds, to be compared.
        text: the same as a file would write it, or "not set".
        position: where the file gives it; None where it does not.
        origin: where it comes from, in words: "line 7", "default", or "default: " and what it follows from.
    """

    key: str
    value: Any
    text: str
    position: Position | None
    origin: str


def effective(document: Document, section: Section, name: str | None) -> tuple[Effective, ...]:
    """The settings of the entry `name` of a section, in the order in which the format declares them. None: it has no names."""
    return tuple(_Entry(document, section, name).read())


def rate_text(rate_per_s: float) -> str:
    """A rate by the shortest of the periods s, m and h in which it is a short number: 1/h rather than 0.000277777778/s."""
    exact = RateLimiterSettings(rate_per_s).exact_rate_per_s
    for unit, seconds in _PERIODS:
        count = exact * seconds
        if (count * 1000).denominator == 1:
            return f"{float(count):.15g}/{unit}"
    return f"{rate_per_s:.6g}/s"


class _Entry:
    """One entry being read."""

    def __init__(self, document: Document, section: Section, name: str | None) -> None:
        entry = getattr(document, section.name)
        if name is not None:
            entry = entry[name]
        self._document = document
        self._section = section
        self._path = section.name if name is None else dotted(section.name, name)
        self._settings = getattr(entry, "settings", entry)
        self._fields = {**_fields(self._settings), **_fields(entry)}

    def read(self) -> Iterator[Effective]:
        """Each key's setting; the keys of a group one by one."""
        for key in self._section.keys:
            for inner in key.keys or (key,):
                yield self._one(inner, f"{key.name}." if key.keys else "")

    def _one(self, key: Key, group: str) -> Effective:
        name = f"{group}{key.name}"
        position = self._document.positions.get(f"{self._path}.{name}")
        if position is None and key.shape is Shape.STORE:  # the file has one for all entries that name none
            position = self._document.positions.get(key.name)
        value, text, reason = self._value(key)
        if position is not None:
            return Effective(name, value, text, position, f"line {position.line}")
        return Effective(name, value, text, None, self._implied(key) or (f"default: {reason}" if reason else "default"))

    def _value(self, key: Key) -> tuple[Any, str, str]:
        """What holds, as text too, and why where it follows from other settings."""
        option, field = key.options[0], key.fields[0]
        value = self._fields[field]
        if key.shape in (Shape.LIMITER, Shape.PIPELINE):
            return value, value or NONE, ""
        if key.shape is Shape.SIGNAL:
            is_keyed_breaker = value is None and self._fields.get("key") is not None
            return value, value or NONE, "of keyed breakers" if is_keyed_breaker else ""
        if key.shape is Shape.STORE:  # its address may hold a password
            return value, value.kind, ""
        if key.shape is Shape.RANGE:
            ends = tuple(self._fields[end] for end in key.fields)
            texts = (as_written(option, end) for end in ends)
            return ends, "..".join(dict.fromkeys(texts)), ""
        if key.shape is Shape.WINDOW and self._fields[key.fields[1]] is not None:
            calls = self._fields[key.fields[1]]
            return ("calls", calls), f"{calls} calls", ""
        if key.shape is Shape.RETRY_ON:
            return RetryOn.of(value), f"[{', '.join(_retried(value))}]", ""
        reason = option.doc.partition(_NOT_SET_MEANS)[2] if value is None or field == "min_calls" else ""
        if value is None and field in _DERIVED:
            value = _DERIVED[field](self._settings)
        return frozenset(value) if isinstance(value, tuple) else value, _text(option, value), reason

    def _implied(self, key: Key) -> str:
        """Which other key of the file brought this value along, if one did."""
        for other in self._section.keys:
            for field, value in other.implied:
                path = dotted(self._path, other.name)
                is_default = value == self._defaults()[field]
                if field in key.fields and self._fields[field] == value and not is_default and path in self._document.positions:
                    return f"implied by {other.name} on line {self._document.positions[path].line}"
        return ""

    def _defaults(self) -> Mapping[str, Any]:
        return {item.name: item.default for item in dataclasses.fields(self._section.settings)}


def _retried(words: Sequence[str]) -> Iterator[str]:
    """What a retry of these words retries: the defaults too, of each kind that they do not name."""
    statuses = [word for word in words if word[0].isdigit()]
    codes = [word for word in words if word in GRPC_CODES]
    yield from statuses or map(str, sorted(DEFAULT_STATUSES))
    yield from codes or [name for name, code in GRPC_CODES.items() if code in DEFAULT_CODES]
    if not codes:
        yield from (f"{name} with a pushback" for name, code in GRPC_CODES.items() if code in DEFAULT_ADVISED_CODES)
    yield from (word for word in words if word in OWN_REFUSALS)


def _fields(settings: Any) -> dict[str, Any]:
    return {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}


def _text(option: Option, value: Any) -> str:
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "true" if value else "false"
    if option.kind is Kind.RATE:
        return rate_text(value)
    written = as_written(option, value)
    if isinstance(written, list):
        return f"[{', '.join(written)}]"
    return f"{written:.15g}" if isinstance(written, float | Fraction) else str(written)
