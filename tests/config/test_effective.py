"""Every setting in force, with the line or the default that it comes from."""

from __future__ import annotations

import pytest

from resilience.config.effective import Effective, effective, rate_text
from resilience.config.schema import BREAKERS, DEADLINES, HEALTH, LIMITERS, RETRIES, SECTIONS, Section
from tests.config.reading import load


def settings_of(section: Section, entry: str, rest: str = "") -> dict[str, Effective]:
    document = load(f"{section.name}:\n  x: {entry}\n{rest}")
    return {setting.key: setting for setting in effective(document, section, "x")}


@pytest.mark.parametrize(
    ("section", "entry", "key", "text", "origin"),
    [
        (LIMITERS, "{rate: 600/m}", "rate", "10/s", "line 3"),
        (LIMITERS, "{rate: 1/h}", "rate", "1/h", "line 3"),
        (LIMITERS, "{rate: 2.5/s}", "burst", "2", "default: one second's worth of the rate, at least 1"),
        (LIMITERS, "{rate: 1/s, burst: 7}", "burst", "7", "line 3"),
        (LIMITERS, "{rate: 1/s}", "key", "not set", "default: one bucket for all"),
        (LIMITERS, "{rate: 1/s}", "max_wait", "0s", "default"),
        (LIMITERS, "{rate: 1/s}", "trusted_proxies", "[]", "default"),
        (LIMITERS, "{rate: 1/s, trusted_proxies: [10.1.0.1, 10.0.0.0/8]}", "trusted_proxies", "[10.1.0.1, 10.0.0.0/8]", "line 3"),
        (LIMITERS, "{rate: 1/s}", "shadow", "false", "default"),
        (LIMITERS, "{rate: 1/s}", "health", "default", "default"),
        (LIMITERS, "{rate: 1/s, health: none}", "health", "none", "line 3"),
        (LIMITERS, "{rate: 1/s}", "store", "process", "default"),
        (LIMITERS, "{rate: 1/s, store: process}", "store", "process", "line 3"),
        (LIMITERS, "{rate: 1/s}", "on_store_error", "local", "default"),
        (BREAKERS, "{}", "window", "30s", "default"),
        (BREAKERS, "{window: 90s}", "window", "90s", "line 3"),
        (BREAKERS, "{window: 10}", "window", "10 calls", "line 3"),
        (BREAKERS, "{window: 10}", "min_calls", "10", "default: 20, or the whole window where that is a count below 20"),
        (BREAKERS, "{min_calls: 3}", "min_calls", "3", "line 3"),
        (BREAKERS, "{open_for: 5s}", "half_open_for", "5s", "default: as open_for"),
        (BREAKERS, "{open_for: 5s, half_open_for: 1s}", "half_open_for", "1s", "line 3"),
        (BREAKERS, "{}", "slow_call", "not set", "default"),
        (BREAKERS, "{}", "open_growth", "1", "default"),
        (BREAKERS, "{open_growth: 1.5}", "open_growth", "1.5", "line 3"),
        (BREAKERS, "{failure_rate: 0.125}", "failure_rate", "12.5%", "line 3"),
        (BREAKERS, "{}", "health", "default", "default"),
        (BREAKERS, "{key: host}", "health", "none", "default: of keyed breakers"),
        (BREAKERS, "{key: host, health: none}", "health", "none", "line 3"),
        (RETRIES, "{}", "backoff", "100ms..2s", "default"),
        (RETRIES, "{backoff: 1s}", "backoff", "1s", "line 3"),
        (RETRIES, "{backoff: 1s}", "jitter", "none", "implied by backoff on line 3"),
        (RETRIES, "{backoff: 1s, jitter: full}", "jitter", "full", "line 3"),
        (RETRIES, "{backoff: 1s..2s}", "jitter", "full", "default"),
        (RETRIES, "{budget: {tokens: 7}}", "budget.tokens", "7", "line 3"),
        (RETRIES, "{budget: {tokens: 7}}", "budget.ratio", "0.1", "default"),
        (RETRIES, "{}", "on", "[429, 502, 503, 504, UNAVAILABLE, RESOURCE_EXHAUSTED with a pushback]", "default"),
        (
            RETRIES,
            "{on: [500..504, deadline]}",
            "on",
            "[500..504, UNAVAILABLE, RESOURCE_EXHAUSTED with a pushback, deadline]",
            "line 3",
        ),
        (RETRIES, "{on: [ABORTED]}", "on", "[429, 502, 503, 504, ABORTED]", "line 3"),
        (HEALTH, "{}", "floor", "30%", "default: 1 - cut"),
        (HEALTH, "{cut: 99%}", "floor", "1%", "default: 1 - cut"),
        (HEALTH, "{cut: 50%, floor: 20%}", "floor", "20%", "line 3"),
        (DEADLINES, "{}", "default", "not set", "default"),
        (DEADLINES, "{default: 1500ms}", "default", "1500ms", "line 3"),
    ],
)
def test_a_setting_and_where_it_comes_from(section: Section, entry: str, key: str, text: str, origin: str) -> None:
    setting = settings_of(section, entry)[key]
    assert (setting.text, setting.origin) == (text, origin)
    assert (setting.position is None) == (not origin.startswith("line"))


def test_each_setting_has_the_line_of_its_own() -> None:
    settings = settings_of(LIMITERS, "\n    burst: 3\n    # a comment\n    rate: 1/s\n", "store: process\n")
    assert {key: setting.origin for key, setting in settings.items() if setting.position is not None} == {
        "burst": "line 4",
        "rate": "line 6",
        "store": "line 8",
    }


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_declared_key_is_there_in_order(section: Section) -> None:
    declared = [f"{key.name}.{inner.name}" if key.keys else key.name for key in section.keys for inner in key.keys or (key,)]
    assert list(settings_of(section, "{rate: 1/s}" if section is LIMITERS else "{}")) == declared


def test_the_signal_that_no_file_writes_has_defaults_only() -> None:
    settings = effective(load("store: process"), HEALTH, "default")
    assert {setting.origin for setting in settings} == {"default", "default: 1 - cut"}


@pytest.mark.parametrize(
    ("section", "one", "other"),
    [
        (LIMITERS, "{rate: 60/m, burst: 1}", "{rate: 1/s, health: default}"),
        (LIMITERS, "{rate: 1/s, trusted_proxies: [10.0.0.1, 10.0.0.2]}", "{rate: 1/s, trusted_proxies: [10.0.0.2, 10.0.0.1]}"),
        (BREAKERS, "{failure_rate: 50%, window: 30s}", "{half_open_for: 30s, failed_statuses: [500..599]}"),
        (RETRIES, "{on: [503, 429, 502, 504]}", "{backoff: 100ms..2s}"),
        (HEALTH, "{floor: 30%}", "{cut: 0.7}"),
    ],
)
def test_what_is_the_same_in_other_words_has_the_same_values(section: Section, one: str, other: str) -> None:
    values = [[setting.value for setting in settings_of(section, entry).values()] for entry in (one, other)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("rate_per_s", "text"),
    [
        (100.0, "100/s"),
        (0.5, "0.5/s"),
        (1 / 60, "1/m"),
        (1 / 3, "20/m"),
        (1 / 3600, "1/h"),
        (1 / 7, "0.142857/s"),
        (1e9, "1000000000/s"),
        (30.000000000000004, "30/s"),
    ],
)
def test_a_rate_is_told_by_the_period_in_which_it_is_short(rate_per_s: float, text: str) -> None:
    assert rate_text(rate_per_s) == text
