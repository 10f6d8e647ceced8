"""What lives under one configuration: the state of every policy by (kind, name), and the pipelines over it.

State outlives changes of settings: a new configuration is built over the same state objects, and only when all of it stands do they
follow its settings.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Container, Mapping
from typing import Any

from resilience.clock import Clock
from resilience.config import Document, LayerReference, RouteTable
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, HealthSignal
from resilience.layers.breaker import BreakerPool, CircuitBreaker
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.deadline import Deadline, DeadlineState
from resilience.layers.limiter import LimiterState, RateLimiter, SharedLimiterState, SharedRateLimiter
from resilience.layers.retry import Retry, RetryState
from resilience.pipeline import Pipeline
from resilience.stores import HostStoreSettings, SharedStore, give_up, open_store
from resilience.stores.live import SharedStoreSettings
from resilience.stores.settings import ProcessStoreSettings, StoreSettings, after_file


class States:
    """The states that `document` names: those of `before` where it has them, fresh ones else.

    Making it changes nothing that is in use. `follow` does, and cannot fail: it is arithmetic on settings that were validated.
    """

    def __init__(self, document: Document, clock: Clock, before: States | None = None) -> None:
        self.document = document
        self.clock = clock
        now_us = clock.now_us()
        kept = before or _Nothing
        self.stores: Mapping[StoreSettings, SharedStore] = {
            settings: kept.stores.get(settings) or open_store(self._named(settings), clock) for settings in _shared_stores(document)
        }
        kept_signals = kept.signals if before is None or before.document.store == document.store else {}
        self.signals: Mapping[str, HealthSignal] = {
            name: kept_signals.get(name) or self._new_signal(name, settings) for name, settings in document.health.items()
        }
        self.deadlines: Mapping[str, DeadlineState] = {
            name: kept.deadlines.get(name) or DeadlineState() for name in document.deadlines
        }
        self.limiters: Mapping[str, LimiterState] = {
            name: self._kept_limiter(name, before) or self._new_limiter(name, now_us) for name in document.limiters
        }
        self.breakers: Mapping[str, BreakerPool] = {
            name: kept.breakers.get(name) or _quiet_pool(name, entry.settings, now_us) for name, entry in document.breakers.items()
        }
        self.retries: Mapping[str, RetryState] = {
            name: kept.retries.get(name) or RetryState(entry.settings, self._signal(entry.health))
            for name, entry in document.retries.items()
        }

    def _named(self, settings: SharedStoreSettings) -> SharedStoreSettings:
        """A store of the host that has no name is called after the file."""
        if isinstance(settings, HostStoreSettings) and settings.name is None:
            return dataclasses.replace(settings, name=after_file(self.document.source))
        return settings

    def _new_signal(self, name: str, settings: HealthSettings) -> HealthSignal:
        store = self.document.store
        if isinstance(store, ProcessStoreSettings):
            return HealthSignal(name=name, clock=self.clock)
        return FleetHealthSignal(self.stores[store], quorum=store.quorum, settings=settings, name=name, clock=self.clock)

    def _kept_limiter(self, name: str, before: States | None) -> LimiterState | None:
        if before is None or name not in before.limiters:
            return None
        is_same_store = before.document.limiters[name].store == self.document.limiters[name].store
        return before.limiters[name] if is_same_store else None

    def _new_limiter(self, name: str, now_us: int) -> LimiterState:
        entry = self.document.limiters[name]
        health = self._signal(entry.health)
        if isinstance(entry.store, ProcessStoreSettings):
            return LimiterState(entry.settings, health, now_us)
        buckets, has_fleet_health = self.stores[entry.store].buckets, self.document.has_fleet_health(name)
        return SharedLimiterState(
            name, entry.settings, health, now_us, buckets, entry.on_store_error, has_fleet_health=has_fleet_health
        )

    def _signal(self, name: str | None) -> HealthSignal | None:
        return None if name is None else self.signals[name]

    def follow(self, before: States | None) -> None:
        """Make every state go by the document; those of `before` that it does not name let go of their signals."""
        document, now_us = self.document, self.clock.now_us()
        for name, settings in document.health.items():
            self.signals[name].configure(settings, now_us)
        for name, pool in ({} if before is None else before.breakers).items():
            if name not in self.breakers:
                pool.retire(now_us)
        for name, breaker in document.breakers.items():
            self.breakers[name].configure(breaker.settings, self._signal(breaker.health), now_us)
        self._follow_limiters(now_us)
        for name, retry in document.retries.items():
            self.retries[name].configure(retry.settings, self._signal(retry.health))
        self._follow_stores(before)

    def _follow_limiters(self, now_us: int) -> None:
        for name, limiter in self.document.limiters.items():
            state = self.limiters[name]
            state.move_to(self._signal(limiter.health), now_us)
            state.configure(limiter.settings, now_us)
            if isinstance(state, SharedLimiterState):
                state.on_store_error = limiter.on_store_error
                state.has_fleet_health = self.document.has_fleet_health(name)

    def _follow_stores(self, before: States | None) -> None:
        for signal in self.signals.values():
            if isinstance(signal, FleetHealthSignal):
                self.stores[self.document.store].join(signal)
        if before is not None:
            before._leave_boards({id(signal) for signal in self.signals.values()})
            for settings, store in before.stores.items():
                if settings not in self.stores:
                    give_up(store)

    def _leave_boards(self, kept: Container[int] = ()) -> None:
        for signal in self.signals.values():
            if isinstance(signal, FleetHealthSignal) and id(signal) not in kept:
                self.stores[self.document.store].leave(signal)

    def pipelines(self) -> dict[str, Pipeline]:
        """The pipelines of the document over these states. A policy named in two pipelines is one layer in both."""
        document = self.document
        layers: dict[LayerReference, Any] = {}
        for references in document.pipelines.values():
            for reference in references:
                if reference not in layers:
                    layers[reference] = self._layer(reference)
        return {
            name: Pipeline(name, *(layers[reference] for reference in references))
            for name, references in document.pipelines.items()
        }

    def _layer(self, reference: LayerReference) -> Any:
        document, name, clock = self.document, reference.name, self.clock
        if reference.kind == "deadline":
            return Deadline.over(self.deadlines[name], document.deadlines[name], name=name, clock=clock)
        if reference.kind == "limiter":
            state = self.limiters[name]
            limiter = SharedRateLimiter if isinstance(state, SharedLimiterState) else RateLimiter
            return limiter.over(state, document.limiters[name].settings, name=name, clock=clock)
        if reference.kind == "breaker":
            return CircuitBreaker.over(self.breakers[name], document.breakers[name].settings, name=name, clock=clock)
        return Retry.over(self.retries[name], document.retries[name].settings, name=name, clock=clock)

    def retire(self) -> None:
        """Let go of every signal."""
        now_us = self.clock.now_us()
        for pool in self.breakers.values():
            pool.retire(now_us)
        self._leave_boards()
        for store in self.stores.values():
            give_up(store)


def _shared_stores(document: Document) -> dict[SharedStoreSettings, None]:
    """The stores that a document names, the one for its health first."""
    named = (document.store, *(entry.store for entry in document.limiters.values()))
    return {settings: None for settings in named if not isinstance(settings, ProcessStoreSettings)}


class _Nothing:
    """What is kept where nothing was before."""

    stores: Mapping[StoreSettings, SharedStore] = {}
    signals: Mapping[str, HealthSignal] = {}
    deadlines: Mapping[str, DeadlineState] = {}
    limiters: Mapping[str, LimiterState] = {}
    breakers: Mapping[str, BreakerPool] = {}
    retries: Mapping[str, RetryState] = {}


def _quiet_pool(name: str, settings: CircuitBreakerSettings, now_us: int) -> BreakerPool:
    """A fresh breaker that writes no signal and is not forced until it is told to follow its settings."""
    return BreakerPool(name, dataclasses.replace(settings, force=None), None, now_us, random.random)


class Active:
    """One configuration in force: immutable, shared by all calls that began under it."""

    __slots__ = ("_routes", "document", "pipelines", "since_us", "states", "version")

    def __init__(self, version: int, states: States, before: Active | None = None) -> None:
        """Build all of it, and only then make the states follow: what fails has changed nothing."""
        self.version = version
        self.document = states.document
        self.states = states
        self.pipelines: Mapping[str, Pipeline] = states.pipelines()
        self._routes = RouteTable(self.document.routes)
        states.follow(None if before is None else before.states)
        self.since_us = states.clock.now_us()

    def find(self, method: str, path: str) -> Pipeline | None:
        """The pipeline that guards an HTTP request, or None."""
        rule = self._routes.find(method, path)
        return None if rule is None or rule.pipeline is None else self.pipelines[rule.pipeline]

    def find_grpc(self, method: str) -> Pipeline | None:
        """The pipeline that guards a gRPC method such as "/shop.v1.Orders/Get", or None."""
        rule = self._routes.find_grpc(method)
        return None if rule is None or rule.pipeline is None else self.pipelines[rule.pipeline]
