"""Code-first construction and its settings agree: the same defaults, and every argument lands where it is named."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from resilience import CircuitBreaker, Deadline, HealthSignal, RateLimiter, Retry
from resilience.clock import SYSTEM_CLOCK
from resilience.health import HealthSettings
from resilience.layers.breaker import CircuitBreakerSettings
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.limiter import RateLimiterSettings
from resilience.layers.retry import RetrySettings

DEFAULTS: list[tuple[type[Any], dict[str, Any], Any, str]] = [
    (HealthSignal, {}, HealthSettings(), "default"),
    (Deadline, {}, DeadlineSettings(), "deadline"),
    (RateLimiter, {"rate_per_s": 5.0}, RateLimiterSettings(5.0), "limiter"),
    (CircuitBreaker, {}, CircuitBreakerSettings(), "breaker"),
    (Retry, {}, RetrySettings(), "retry"),
]
GIVEN: list[tuple[type[Any], dict[str, Any]]] = [
    (HealthSignal, {"cut": 0.6, "recover": 0.1, "every_s": 7.0, "floor": 0.2}),
    (
        Deadline,
        {
            "default_s": 2.0,
            "max_s": 3.0,
            "reserve_s": 0.5,
            "read": ("grpc-timeout",),
            "write": "grpc-timeout",
            "streams": True,
        },
    ),
    (
        RateLimiter,
        {
            "rate_per_s": 2.0,
            "burst": 7,
            "key": "forwarded_address",
            "cost": 2,
            "max_wait_s": 1.5,
            "max_keys": 99,
            "status": 503,
            "fields": "always",
            "trusted_proxies": ("10.0.0.0/8",),
            "shadow": True,
        },
    ),
    (
        CircuitBreaker,
        {
            "failure_rate": 0.25,
            "window_s": 9.0,
            "window_calls": 77,
            "min_calls": 7,
            "slow_call_s": 0.75,
            "slow_call_rate": 0.35,
            "consecutive_failures": 6,
            "open_for_s": 8.0,
            "open_growth": 1.5,
            "open_max_s": 90.0,
            "probes": 3,
            "half_open_for_s": 4.0,
            "key": "host",
            "max_keys": 55,
            "shadow": True,
        },
    ),
]


@pytest.mark.parametrize(("make", "given", "settings", "name"), DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults_in_code_are_those_of_the_settings(make: type[Any], given: dict[str, Any], settings: Any, name: str) -> None:
    policy = make(**given)
    assert policy.settings == settings
    assert policy.name == name
    assert policy.clock is SYSTEM_CLOCK


@pytest.mark.parametrize(("make", "given"), GIVEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_argument_lands_where_it_is_named(make: type[Any], given: dict[str, Any]) -> None:
    settings = asdict(make(**given).settings)
    assert {name: settings[name] for name in given} == given


def test_the_arguments_of_a_retry() -> None:
    retry = Retry(
        4, backoff_s=(0.2, 3.0), jitter="equal", methods=["GET", "POST"], max_advice_s=11.0, budget=(20, 0.5), when_nested=True
    )
    assert retry.settings == RetrySettings(
        attempts=4,
        backoff_base_s=0.2,
        backoff_max_s=3.0,
        jitter="equal",
        methods=("GET", "POST"),
        max_advice_s=11.0,
        budget_tokens=20,
        budget_ratio=0.5,
        when_nested=True,
    )


@pytest.mark.parametrize(
    ("arguments", "base_s", "most_s", "jitter"),
    [
        ({"backoff_s": 0.5}, 0.5, 0.5, "none"),
        ({"backoff_s": 0.5, "jitter": "full"}, 0.5, 0.5, "full"),
        ({"backoff_s": (0.5, 4.0)}, 0.5, 4.0, "full"),
        ({"backoff_s": (0.5, 4.0), "jitter": "none"}, 0.5, 4.0, "none"),
    ],
)
def test_one_number_is_a_constant_wait(arguments: dict[str, Any], base_s: float, most_s: float, jitter: str) -> None:
    settings = Retry(**arguments).settings
    assert (settings.backoff_base_s, settings.backoff_max_s, settings.jitter) == (base_s, most_s, jitter)


@pytest.mark.parametrize(
    ("arguments", "min_calls"),
    [
        ({}, 20),
        ({"window_calls": 100}, 20),
        ({"window_calls": 20}, 20),
        ({"window_calls": 19}, 19),
        ({"window_calls": 5}, 5),
        ({"window_calls": 100, "min_calls": 50}, 50),
        ({"min_calls": 3}, 3),
    ],
)
def test_the_least_calls_fit_the_window(arguments: dict[str, Any], min_calls: int) -> None:
    assert CircuitBreaker(**arguments).settings.min_calls == min_calls


def test_a_retry_knows_whether_its_errors_were_named() -> None:
    retries = [Retry(), Retry(on=OSError), Retry(on=lambda error: True)]
    retries.append(Retry.over(retries[1].state, RetrySettings(on=("429",)), name="retry", clock=SYSTEM_CLOCK))
    assert [retry.names_errors for retry in retries] == [False, True, True, False], "a file names statuses, no errors of functions"


def test_the_methods_of_a_retry_are_the_idempotent_ones_unless_named() -> None:
    assert Retry().settings.methods == ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")  # RFC 9110, 9.2.2


@pytest.mark.parametrize("method", ["get", "G T", "Get"])
def test_a_method_is_upper_case(method: str) -> None:
    with pytest.raises(ValueError, match=rf"^RetrySettings\.methods: must be upper-case HTTP methods such as GET, got '{method}'$"):
        Retry(methods=["GET", method])
