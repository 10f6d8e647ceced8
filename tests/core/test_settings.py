"""Settings are declared once: their ranges, their words, and what is said to who gets them wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from resilience.health import HealthSettings
from resilience.layers.breaker import CircuitBreakerSettings
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.limiter import RateLimiterSettings
from resilience.layers.retry import RetrySettings
from resilience.settings import Kind, Option, option, options_of, validate

SETTINGS = [HealthSettings, DeadlineSettings, RateLimiterSettings, CircuitBreakerSettings, RetrySettings]


@pytest.mark.parametrize(
    ("declared", "value", "problem"),
    [
        (Option(Kind.SHARE, "", minimum=0, maximum=1), 1.5, "must be between 0 % and 100 %, got 150 %"),
        (Option(Kind.SHARE, "", minimum=0, maximum=1), 1, None),
        (Option(Kind.DURATION, "", above=0), 0, "must be above 0 s, got 0 s"),
        (Option(Kind.DURATION, "", above=0, maximum=60), 61, "must be above 0 s and at most 60 s, got 61 s"),
        (Option(Kind.DURATION, "", minimum=1, below=2), 2.0, "must be at least 1 s and below 2 s, got 2 s"),
        (Option(Kind.RATE, "", above=0), -1.0, "must be above 0/s, got -1/s"),
        (Option(Kind.COUNT, "", minimum=1), 1.0, "must be a whole number, got 1.0"),
        (Option(Kind.COUNT, "", minimum=1), True, "must be a whole number, got True"),
        (Option(Kind.COUNT, "", minimum=1), None, "must be a whole number, got nothing"),
        (Option(Kind.COUNT, "", minimum=1, optional=True), None, None),
        (Option(Kind.NUMBER, ""), float("nan"), "must be finite, got nan"),
        (Option(Kind.NUMBER, ""), "1", "must be a number, got '1'"),
        (Option(Kind.COUNT, "", values=(429, 503)), 500, "must be 429 or 503, got 500"),
        (Option(Kind.COUNT, "", values=(429, 503)), 503, None),
        (Option(Kind.COUNT, "", values=(429, 503)), 503.0, "must be a whole number, got 503.0"),
        (Option(Kind.DURATION, "", values=(0, 1.5)), 1, "must be 0 s or 1.5 s, got 1 s"),
        (Option(Kind.FLAG, ""), 1, "must be true or false, got 1"),
        (Option(Kind.FLAG, ""), False, None),
        (Option(Kind.CHOICE, "", choices=("open", "closed")), "ajar", "must be one of open, closed, got 'ajar'"),
        (Option(Kind.TEXT, ""), "", "must be text, got ''"),
        (Option(Kind.NAMES, ""), ("a", ""), "must be a list of texts, got ('a', '')"),
        (Option(Kind.NAMES, ""), "ab", "must be a list of texts, got 'ab'"),
        (Option(Kind.NAMES, ""), ["a"], None),
    ],
)
def test_problems_are_said_in_words(declared: Option, value: object, problem: str | None) -> None:
    assert declared.problem(value) == problem


@pytest.mark.parametrize("settings_class", SETTINGS)
def test_every_setting_is_declared_frozen_and_within_its_own_range(settings_class: type[Any]) -> None:
    required = {"rate_per_s": 1.0} if settings_class is RateLimiterSettings else {}
    settings = settings_class(**required)
    assert set(options_of(settings_class)) == {field.name for field in dataclasses.fields(settings_class)}
    for name, declared in options_of(settings_class).items():
        assert declared.doc, name
        assert declared.problem(getattr(settings, name)) is None, name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, name, getattr(settings, name))


def test_the_class_the_field_and_the_reason_are_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Tariff:
        price: float = option(Kind.NUMBER, "what it costs", default=1.0, minimum=0)
        note: str = ""

    validate(Tariff())
    assert list(options_of(Tariff)) == ["price"]
    with pytest.raises(ValueError, match=r"^Tariff\.price: must be at least 0, got -1$"):
        validate(Tariff(price=-1))
