"""Declares the configuration file: its sections, their keys, and what each key sets.

Ranges, defaults and meanings are not repeated here: every key points to the fields of a settings dataclass, whose own
declarations (`resilience.settings.option`) say what is allowed. The reader, and whatever describes the format to people
or to editors, go by these tables alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from resilience.health import HealthSettings
from resilience.layers.breaker.settings import COUNTED_CODES, CircuitBreakerSettings
from resilience.layers.deadline import READ_HEADERS, DeadlineSettings
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.retry.on import OWN_REFUSALS
from resilience.layers.retry.settings import RetrySettings
from resilience.layers.statuses import GRPC_CODES
from resilience.settings import Kind, Option, options_of

FORMAT_VERSION: Final = 1
MAX_ENTRIES: Final = 1_000
"""The most names in a section, layers in a pipeline, routes, and items in any other list."""
NAME_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"
NONE: Final = "none"
"""The word for "no health signal" and "no pipeline"; nothing can be called so."""
DEFAULT_SIGNAL: Final = "default"
"""The health signal that always exists."""
STORES: Final = ("process",)
PLANNED_STORES: Final = ("host", "redis")


class Shape(Enum):
    """How the value of a key is written, where that does not follow from its option's kind alone."""

    VALUE = "one value of the option's kind"
    WINDOW = "a duration such as 30s, or a count of calls such as 100"
    RANGE = "a range such as 100ms..2s, or one duration"
    GROUP = "a mapping of further keys"
    NAMES = "a list of texts"
    RETRY_ON = "a list such as [503, UNAVAILABLE]"
    STATUSES = "a list of HTTP statuses and ranges such as [429, 500..599]"
    NETWORKS = "a list of IP addresses and networks such as [10.0.0.0/8]"
    KEY_SOURCE = "one of a few words, or header:NAME"
    SIGNAL = "the name of a health signal, or none"
    STORE = "the name of a store"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file.

    Attributes:
        name: as the file writes it.
        fields: the fields of the section's settings that it sets, or its own name where it sets none of them.
        shape: how its value is written.
        options: the declarations of `fields`, in their order: kind, range and meaning.
        words: the words that the value, or each item of it, can be.
        keys: the keys within, for a group.
        implied: settings that a value of the shorter form brings along unless the file gives them itself.
    """

    name: str
    fields: tuple[str, ...]
    shape: Shape
    options: tuple[Option, ...]
    words: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    implied: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One section of named entries. `noun` is what an entry of it is called, in pipelines and in messages."""

    name: str
    noun: str
    settings: type[Any]
    keys: tuple[Key, ...]

    @property
    def setting_fields(self) -> frozenset[str]:
        """The fields of its settings; a key that sets none of them, such as `health`, is kept beside them."""
        return frozenset(options_of(self.settings))

    @property
    def required(self) -> tuple[Key, ...]:
        """The keys without which there is no entry: those whose field has no default."""
        fields = dataclasses.fields(self.settings)
        without_default = {item.name for item in fields if item.default is dataclasses.MISSING}
        return tuple(key for key in self.keys if not without_default.isdisjoint(key.fields))


class _Keys:
    """Declares the keys of one settings class."""

    def __init__(self, settings: type[Any]) -> None:
        self._options = options_of(settings)

    def __call__(
        self,
        name: str,
        *fields: str,
        shape: Shape = Shape.VALUE,
        words: tuple[str, ...] = (),
        implied: tuple[tuple[str, Any], ...] = (),
    ) -> Key:
        fields = fields or (name,)
        return Key(name, fields, shape, tuple(self._options[name] for name in fields), words, (), implied)

    @staticmethod
    def group(name: str, *keys: Key) -> Key:
        """A key that holds further keys."""
        fields = tuple(field for key in keys for field in key.fields)
        return Key(name, fields, Shape.GROUP, tuple(option for key in keys for option in key.options), (), keys)


def _signal(doc: str) -> Key:
    return Key("health", ("health",), Shape.SIGNAL, (Option(Kind.TEXT, doc, optional=True),), (NONE,))


_health = _Keys(HealthSettings)
HEALTH: Final = Section(
    "health",
    "health signal",
    HealthSettings,
    (_health("cut"), _health("recover"), _health("every", "every_s"), _health("floor")),
)

_deadline = _Keys(DeadlineSettings)
DEADLINES: Final = Section(
    "deadlines",
    "deadline",
    DeadlineSettings,
    (
        _deadline("default", "default_s"),
        _deadline("max", "max_s"),
        _deadline("reserve", "reserve_s"),
        _deadline("read", shape=Shape.NAMES, words=READ_HEADERS),
        _deadline("write"),
        _deadline("streams"),
    ),
)

STORE: Final = Key(
    "store",
    ("store",),
    Shape.STORE,
    (Option(Kind.TEXT, "where limiter and health state lives", choices=STORES),),
    STORES,
)

_limiter = _Keys(RateLimiterSettings)
LIMITERS: Final = Section(
    "limiters",
    "limiter",
    RateLimiterSettings,
    (
        _limiter("rate", "rate_per_s"),
        _limiter("burst"),
        _limiter("key", shape=Shape.KEY_SOURCE, words=("client_address", "forwarded_address")),
        _limiter("cost"),
        _limiter("max_wait", "max_wait_s"),
        _limiter("max_keys"),
        _limiter("status"),
        _limiter("fields"),
        _limiter("trusted_proxies", shape=Shape.NETWORKS),
        _limiter("shadow"),
        _signal("the health signal that cuts it; not set: default"),
        STORE,
        Key(
            "on_store_error",
            ("on_store_error",),
            Shape.VALUE,
            (Option(Kind.CHOICE, "what it does while its store fails", choices=("local", "open", "closed")),),
        ),
    ),
)

_breaker = _Keys(CircuitBreakerSettings)
BREAKERS: Final = Section(
    "breakers",
    "breaker",
    CircuitBreakerSettings,
    (
        _breaker("failure_rate"),
        _breaker("window", "window_s", "window_calls", shape=Shape.WINDOW),
        _breaker("min_calls"),
        _breaker("slow_call", "slow_call_s"),
        _breaker("slow_call_rate"),
        _breaker("consecutive_failures"),
        _breaker("open_for", "open_for_s"),
        _breaker("open_growth"),
        _breaker("open_max", "open_max_s"),
        _breaker("probes"),
        _breaker("half_open_for", "half_open_for_s"),
        _breaker("failed_statuses", shape=Shape.STATUSES),
        _breaker("failed_codes", shape=Shape.NAMES, words=COUNTED_CODES),
        _breaker("key", shape=Shape.KEY_SOURCE, words=("host", "method")),
        _breaker("max_keys"),
        _breaker("force"),
        _breaker("shadow"),
        _signal("the health signal it writes; not set: default, or none for a keyed breaker"),
    ),
)

_retry = _Keys(RetrySettings)
RETRIES: Final = Section(
    "retries",
    "retry",
    RetrySettings,
    (
        _retry("attempts"),
        _retry("backoff", "backoff_base_s", "backoff_max_s", shape=Shape.RANGE, implied=(("jitter", "none"),)),
        _retry("jitter"),
        _retry("on", shape=Shape.RETRY_ON, words=(*OWN_REFUSALS, *GRPC_CODES)),
        _retry("max_advice", "max_advice_s"),
        _Keys.group("budget", _retry("tokens", "budget_tokens"), _retry("ratio", "budget_ratio")),
        _retry("when_nested"),
        _signal("the health signal that slows its budget's earning; not set: default"),
    ),
)

SECTIONS: Final = (HEALTH, DEADLINES, LIMITERS, BREAKERS, RETRIES)
LAYERS: Final[Mapping[str, Section]] = {section.noun: section for section in (DEADLINES, LIMITERS, BREAKERS, RETRIES)}
"""The sections whose entries a pipeline can hold, by the word that refers to them there."""

TOP_LEVEL: Final = ("version", *(section.name for section in SECTIONS), "pipelines", "routes", "store")
ROUTE_KEYS: Final = ("match", "pipeline")
MATCH_KEYS: Final = ("path", "methods", "grpc")
