"""What a configuration file says, read and validated: plain frozen data that whoever builds a toolkit goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from resilience.config.report import Position
from resilience.config.routes import RouteRule
from resilience.errors import Problem
from resilience.health import HealthSettings
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.retry.settings import RetrySettings
from resilience.refusals import RefusalSettings
from resilience.stores.settings import PROCESS, HostStoreSettings, RedisStoreSettings, StoreSettings
from resilience.workers.settings import WorkerPoolSettings

LayerKind = Literal["deadline", "limiter", "breaker", "retry"]
StoreErrorAction = Literal["local", "open", "closed"]


@dataclass(frozen=True, slots=True)
class LimiterEntry:
    """One entry of `limiters`. `health` is the signal that cuts it, or None."""

    settings: RateLimiterSettings
    health: str | None
    store: StoreSettings = PROCESS
    on_store_error: StoreErrorAction = "local"


@dataclass(frozen=True, slots=True)
class BreakerEntry:
    """One entry of `breakers`. `health` is the signal it writes, or None."""

    settings: CircuitBreakerSettings
    health: str | None


@dataclass(frozen=True, slots=True)
class RetryEntry:
    """One entry of `retries`. `health` is the signal that slows its budget's earning, or None."""

    settings: RetrySettings
    health: str | None


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One entry of `pools`. `limiter`, `pipeline` and `health` are names; `failed` is a path as the file has it."""

    settings: WorkerPoolSettings
    limiter: str | None = None
    pipeline: str | None = None
    health: str | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class LayerReference:
    """One layer of a pipeline: the entry `name` of the section that belongs to `kind`."""

    kind: LayerKind
    name: str


@dataclass(frozen=True, slots=True)
class Document:
    """A whole configuration file. Every name in it exists, and every value is in its range.

    Attributes:
        source: what the file is called in messages.
        sha256: of its bytes, in hexadecimal.
        version: of the file format.
        store: where state lives that no entry puts elsewhere.
        health: the signals by name; `default` is always among them.
        pools: the worker pools by name.
        pipelines: the layers of each pipeline, outermost first.
        routes: the rules in their order; the first match wins. See `RouteTable`.
        refusals: how refused requests are answered over HTTP.
        warnings: what can be used, but its author may not mean.
        positions: line and column of each dotted key: a name where it is written, any other key where its value is.
    """

    source: str
    sha256: str
    version: int
    store: StoreSettings
    health: Mapping[str, HealthSettings]
    deadlines: Mapping[str, DeadlineSettings]
    limiters: Mapping[str, LimiterEntry]
    breakers: Mapping[str, BreakerEntry]
    retries: Mapping[str, RetryEntry]
    pools: Mapping[str, PoolEntry]
    pipelines: Mapping[str, tuple[LayerReference, ...]]
    routes: tuple[RouteRule, ...]
    refusals: RefusalSettings
    warnings: tuple[Problem, ...]
    positions: Mapping[str, Position]

    def has_fleet_health(self, limiter: str) -> bool:
        """Whether all processes that share a limiter's store hear of health from one board: that of the store at the top."""
        of_health, of_limiter = self.store.kind, self.limiters[limiter].store.kind
        return of_health == RedisStoreSettings.kind or of_health == of_limiter == HostStoreSettings.kind
