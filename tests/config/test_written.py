"""Values as a file writes them, and read again as what they were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config.schema import BREAKERS, HEALTH, LIMITERS, RETRIES, Key, Section
from resilience.config.values import parse_duration, parse_share
from resilience.config.written import as_written, default_of, duration, ranges_of
from resilience.settings import Kind, Option


def key_of(section: Section, name: str) -> Key:
    return next(key for key in section.keys if key.name == name)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0s"),
        (0.0, "0s"),
        (30.0, "30s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (300.0, "5m"),
        (3600, "1h"),
        (5400.0, "90m"),
        (86400, "24h"),
        (0.1, "100ms"),
        (0.25, "250ms"),
        (1.5, "1500ms"),
        (0.0015, "1.5ms"),
        (1e-06, "0.001ms"),
    ],
)
def test_durations(duration_s: float, text: str) -> None:
    assert duration(duration_s) == text
    assert parse_duration(text) == duration_s


@given(st.integers(0, 86_400_000_000).map(lambda duration_us: duration_us / 1_000_000))
def test_any_duration_is_read_as_what_it_was(duration_s: float) -> None:
    assert parse_duration(duration(duration_s)) == duration_s


@given(st.integers(0, 1_000_000).map(lambda millionths: millionths / 1_000_000))
def test_any_share_is_read_as_what_it_was(share: float) -> None:
    assert parse_share(as_written(Option(Kind.SHARE, ""), share)) == share


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (Kind.SHARE, 0.7, "70%"),
        (Kind.SHARE, 0.001, "0.1%"),
        (Kind.SHARE, 1, "100%"),
        (Kind.RATE, 100.0, "100/s"),
        (Kind.RATE, 0.5, "0.5/s"),
        (Kind.RATE, 1e-9, "0.000000001/s"),
        (Kind.COUNT, 20, 20),
        (Kind.NUMBER, 0.1, 0.1),
        (Kind.FLAG, True, True),
        (Kind.CHOICE, "full", "full"),
        (Kind.NAMES, ("a", "b"), ["a", "b"]),
        (Kind.DURATION, None, None),
    ],
)
def test_each_kind(kind: Kind, value: Any, written: Any) -> None:
    found = as_written(Option(kind, ""), value)
    assert found == written
    assert type(found) is type(written)


@pytest.mark.parametrize(
    ("section", "key", "default"),
    [
        (HEALTH, "cut", "70%"),
        (HEALTH, "floor", None),
        (LIMITERS, "rate", None),
        (LIMITERS, "shadow", False),
        (LIMITERS, "health", "default"),
        (LIMITERS, "on_store_error", "local"),
        (LIMITERS, "trusted_proxies", []),
        (BREAKERS, "window", "30s"),
        (BREAKERS, "health", None),
        (RETRIES, "backoff", "100ms..2s"),
        (RETRIES, "on", None),
    ],
)
def test_defaults(section: Section, key: str, default: Any) -> None:
    assert default_of(section, key_of(section, key)) == default


@pytest.mark.parametrize(
    ("section", "key", "ranges"),
    [
        (HEALTH, "cut", ["0% to 99%"]),
        (BREAKERS, "window", ["10ms to 24h", "1 to 1000000"]),
        (BREAKERS, "slow_call", ["above 0s, at most 24h"]),
        (LIMITERS, "status", ["429 or 503"]),
        (LIMITERS, "shadow", []),
        (RETRIES, "backoff", ["0s to 1h"]),
        (RETRIES, "budget", []),
    ],
)
def test_ranges(section: Section, key: str, ranges: list[str]) -> None:
    assert ranges_of(key_of(section, key)) == ranges
