"""Each key of each section: what it sets, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from resilience.config import Document
from resilience.config.schema import SECTIONS
from resilience.health import HealthSettings
from resilience.layers.breaker.settings import COUNTED_CODES, CircuitBreakerSettings
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.retry.settings import RetrySettings
from resilience.layers.statuses import GRPC_CODES
from resilience.workers import WorkerPoolSettings
from tests.config.reading import fault, faults, load, value_fault


def settings_of(document: Document, section: str) -> Any:
    entry = getattr(document, section)["x"]
    return getattr(entry, "settings", entry)


DEFAULTS: dict[str, Any] = {
    "health": HealthSettings(),
    "deadlines": DeadlineSettings(),
    "limiters": RateLimiterSettings(rate_per_s=5.0),
    "breakers": CircuitBreakerSettings(),
    "retries": RetrySettings(),
    "pools": WorkerPoolSettings(),
}


@pytest.mark.parametrize("section", DEFAULTS)
def test_an_entry_without_keys_has_the_defaults(section: str) -> None:
    body = "{rate: 5/s}" if section == "limiters" else "{}"
    assert settings_of(load(f"{section}: {{x: {body}}}\n"), section) == DEFAULTS[section]


SET = [
    ("health", "cut: 50%", {"cut": 0.5}),
    ("health", "recover: 0.1", {"recover": 0.1}),
    ("health", "every: 2s", {"every_s": 2.0}),
    ("health", "floor: 5%", {"floor": 0.05}),
    ("deadlines", "default: 1500ms", {"default_s": 1.5}),
    ("deadlines", "max: 1m", {"max_s": 60.0}),
    ("deadlines", "reserve: 20ms", {"reserve_s": 0.02}),
    ("deadlines", "read: [connect-timeout-ms, grpc-timeout]", {"read": ("connect-timeout-ms", "grpc-timeout")}),
    ("deadlines", "read: []", {"read": ()}),
    ("deadlines", "write: grpc-timeout", {"write": "grpc-timeout"}),
    ("deadlines", "streams: true", {"streams": True}),
    ("limiters", "burst: 7", {"burst": 7}),
    ("limiters", "key: client_address", {"key": "client_address"}),
    ("limiters", "key: forwarded_address", {"key": "forwarded_address"}),
    ("limiters", "key: header:X-Api-Key", {"key": "header:X-Api-Key"}),
    ("limiters", "cost: 0", {"cost": 0}),
    ("limiters", "max_wait: 250ms", {"max_wait_s": 0.25}),
    ("limiters", "max_keys: 10", {"max_keys": 10}),
    ("limiters", "status: 503", {"status": 503}),
    ("limiters", "fields: always", {"fields": "always"}),
    (
        "limiters",
        'trusted_proxies: [127.0.0.1, 10.0.0.0/8, "::1", "fd00::/8"]',
        {"trusted_proxies": ("127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8")},
    ),
    ("limiters", "shadow: true", {"shadow": True}),
    ("breakers", "failure_rate: 25%", {"failure_rate": 0.25}),
    ("breakers", "window: 1m", {"window_s": 60.0, "window_calls": None}),
    ("breakers", "window: 100", {"window_s": 30.0, "window_calls": 100, "min_calls": 20}),
    ("breakers", "window: 20", {"window_calls": 20, "min_calls": 20}),
    ("breakers", "window: 19", {"window_calls": 19, "min_calls": 19}),
    ("breakers", "window: 1", {"window_calls": 1, "min_calls": 1}),
    ("breakers", "min_calls: 1", {"min_calls": 1}),
    ("breakers", "slow_call: 1s", {"slow_call_s": 1.0}),
    ("breakers", "slow_call_rate: 100%", {"slow_call_rate": 1.0}),
    ("breakers", "consecutive_failures: 5", {"consecutive_failures": 5}),
    ("breakers", "open_for: 10s", {"open_for_s": 10.0}),
    ("breakers", "open_growth: 1.5", {"open_growth": 1.5}),
    ("breakers", "open_max: 1h", {"open_max_s": 3600.0}),
    ("breakers", "probes: 3", {"probes": 3}),
    ("breakers", "half_open_for: 5s", {"half_open_for_s": 5.0}),
    ("breakers", "failed_statuses: [429, 500..599]", {"failed_statuses": ("429", "500..599")}),
    ("breakers", "failed_statuses: [100..599]", {"failed_statuses": ("100..599",)}),
    ("breakers", "failed_statuses: []", {"failed_statuses": ()}),
    ("breakers", "failed_codes: [UNAVAILABLE, NOT_FOUND]", {"failed_codes": ("UNAVAILABLE", "NOT_FOUND")}),
    ("breakers", "failed_codes: []", {"failed_codes": ()}),
    ("breakers", "key: host", {"key": "host"}),
    ("breakers", "key: method", {"key": "method"}),
    ("breakers", "key: 'header:x-shard'", {"key": "header:x-shard"}),
    ("breakers", "max_keys: 5", {"max_keys": 5}),
    ("breakers", "force: open", {"force": "open"}),
    ("breakers", "force: closed", {"force": "closed"}),
    ("breakers", "shadow: true", {"shadow": True}),
    ("retries", "attempts: 5", {"attempts": 5}),
    ("retries", "backoff: 50ms..1s", {"backoff_base_s": 0.05, "backoff_max_s": 1.0, "jitter": "full"}),
    ("retries", "jitter: decorrelated", {"jitter": "decorrelated"}),
    ("retries", "on: [503, 429, UNAVAILABLE, rate_limited]", {"on": ("503", "429", "UNAVAILABLE", "rate_limited")}),
    ("retries", f"on: [{', '.join(GRPC_CODES)}]", {"on": tuple(GRPC_CODES)}),
    ("retries", "on: [500..504, 429]", {"on": ("500..504", "429")}),
    ("retries", "methods: [GET, POST, M-SEARCH]", {"methods": ("GET", "POST", "M-SEARCH")}),
    ("retries", "max_advice: 5s", {"max_advice_s": 5.0}),
    ("retries", "budget: {tokens: 20, ratio: 0.5}", {"budget_tokens": 20, "budget_ratio": 0.5}),
    ("retries", "budget: {ratio: 2}", {"budget_tokens": 10, "budget_ratio": 2.0}),
    ("retries", "budget: {}", {}),
    ("retries", "when_nested: true", {"when_nested": True}),
    ("pools", "min_workers: 3", {"min_workers": 3}),
    ("pools", "max_workers: 30", {"max_workers": 30}),
    ("pools", "queue: 0", {"queue": 0}),
    ("pools", "timeout: 90s", {"timeout_s": 90.0}),
    ("pools", "pool_timeout: 2h", {"pool_timeout_s": 7200.0}),
    ("pools", "drain_timeout: 0s", {"drain_timeout_s": 0.0}),
    ("pools", "ageing: 5s", {"ageing_s": 5.0}),
    ("pools", "grow_wait: 500ms", {"grow_wait_s": 0.5}),
    ("pools", "grow_by: 4", {"grow_by": 4}),
    ("pools", "shrink_by: 1", {"shrink_by": 1}),
    ("pools", "cool_down: 1m", {"cool_down_s": 60.0}),
    ("pools", "max_abandoned: 0", {"max_abandoned": 0}),
]


@pytest.mark.parametrize(("section", "key", "fields"), SET, ids=[f"{section} {key}" for section, key, _ in SET])
def test_a_key_sets_its_fields_and_no_other(section: str, key: str, fields: dict[str, Any]) -> None:
    needed = "rate: 5/s, " if section == "limiters" else ""
    settings = settings_of(load(f"{section}: {{x: {{{needed}{key}}}}}\n"), section)
    wanted = {field: getattr(DEFAULTS[section], field) for field in DEFAULTS[section].__dataclass_fields__} | fields
    assert {field: getattr(settings, field) for field in wanted} == wanted


def test_every_key_is_in_the_tables_of_this_file() -> None:
    beside_settings = {"rate", "health", "store", "on_store_error", "limiter", "pipeline", "failed"}
    shown = {(section, key.partition(":")[0]) for section, key, _ in SET}
    declared = {(section.name, key.name) for section in SECTIONS for key in section.keys}
    assert {(section, key) for section, key in declared - shown if key not in beside_settings} == set()


@pytest.mark.parametrize(
    ("backoff", "base_s", "max_s", "jitter"),
    [
        ("backoff: 1s", 1.0, 1.0, "none"),
        ("backoff: 1s, jitter: equal", 1.0, 1.0, "equal"),
        ("jitter: equal, backoff: 1s", 1.0, 1.0, "equal"),
        ("backoff: 1s..1s", 1.0, 1.0, "full"),
        ("backoff: 0s", 0.0, 0.0, "none"),
    ],
)
def test_one_duration_is_a_constant_backoff_unless_a_jitter_is_given(
    backoff: str, base_s: float, max_s: float, jitter: str
) -> None:
    settings = load(f"retries: {{x: {{{backoff}}}}}\n").retries["x"].settings
    assert (settings.backoff_base_s, settings.backoff_max_s, settings.jitter) == (base_s, max_s, jitter)


DURATION = "must be a duration such as 250ms, 5s, 1m or 2h, got"
LIST = "must be text, got a mapping; a text that holds ':', '[' or '{' needs quotes"

REFUSED = [
    ("health", "cut", "100%", "must be between 0 % and 99 %, got 100 %"),
    ("health", "cut", "'70'", "must be a share such as 70% or 0.7, got '70'; write 70% for a percentage"),
    ("health", "recover", "0%", "must be between 0.1 % and 100 %, got 0 %"),
    ("health", "every", "60", f"{DURATION} '60'; say the unit: 60s is seconds, 60ms milliseconds"),
    ("health", "every", "25h", "must be between 0.001 s and 86400 s, got 90000 s"),
    ("health", "floor", "true", "must be a share such as 70% or 0.7, got 'true'"),
    ("deadlines", "default", "0s", "must be above 0 s and at most 86400 s, got 0 s"),
    ("deadlines", "default", "[5s]", f"{DURATION} a list"),
    ("deadlines", "max", "{}", f"{DURATION} a mapping"),
    ("deadlines", "max", "~", f"{DURATION} nothing; leave the key out to leave it unset"),
    ("deadlines", "reserve", "2m", "must be between 0 s and 60 s, got 120 s"),
    ("deadlines", "read", "grpc-timeout", "must be a list of texts, got 'grpc-timeout'"),
    (
        "deadlines",
        "write",
        "x-timeout",
        "must be one of grpc-timeout, x-envoy-expected-rq-timeout-ms, connect-timeout-ms, got 'x-timeout'",
    ),
    ("deadlines", "streams", "yes", "must be true or false, got 'yes'; write true"),
    ("limiters", "rate", "100", "must be a rate such as 100/s, 600/m or 5/10s, got '100'; say per what: 100/s"),
    ("limiters", "rate", "0/s", "must be between 1e-09/s and 1000000000/s, got 0/s"),
    ("limiters", "rate", "10000000000/s", "must be between 1e-09/s and 1000000000/s, got 1e+10/s"),
    ("limiters", "burst", "0", "must be between 1 and 1000000000, got 0"),
    ("limiters", "burst", "true", "must be a whole number, got the truth value 'true'"),
    ("limiters", "burst", "'200'", "must be a whole number, got the text '200'; write it without quotes"),
    ("limiters", "burst", "010", "must be a whole number, got '010'; YAML reads it as octal; write 10 or 8"),
    ("limiters", "burst", ".inf", "must be a whole number, got '.inf'"),
    ("limiters", "burst", "null", "must be a whole number, got nothing; leave the key out to leave it unset"),
    ("limiters", "key", "ip", "must be client_address, forwarded_address or header:NAME, got 'ip'"),
    ("limiters", "key", "host", "must be client_address, forwarded_address or header:NAME, got 'host'"),
    ("limiters", "key", "[host]", "must be one of a few words, or header:NAME, got a list"),
    (
        "limiters",
        "key",
        '"header:"',
        "'header:' names no header; write the header's name, as in header:x-api-key",
    ),
    (
        "limiters",
        "key",
        "header:x api",
        "'header:x api' names no header; write the header's name, as in header:x-api-key",
    ),
    ("limiters", "cost", "-1", "must be between 0 and 1000000000, got -1"),
    ("limiters", "max_wait", "2h", "must be between 0 s and 3600 s, got 7200 s"),
    ("limiters", "max_keys", "1e5", "must be a whole number, got '1e5'; write 100000"),
    ("limiters", "max_keys", "100_000", "must be a whole number, got '100_000'; write 100000"),
    ("limiters", "status", "500", "must be 429 or 503, got 500"),
    ("limiters", "status", "200", "must be 429 or 503, got 200"),
    ("limiters", "status", "'503'", "must be a whole number, got the text '503'; write it without quotes"),
    ("limiters", "fields", "true", "must be one of always, refused, never, got 'true'"),
    (
        "limiters",
        "trusted_proxies",
        "10.0.0.0/8",
        "must be a list of IP addresses and networks such as [10.0.0.0/8], got '10.0.0.0/8'",
    ),
    ("limiters", "shadow", "1", "must be true or false, got '1'"),
    (
        "limiters",
        "store",
        "[host]",
        "must be process, host, or a mapping such as {redis: {url: ...}}, got a list",
    ),
    (
        "limiters",
        "store",
        "redis",
        "must say where it is: write {redis: {url: redis://127.0.0.1:6379/0}}",
    ),
    ("limiters", "store", "disk", "must be process, host, or a mapping such as {redis: {url: ...}}, got 'disk'"),
    ("limiters", "store", "{disk: {}}", "must be process, host, or a mapping such as {redis: {url: ...}}, got a mapping"),
    ("limiters", "store", "[process]", "must be process, host, or a mapping such as {redis: {url: ...}}, got a list"),
    ("limiters", "on_store_error", "fail", "must be one of local, open, closed, got 'fail'"),
    (
        "limiters",
        "health",
        "~",
        "must be the name of a health signal, or none, got nothing; write none for no health signal",
    ),
    ("limiters", "health", "{}", "must be the name of a health signal, or none, got a mapping"),
    ("breakers", "failure_rate", "150%", "must be above 0 % and at most 100 %, got 150 %"),
    ("breakers", "failure_rate", "0%", "must be above 0 % and at most 100 %, got 0 %"),
    ("breakers", "failure_rate", "50", "must be a share such as 70% or 0.7, got '50'; write 50% for a percentage"),
    ("breakers", "window", "0", "must be between 1 and 1000000, got 0"),
    ("breakers", "window", "1ms", "must be between 0.01 s and 86400 s, got 0.001 s"),
    ("breakers", "window", "0x10", "must be a whole number, got '0x10'; write 16"),
    (
        "breakers",
        "window",
        "1:30",
        "must be a duration such as 30s, or a count of calls such as 100, got '1:30'",
    ),
    (
        "breakers",
        "window",
        "half a minute",
        "must be a duration such as 30s, or a count of calls such as 100, got 'half a minute'",
    ),
    ("breakers", "window", "[30s]", "must be a duration such as 30s, or a count of calls such as 100, got a list"),
    ("breakers", "window", "'30'", "must be a whole number, got the text '30'; write it without quotes"),
    ("breakers", "open_growth", "0.5", "must be between 1 and 100, got 0.5"),
    ("breakers", "open_growth", "2x", "must be a number, got '2x'"),
    ("breakers", "probes", "0", "must be between 1 and 10000, got 0"),
    ("breakers", "failed_statuses", "500", "must be a list of HTTP statuses and ranges such as [429, 500..599], got '500'"),
    ("breakers", "failed_codes", "UNAVAILABLE", "must be a list of texts, got 'UNAVAILABLE'"),
    ("breakers", "key", "client_address", "must be host, method or header:NAME, got 'client_address'"),
    ("breakers", "force", "half", "must be one of open, closed, got 'half'"),
    ("breakers", "force", "~", "must be one of open, closed, got nothing; leave the key out to leave it unset"),
    ("retries", "attempts", "0", "must be between 1 and 100, got 0"),
    ("retries", "backoff", "2s..1s", "the first duration must be at most the second, got '2s..1s'"),
    ("retries", "backoff", "2h", "must be between 0 s and 3600 s, got 7200 s"),
    (
        "retries",
        "backoff",
        "100",
        "must be a range such as 100ms..2s, or one duration, got '100'; say the unit: 100s is seconds, 100ms milliseconds",
    ),
    ("retries", "jitter", "some", "must be one of full, equal, decorrelated, none, got 'some'"),
    ("retries", "on", "503", "must be a list such as [503, UNAVAILABLE], got '503'"),
    ("retries", "on", "[]", "must have an item; leave the key out for the defaults"),
    ("retries", "budget", "10", "must be a mapping such as {tokens: ..., ratio: ...}, got '10'"),
    (
        "retries",
        "budget",
        "~",
        "must be a mapping such as {tokens: ..., ratio: ...}, got nothing; write {} for an empty one",
    ),
]


@pytest.mark.parametrize(("section", "key", "value", "message"), REFUSED, ids=[" ".join(row[:3]) for row in REFUSED])
def test_what_a_key_refuses(section: str, key: str, value: str, message: str) -> None:
    assert value_fault(section, key, value) == message


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (
            "deadlines: {x: {read: [grpc-timeout, ▶grpc-timeuot]}}",
            "deadlines.x.read[1]: 'grpc-timeuot' is unknown; did you mean 'grpc-timeout'?",
        ),
        (
            "deadlines: {x: {read: [grpc-timeout, ▶grpc-timeout]}}",
            "deadlines.x.read[1]: 'grpc-timeout' is listed twice",
        ),
        ("deadlines: {x: {read: [▶~]}}", "deadlines.x.read[0]: must be text, got nothing"),
        (
            "limiters: {x: {rate: 5/s, trusted_proxies: [10.0.0.0/8, ▶10.0.0.1/8]}}",
            (
                "limiters.x.trusted_proxies[1]: must be an IP address or network, got '10.0.0.1/8'; "
                "its host bits are set, write 10.0.0.0/8"
            ),
        ),
        (
            "limiters: {x: {rate: 5/s, trusted_proxies: [▶proxy.local]}}",
            "limiters.x.trusted_proxies[0]: must be an IP address or network, got 'proxy.local'",
        ),
        (
            "limiters: {x: {rate: 5/s, trusted_proxies: [▶'fe80::1%eth0']}}",
            "limiters.x.trusted_proxies[0]: must be an address without a zone, got 'fe80::1%eth0'",
        ),
        ("limiters: {x: {rate: 5/s, trusted_proxies: [▶{a: b}]}}", f"limiters.x.trusted_proxies[0]: {LIST}"),
        ("retries: {x: {on: [▶200]}}", "retries.x.on[0]: must be an HTTP status between 400 and 599, got 200"),
        (
            "retries: {x: {on: [503, ▶0503]}}",
            "retries.x.on[1]: must be a whole number, got '0503'; YAML reads it as octal; write 503 or 323",
        ),
        (
            "retries: {x: {on: [▶200..599]}}",
            "retries.x.on[0]: must be a range of HTTP statuses between 400 and 599, such as 500..599, got '200..599'",
        ),
        (
            "retries: {x: {on: [▶5xx]}}",
            "retries.x.on[0]: must be an HTTP status or a range of them, got '5xx'; write 500..599",
        ),
        (
            "retries: {x: {on: [▶'503']}}",
            "retries.x.on[0]: must be a whole number, got the text '503'; write it without quotes",
        ),
        (
            "breakers: {x: {failed_statuses: [500..599, ▶99]}}",
            "breakers.x.failed_statuses[1]: must be an HTTP status between 100 and 599, got 99",
        ),
        (
            "breakers: {x: {failed_statuses: [▶600]}}",
            "breakers.x.failed_statuses[0]: must be an HTTP status between 100 and 599, got 600",
        ),
        (
            "breakers: {x: {failed_statuses: [▶599..500]}}",
            "breakers.x.failed_statuses[0]: must be a range of HTTP statuses between 100 and 599, such as 500..599, got '599..500'",
        ),
        (
            "breakers: {x: {failed_statuses: [▶UNAVAILABLE]}}",
            "breakers.x.failed_statuses[0]: must be a whole number, got 'UNAVAILABLE'",
        ),
        (
            "breakers: {x: {failed_statuses: [500, ▶500]}}",
            "breakers.x.failed_statuses[1]: '500' is listed twice",
        ),
        (
            "breakers: {x: {failed_codes: [▶unavailable]}}",
            "breakers.x.failed_codes[0]: 'unavailable' is unknown; did you mean 'UNAVAILABLE'?",
        ),
        (
            "breakers: {x: {failed_codes: [▶OK]}}",
            f"breakers.x.failed_codes[0]: 'OK' is unknown; it can be {', '.join(COUNTED_CODES)}",
        ),
        ("retries: {x: {on: [503, ▶503]}}", "retries.x.on[1]: '503' is listed twice"),
        ("retries: {x: {methods: [GET, ▶GET]}}", "retries.x.methods[1]: 'GET' is listed twice"),
        ("retries: {x: {methods: [▶post]}}", "retries.x.methods[0]: methods are upper-case: write 'POST'"),
        ("retries: {x: {methods: [▶'G T']}}", "retries.x.methods[0]: must be a method such as GET, got 'G T'"),
        ("retries: {x: {methods: ▶[]}}", "retries.x.methods: must have an item; leave the key out for the defaults"),
        (
            "retries: {x: {on: [▶unavailable]}}",
            "retries.x.on[0]: 'unavailable' is unknown; did you mean 'UNAVAILABLE'?",
        ),
        ("retries: {x: {on: [▶rate_limit]}}", "retries.x.on[0]: 'rate_limit' is unknown; did you mean 'rate_limited'?"),
        (
            "retries: {x: {on: [▶ZeroDivisionError]}}",
            (
                "retries.x.on[0]: 'ZeroDivisionError' is unknown; it can be an HTTP status such as 503, a gRPC code such as "
                "UNAVAILABLE, rate_limited, circuit_open, deadline"
            ),
        ),
        ("retries: {x: {budget: {tokens: ▶0}}}", "retries.x.budget.tokens: must be between 1 and 1000, got 0"),
        ("retries: {x: {budget: {▶token: 5}}}", "retries.x.budget.token: is unknown; did you mean 'tokens'?"),
        ("health: {x: {▶colour: red}}", "health.x.colour: is unknown; a health signal has cut, recover, every, floor"),
        ("breakers: {x: {▶failure-rate: 5%}}", "breakers.x.failure-rate: is unknown; did you mean 'failure_rate'?"),
        ("breakers: {x: {probes: 1, ▶probes: 2}}", "breakers.x.probes: is given twice, first on line 2"),
        ("breakers: {x: {probes: 1, ▶'probes': 2}}", "breakers.x.probes: is given twice, first on line 2"),
        ("breakers: {x: {▶[a]: 2}}", "breakers.x: a key must be a word, got a list"),
        ("breakers: {x: {▶~: 2}}", "breakers.x: a key must be a word, got nothing"),
        ("limiters: {x: ▶{}}", "limiters.x.rate: is missing: a rate such as 100/s, 600/m or 5/10s"),
        ("breakers: {x: ▶5}", "breakers.x: must be a mapping of keys, got '5'"),
        ("breakers:\n  x:▶\n", "breakers.x: must be a mapping of keys, got nothing; write {} for an empty one"),
        ("breakers:▶\n", "breakers: must be a mapping of names, got nothing; write {} for an empty one"),
        ("breakers: ▶[x]", "breakers: must be a mapping of names, got a list"),
    ],
)
def test_what_stands_wrong_in_a_section(marked: str, message: str) -> None:
    assert fault(f"version: 1\n{marked}") == message


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("deadlines: {x: {default: ▶40s, max: 30s}}", "deadlines.x.default: must be at most max (30.0 s), got 40.0 s"),
        (
            "breakers: {x: {window: 10, min_calls: ▶20}}",
            "breakers.x.min_calls: must be at most the window of 10 calls, got 20",
        ),
    ],
)
def test_keys_that_do_not_fit_each_other(marked: str, message: str) -> None:
    assert fault(f"version: 1\n{marked}") == message


def test_two_faults_between_keys_are_both_reported() -> None:
    assert faults("version: 1\nbreakers: {x: {failure_rate: 0%, window: 10, min_calls: 20}}\n") == [
        "2:30: breakers.x.failure_rate: must be above 0 % and at most 100 %, got 0 %",
        "2:57: breakers.x.min_calls: must be at most the window of 10 calls, got 20",
    ]


def test_a_bad_value_hides_no_fault_between_others_and_invents_none() -> None:
    assert faults("version: 1\ndeadlines: {x: {default: 9s, max: 3s, reserve: 1}, y: {default: 9s, max: 3}}\n") == [
        "2:26: deadlines.x.default: must be at most max (3.0 s), got 9.0 s",
        (
            "2:48: deadlines.x.reserve: must be a duration such as 250ms, 5s, 1m or 2h, got '1'; "
            "say the unit: 1s is seconds, 1ms milliseconds"
        ),
        (
            "2:74: deadlines.y.max: must be a duration such as 250ms, 5s, 1m or 2h, got '3'; "
            "say the unit: 3s is seconds, 3ms milliseconds"
        ),
    ]
    assert len(faults("version: 1\nbreakers: {x: {window: 10, min_calls: 0}}\n")) == 1


@pytest.mark.parametrize("name", ["a", "_", "A-b.c_9", "x" * 64, "on", "yes", "true", "default"])
def test_names_that_an_entry_can_have(name: str) -> None:
    assert list(load(f"breakers:\n  {name}: {{}}\n").breakers) == [name]


@pytest.mark.parametrize("name", ["9a", "-a", "a b", "a/b", "ä", "x" * 65, '""', "404", "'a\\n'", '"\\uD800"'])
def test_names_that_no_entry_can_have(name: str) -> None:
    message = fault(f"version: 1\nbreakers:\n  ▶{name}: {{}}\n")
    assert message.endswith(": a name is at most 64 ASCII letters, digits, '_', '-' and '.', and begins with a letter or '_'")
    assert message.isprintable()


@pytest.mark.parametrize("section", ["health", "limiters", "pipelines"])
def test_nothing_is_called_none(section: str) -> None:
    message = f"{section}.none: nothing can be called none, the word for no signal and no pipeline"
    assert f"2:{len(section) + 4}: {message}" in faults(f"version: 1\n{section}: {{none: {{}}}}\n")


def test_a_section_has_at_most_a_thousand_names() -> None:
    names = "\n".join(f"  b{index}: {{}}" for index in range(1_000))
    assert len(load(f"breakers:\n{names}\n").breakers) == 1_000
    assert fault(f"version: 1\nbreakers:\n{names}\n  ▶more: {{}}\n  and: {{}}\n") == "breakers: has at most 1000 names"


@pytest.mark.parametrize("count", [1_000, 1_001])
def test_a_list_has_at_most_a_thousand_items(count: int) -> None:
    proxies = [f"10.0.{index // 256}.{index % 256}" for index in range(count)]
    text = f"limiters: {{x: {{rate: 5/s, trusted_proxies: [{', '.join(proxies)}]}}}}\n"
    if count == 1_000:
        assert load(text).limiters["x"].settings.trusted_proxies == tuple(proxies)
    else:
        found = fault("version: 1\n" + text.replace(proxies[-1], f"▶{proxies[-1]}"))
        assert found == "limiters.x.trusted_proxies: has at most 1000 items, this one has 1001"
