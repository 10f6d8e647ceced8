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
from resilience.refusals import RefusalSettings
from resilience.settings import Kind, Option, options_of
from resilience.stores.settings import HostStoreSettings, RedisStoreSettings
from resilience.workers.settings import WorkerPoolSettings

FORMAT_VERSION: Final = 1
MAX_ENTRIES: Final = 1_000
"""The most names in a section, layers in a pipeline, routes, and items in any other list."""
NAME_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"
NONE: Final = "none"
"""The word for "no health signal" and "no pipeline"; nothing can be called so."""
DEFAULT_SIGNAL: Final = "default"
"""The health signal that always exists."""
STORE_WORDS: Final = ("process", "host")
"""The stores that need nothing said about them."""


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
    STORE = "process, host, or a mapping such as {redis: {url: ...}}"
    PATH = "a pattern such as /orders/*"
    METHODS = "a list such as [GET, POST]"
    GRPC = "a pattern such as /shop.v1.Orders/*"
    PIPELINE = "the name of a pipeline, or none"
    LIMITER = "the name of a limiter, or none"


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
        example: a value as a file may write it.
        default: what holds without it, for a key that sets no field; any other has the default of its fields.
        note: a rule that no option can say.
    """

    name: str
    fields: tuple[str, ...]
    shape: Shape
    options: tuple[Option, ...]
    words: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    implied: tuple[tuple[str, Any], ...] = ()
    example: str = ""
    default: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of named entries. `noun` is what an entry of it is called, in pipelines and in messages; `doc` what it is for."""

    name: str
    noun: str
    settings: type[Any]
    keys: tuple[Key, ...]
    doc: str

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
        example: str,
        note: str = "",
    ) -> Key:
        fields = fields or (name,)
        options = tuple(self._options[name] for name in fields)
        return Key(name, fields, shape, options, words, (), implied, example, note=note)

    @staticmethod
    def group(name: str, *keys: Key) -> Key:
        """A key that holds further keys."""
        fields = tuple(field for key in keys for field in key.fields)
        example = f"{{{', '.join(f'{key.name}: {key.example}' for key in keys)}}}"
        return Key(name, fields, Shape.GROUP, tuple(option for key in keys for option in key.options), (), keys, example=example)


def _signal(doc: str, default: str | None) -> Key:
    option = Option(Kind.TEXT, doc, optional=True)
    return Key("health", ("health",), Shape.SIGNAL, (option,), (NONE,), example=NONE, default=default)


def _reference(name: str, shape: Shape, doc: str) -> Key:
    return Key(name, (name,), shape, (Option(Kind.TEXT, doc, optional=True),), (NONE,), example=NONE, default=NONE)


_health = _Keys(HealthSettings)
HEALTH: Final = Section(
    "health",
    "health signal",
    HealthSettings,
    (
        _health("cut", example="50%"),
        _health("recover", example="10%"),
        _health("every", "every_s", example="30s"),
        _health("floor", example="10%"),
    ),
    "what breakers write, and limiters and retries go by; the signal called default always exists",
)

_deadline = _Keys(DeadlineSettings)
DEADLINES: Final = Section(
    "deadlines",
    "deadline",
    DeadlineSettings,
    (
        _deadline("default", "default_s", example="5s", note="no longer than max"),
        _deadline("max", "max_s", example="30s"),
        _deadline("reserve", "reserve_s", example="20ms"),
        _deadline("read", shape=Shape.NAMES, words=READ_HEADERS, example="[grpc-timeout]"),
        _deadline("write", example="connect-timeout-ms"),
        _deadline("streams", example="true"),
    ),
    "how long a call may take",
)

_host = _Keys(HostStoreSettings)
HOST_STORE: Final = Section(
    HostStoreSettings.kind,
    "host store",
    HostStoreSettings,
    (
        _host("name", example="shop"),
        _host("directory", example="/run/shop"),
        _host("quorum", example="3"),
    ),
    "the processes of one machine, without a server",
)

_redis = _Keys(RedisStoreSettings)
REDIS_STORE: Final = Section(
    RedisStoreSettings.kind,
    "redis store",
    RedisStoreSettings,
    (
        _redis("url", example="redis://127.0.0.1:6379/0"),
        _redis("mode", example="lease"),
        _redis("name", example="shop"),
        _redis("timeout", "timeout_s", example="20ms"),
        _redis("quorum", example="3"),
    ),
    "one Redis or Valkey for many processes",
)
STORE_SECTIONS: Final = (HOST_STORE, REDIS_STORE)
"""The stores about which something can be said, by the word that stands before it."""

STORE: Final = Key(
    "store",
    ("store",),
    Shape.STORE,
    (Option(Kind.TEXT, "where limiter and health state lives"),),
    STORE_WORDS,
    example=STORE_WORDS[0],
    default=STORE_WORDS[0],
)

_limiter = _Keys(RateLimiterSettings)
LIMITERS: Final = Section(
    "limiters",
    "limiter",
    RateLimiterSettings,
    (
        _limiter("rate", "rate_per_s", example="100/s"),
        _limiter("burst", example="200"),
        _limiter("key", shape=Shape.KEY_SOURCE, words=("client_address", "forwarded_address"), example="client_address"),
        _limiter("cost", example="5"),
        _limiter("max_wait", "max_wait_s", example="250ms"),
        _limiter("max_keys", example="10000"),
        _limiter("status", example="503"),
        _limiter("fields", example="always"),
        _limiter("trusted_proxies", shape=Shape.NETWORKS, example="[10.0.0.0/8]"),
        _limiter("shadow", example="true"),
        _signal("the health signal that cuts it", DEFAULT_SIGNAL),
        STORE,
        Key(
            "on_store_error",
            ("on_store_error",),
            Shape.VALUE,
            (Option(Kind.CHOICE, "what it does while its store fails", choices=("local", "open", "closed")),),
            example="open",
            default="local",
        ),
    ),
    "how many calls are let through: token buckets",
)

_breaker = _Keys(CircuitBreakerSettings)
BREAKERS: Final = Section(
    "breakers",
    "breaker",
    CircuitBreakerSettings,
    (
        _breaker("failure_rate", example="25%", note="at 0 % every call would open it"),
        _breaker("window", "window_s", "window_calls", shape=Shape.WINDOW, example="100"),
        _breaker("min_calls", example="50", note="at most window, where that is a count of calls"),
        _breaker("slow_call", "slow_call_s", example="800ms"),
        _breaker("slow_call_rate", example="80%"),
        _breaker("consecutive_failures", example="5"),
        _breaker("open_for", "open_for_s", example="10s"),
        _breaker("open_growth", example="2"),
        _breaker("open_max", "open_max_s", example="10m"),
        _breaker("probes", example="3"),
        _breaker("half_open_for", "half_open_for_s", example="5s"),
        _breaker("failed_statuses", shape=Shape.STATUSES, example="[429, 500..599]"),
        _breaker("failed_codes", shape=Shape.NAMES, words=COUNTED_CODES, example="[UNAVAILABLE, DEADLINE_EXCEEDED]"),
        _breaker("key", shape=Shape.KEY_SOURCE, words=("host", "method"), example="host"),
        _breaker("max_keys", example="500"),
        _breaker("force", example="open"),
        _breaker("shadow", example="true"),
        _signal("the health signal it writes; not set: default, or none for a keyed breaker", None),
    ),
    "when to stop calling what fails, and when to try it again",
)

_retry = _Keys(RetrySettings)
RETRIES: Final = Section(
    "retries",
    "retry",
    RetrySettings,
    (
        _retry("attempts", example="4"),
        _retry(
            "backoff",
            "backoff_base_s",
            "backoff_max_s",
            shape=Shape.RANGE,
            implied=(("jitter", "none"),),
            example="100ms..2s",
            note="one duration is a constant wait, without jitter unless jitter is given",
        ),
        _retry("jitter", example="equal"),
        _retry("on", shape=Shape.RETRY_ON, words=(*OWN_REFUSALS, *GRPC_CODES), example="[503, UNAVAILABLE]"),
        _retry("methods", shape=Shape.METHODS, example="[GET, POST]"),
        _retry("max_advice", "max_advice_s", example="10s"),
        _Keys.group(
            "budget",
            _retry("tokens", "budget_tokens", example="20"),
            _retry("ratio", "budget_ratio", example="0.2"),
        ),
        _retry("when_nested", example="true"),
        _signal("the health signal that slows its budget's earning", DEFAULT_SIGNAL),
    ),
    "what is tried again, how often and after what wait",
)

_pool = _Keys(WorkerPoolSettings)
POOLS: Final = Section(
    "pools",
    "pool",
    WorkerPoolSettings,
    (
        _pool("min_workers", example="2", note="at most max_workers"),
        _pool("max_workers", example="32"),
        _pool("queue", example="10000"),
        _pool("timeout", "timeout_s", example="30s"),
        _pool("pool_timeout", "pool_timeout_s", example="2h"),
        _pool("drain_timeout", "drain_timeout_s", example="10s"),
        _pool("ageing", "ageing_s", example="5s"),
        _pool("grow_wait", "grow_wait_s", example="500ms"),
        _pool("grow_by", example="4"),
        _pool("shrink_by", example="1"),
        _pool("cool_down", "cool_down_s", example="30s"),
        _pool("max_abandoned", example="4"),
        _reference("limiter", Shape.LIMITER, "the limiter that admits tasks"),
        _reference("pipeline", Shape.PIPELINE, "the pipeline that each task goes through, with a retry for example"),
        _signal("the health signal whose factor bounds how many workers are busy", NONE),
        Key(
            "failed",
            ("failed",),
            Shape.VALUE,
            (
                Option(
                    Kind.TEXT,
                    "the SQLite file in which failed tasks are kept, from the folder of this file; not set: they are not",
                    optional=True,
                ),
            ),
            example="failed.db",
        ),
    ),
    "worker pools: queues of tasks, and who works on them",
)

_refusal = _Keys(RefusalSettings)
REFUSALS: Final = Section(
    "refusals",
    "section of refusals",
    RefusalSettings,
    (
        _refusal("quota_status", example="503"),
        _refusal("open_status", example="502"),
        _refusal("deadline_status", example="503"),
        _refusal("body", example="none"),
    ),
    "how refused requests are answered over HTTP",
)
"""The one section without names: what it says holds for all answers of the service."""

SECTIONS: Final = (HEALTH, DEADLINES, LIMITERS, BREAKERS, RETRIES, POOLS)
LAYERS: Final[Mapping[str, Section]] = {section.noun: section for section in (DEADLINES, LIMITERS, BREAKERS, RETRIES)}
"""The sections whose entries a pipeline can hold, by the word that refers to them there."""

TOP_LEVEL_DOCS: Final[Mapping[str, str]] = {
    "version": "the version of the format",
    **{section.name: section.doc for section in SECTIONS},
    "pipelines": "layers in order, outermost first; those before a retry guard the whole call, those after it each attempt",
    "routes": "which pipeline guards which requests: the first rule that matches decides, and what none matches is not guarded",
    REFUSALS.name: REFUSALS.doc,
    STORE.name: STORE.options[0].doc,
}
TOP_LEVEL: Final = tuple(TOP_LEVEL_DOCS)


def _of_route(name: str, shape: Shape, doc: str, example: str, *, optional: bool = True) -> Key:
    kind = Kind.NAMES if shape is Shape.METHODS else Kind.TEXT
    return Key(name, (name,), shape, (Option(kind, doc, optional=optional),), example=example)


MATCH: Final = (
    _of_route("path", Shape.PATH, "the decoded path: * is one segment that is not empty, ** any number of them", '"/orders/**"'),
    _of_route(
        "methods", Shape.METHODS, "the HTTP methods it is for, upper-case; not set: all. GET does not imply HEAD", "[GET, HEAD]"
    ),
    _of_route("grpc", Shape.GRPC, "a gRPC method, in the place of path and methods", '"/shop.v1.Orders/*"'),
)
PIPELINE: Final = _of_route(
    "pipeline", Shape.PIPELINE, "the pipeline that guards these requests; none: nothing does, on purpose", "api", optional=False
)
ROUTE_KEYS: Final = ("match", PIPELINE.name)
MATCH_KEYS: Final = tuple(key.name for key in MATCH)
