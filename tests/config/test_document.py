"""What a whole file becomes."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from resilience.config import (
    BreakerEntry,
    Document,
    LayerReference,
    LimiterEntry,
    Position,
    RetryEntry,
    RouteRule,
    parse,
)
from resilience.health import HealthSettings
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.retry.settings import RetrySettings
from resilience.refusals import RefusalSettings
from resilience.stores.settings import PROCESS
from tests.config.reading import EXAMPLE, SOURCE, fault, load


def test_the_example_says_what_it_should() -> None:
    document = parse(EXAMPLE, SOURCE)
    assert dataclasses.replace(document, warnings=(), positions={}) == Document(
        source=SOURCE,
        sha256=hashlib.sha256(EXAMPLE.encode()).hexdigest(),
        version=1,
        store=PROCESS,
        health={"default": HealthSettings(cut=0.7, recover=0.05, every_s=60.0)},
        deadlines={"api": DeadlineSettings(default_s=5.0, max_s=30.0, reserve_s=0.02)},
        limiters={
            "api": LimiterEntry(RateLimiterSettings(rate_per_s=100.0, burst=200), "default"),
            "per_client": LimiterEntry(
                RateLimiterSettings(rate_per_s=10.0, burst=20, key="client_address", max_keys=100_000), "default"
            ),
        },
        breakers={
            "payments": BreakerEntry(
                CircuitBreakerSettings(failure_rate=0.5, window_s=30.0, min_calls=20, open_for_s=30.0, probes=5),
                "default",
            )
        },
        retries={
            "payments": RetryEntry(
                RetrySettings(attempts=3, backoff_base_s=0.1, backoff_max_s=2.0, jitter="full", budget_tokens=10, budget_ratio=0.1),
                "default",
            )
        },
        pools={},
        pipelines={
            "api": (
                LayerReference("deadline", "api"),
                LayerReference("limiter", "per_client"),
                LayerReference("limiter", "api"),
            ),
            "payments": (
                LayerReference("deadline", "api"),
                LayerReference("retry", "payments"),
                LayerReference("breaker", "payments"),
            ),
        },
        routes=(
            RouteRule("/healthz", None, None, None),
            RouteRule("/orders/**", frozenset({"GET", "POST"}), None, "api"),
            RouteRule(None, None, "/shop.v1.Orders/*", "api"),
        ),
        refusals=RefusalSettings(),
        warnings=(),
        positions={},
    )


def test_the_least_file_has_the_default_signal_and_nothing_else() -> None:
    document = parse("version: 1", SOURCE)
    assert document.health == {"default": HealthSettings()}
    assert (document.store, document.routes, document.warnings) == (PROCESS, (), ())
    assert document.refusals == RefusalSettings()
    sections = (document.deadlines, document.limiters, document.breakers, document.retries, document.pipelines)
    assert all(section == {} for section in sections)


def test_positions_lead_to_names_and_to_values() -> None:
    positions = parse(EXAMPLE, SOURCE).positions
    assert positions["version"] == Position(1, 10)
    assert positions["limiters"] == Position(6, 1)
    assert positions["limiters.per_client"] == (8, 3)
    assert positions["limiters.per_client.rate"] == (8, 22)
    assert positions["retries.payments.budget.ratio"] == (12, 89)
    assert positions["pipelines.payments[1].retry"] == (15, 39)
    assert positions["routes[1]"] == (18, 5)
    assert positions["routes[1].match.path"] == (18, 20)
    assert positions["routes[1].pipeline"] == (18, 67)
    assert "health.default.floor" not in positions


def test_a_document_cannot_be_changed() -> None:
    document = parse(EXAMPLE, SOURCE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.version = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        document.limiters["x"] = document.limiters["api"]  # type: ignore[index]


def test_entries_are_on_the_default_signal_unless_they_say_otherwise() -> None:
    document = load("""
        health: {pay: {}}
        limiters:
          {a: {rate: 1/s}, b: {rate: 1/s, health: pay}, c: {rate: 1/s, health: none}, d: {rate: 1/s, key: client_address}}
        retries: {a: {}, b: {health: pay}, c: {health: none}}
        breakers:
          a: {}
          b: {health: pay}
          c: {health: none}
          d: {key: host}
          e: {key: host, health: pay}
          f: {key: host, health: default}
    """)
    assert {name: entry.health for name, entry in document.limiters.items()} == {
        "a": "default",
        "b": "pay",
        "c": None,
        "d": "default",
    }
    assert {name: entry.health for name, entry in document.retries.items()} == {"a": "default", "b": "pay", "c": None}
    assert {name: entry.health for name, entry in document.breakers.items()} == {
        "a": "default",
        "b": "pay",
        "c": None,
        "d": None,
        "e": "pay",
        "f": "default",
    }
    assert list(document.health) == ["default", "pay"]


def test_a_limiter_keeps_what_it_does_without_its_store() -> None:
    document = load("limiters: {a: {rate: 1/s}, b: {rate: 1/s, on_store_error: closed, store: process}}\nstore: process\n")
    assert (document.limiters["a"].store, document.limiters["a"].on_store_error) == (PROCESS, "local")
    assert (document.limiters["b"].store, document.limiters["b"].on_store_error) == (PROCESS, "closed")


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("▶store: process\n", "version: is missing: write version: 1 on the first line"),
        ("version: ▶2\n", "version: must be 1, the one version of the format there is, got 2"),
        ("version: ▶1.0\n", "version: must be a whole number, got '1.0'; write 1"),
        ("version: ▶'1'\n", "version: must be a whole number, got the text '1'; write it without quotes"),
        ("version: ▶[1]\n", "version: must be 1, got a list"),
        ("version:▶\n", "version: must be 1, got nothing"),
        ("version: 1\n▶limits: {}\n", "limits: is unknown; did you mean 'limiters'?"),
        (
            "version: 1\n▶telemetry: {}\n",
            (
                "telemetry: is unknown; "
                "the file has version, health, deadlines, limiters, breakers, retries, pools, pipelines, routes, refusals, store"
            ),
        ),
        ("version: 1\n▶version: 1\n", "version: is given twice, first on line 1"),
        (
            "version: 1\nstore: {host: ▶shop}\n",
            "store.host: must be a mapping of keys, got 'shop'",
        ),
        (
            "version: 1\nstore: {redis: {url: ▶x, mode: lease}}\n",
            (
                "store.redis.url: must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, "
                "got a text without ://"
            ),
        ),
        ("version: 1\nstore:▶\n", "store: must be process, host, or a mapping such as {redis: {url: ...}}, got nothing"),
        (
            "version: 1\nlimiters: {a: {rate: 1/s, health: ▶defualt}}\n",
            "limiters.a.health: no health signal is called 'defualt'; did you mean 'default'?",
        ),
        (
            "version: 1\nretries: {a: {health: ▶pay}}\n",
            "retries.a.health: no health signal is called 'pay'; there is default",
        ),
    ],
)
def test_what_stands_wrong_at_the_top_and_between_sections(marked: str, message: str) -> None:
    assert fault(marked) == message


def test_a_misspelt_section_is_one_problem_and_not_one_for_each_reference() -> None:
    message = fault("version: 1\n▶limiter: {api: {rate: 1/s}}\npipelines: {api: [{limiter: api}]}\n")
    assert message == "limiter: is unknown; did you mean 'limiters'?"


def test_an_unreadable_section_is_one_problem_and_not_one_for_each_reference() -> None:
    assert fault("version: 1\nhealth: ▶[]\nlimiters: {a: {rate: 1/s, health: x}}\n") == (
        "health: must be a mapping of names, got a list"
    )
    assert fault("version: 1\npipelines: ▶5\nroutes: [{match: {path: /}, pipeline: x}]\n") == (
        "pipelines: must be a mapping of names, got '5'"
    )


def test_an_entry_with_a_problem_is_no_missing_name() -> None:
    assert fault("version: 1\nlimiters: {a: {rate: ▶5}}\npipelines: {p: [{limiter: a}]}\n").startswith("limiters.a.rate: ")
