"""Declares a setting once: its default, its range and its meaning.

Every policy's settings are a frozen dataclass whose fields are made by `option`. The constructor validates code-first use with
`validate`; the configuration loader derives its keys, ranges and messages from the same declarations.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Kind(Enum):
    """What sort of value a setting holds; decides how the YAML loader reads it and how an error speaks of it."""

    DURATION = "a duration such as 250ms, 5s, 1m or 2h"
    SHARE = "a share such as 70% or 0.7"
    RATE = "a rate such as 100/s, 600/m or 5/10s"
    COUNT = "a whole number"
    NUMBER = "a number"
    FLAG = "true or false"
    CHOICE = "one of a few words"
    TEXT = "text"
    NAMES = "a list of texts"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting's declaration.

    `minimum` and `maximum` are inclusive; `above` and `below` are exclusive bounds; `values`, where given, are all there are.
    `optional` allows None, which means "not set".
    """

    kind: Kind
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    values: tuple[float, ...] = ()

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value` as the person who set it should read it, or None when it is right."""
        if value is None:
            return None if self.optional else f"must be {self.kind.value}, got nothing"
        if self.kind is Kind.FLAG:
            return None if isinstance(value, bool) else f"must be true or false, got {value!r}"
        if self.kind is Kind.CHOICE:
            return None if value in self.choices else f"must be one of {', '.join(self.choices)}, got {value!r}"
        if self.kind is Kind.TEXT:
            return None if isinstance(value, str) and value else f"must be text, got {value!r}"
        if self.kind is Kind.NAMES:
            return None if _is_names(value) else f"must be a list of texts, got {value!r}"
        return self._number_problem(value)

    def _number_problem(self, value: object) -> str | None:
        wanted = (int,) if self.kind is Kind.COUNT else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            return f"must be {self.kind.value}, got {value!r}"
        if not math.isfinite(value):
            return f"must be finite, got {value!r}"
        outside = (
            (bool(self.values) and value not in self.values)
            or (self.minimum is not None and value < self.minimum)
            or (self.maximum is not None and value > self.maximum)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )
        return f"must be {self.bounds()}, got {self.show(value)}" if outside else None

    def bounds(self) -> str:
        """The range in words, such as "between 0 % and 100 %" or "429 or 503"."""
        if self.values:
            return " or ".join(self.show(value) for value in self.values)
        if self.minimum is not None and self.maximum is not None:
            return f"between {self.show(self.minimum)} and {self.show(self.maximum)}"
        parts = []
        if self.minimum is not None:
            parts.append(f"at least {self.show(self.minimum)}")
        if self.above is not None:
            parts.append(f"above {self.show(self.above)}")
        if self.maximum is not None:
            parts.append(f"at most {self.show(self.maximum)}")
        if self.below is not None:
            parts.append(f"below {self.show(self.below)}")
        return " and ".join(parts)

    def show(self, value: float) -> str:
        """A value of this kind with its unit, as error messages and reports print it."""
        if self.kind is Kind.SHARE:
            return f"{value * 100:.10g} %"
        unit = {Kind.DURATION: " s", Kind.RATE: "/s"}.get(self.kind, "")
        return f"{value:.10g}{unit}"


def _is_names(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(item, str) and item for item in value)


_METADATA_KEY: Final = "resilience.option"


def option(
    kind: Kind,
    doc: str,
    *,
    default: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    optional: bool = False,
    values: tuple[float, ...] = (),
) -> Any:
    """Declare a field of a settings dataclass."""
    declared = Option(kind, doc, minimum, maximum, above, below, choices, optional, values)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: declared})


def options_of(settings_class: type[Any]) -> dict[str, Option]:
    """The declarations of a settings dataclass by field name, in order."""
    return {
        field.name: field.metadata[_METADATA_KEY] for field in dataclasses.fields(settings_class) if _METADATA_KEY in field.metadata
    }


def validate(settings: Any) -> None:
    """Check every declared field of a settings instance.

    Raises:
        ValueError: naming the class, the field and what is wrong with it.
    """
    for name, declared in options_of(type(settings)).items():
        problem = declared.problem(getattr(settings, name))
        if problem is not None:
            raise ValueError(f"{type(settings).__name__}.{name}: {problem}")
