"""A toolkit: everything that one configuration file describes, alive.

State lives by (kind, name) and outlives changes of settings; applying a document makes every state follow the new settings and
then rebinds one reference, so that nobody sees half of a change.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock
from resilience.config import Document, LayerReference, RouteTable, read
from resilience.errors import ConfigError
from resilience.events import ConfigLoaded, ConfigRefused, emit, held_back
from resilience.handle import PipelineHandle
from resilience.health import HealthSignal
from resilience.layers.breaker import BreakerPool, CircuitBreaker
from resilience.layers.deadline import Deadline, DeadlineState
from resilience.layers.limiter import LimiterState, RateLimiter
from resilience.layers.retry import Retry, RetryState
from resilience.pipeline import Pipeline

log = logging.getLogger("resilience")
S = TypeVar("S")


class Active:
    """One configuration in force: immutable, shared by all calls that began under it."""

    __slots__ = ("_routes", "document", "pipelines", "since_us", "version")

    def __init__(self, version: int, document: Document, pipelines: Mapping[str, Pipeline], since_us: int) -> None:
        self.version = version
        self.document = document
        self.pipelines = pipelines
        self.since_us = since_us
        self._routes = RouteTable(document.routes)

    def find(self, method: str, path: str) -> Pipeline | None:
        """The pipeline that guards an HTTP request, or None."""
        rule = self._routes.find(method, path)
        return None if rule is None or rule.pipeline is None else self.pipelines[rule.pipeline]


class States:
    """What is kept from one configuration to the next."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.signals: dict[str, HealthSignal] = {}
        self.deadlines: dict[str, DeadlineState] = {}
        self.limiters: dict[str, LimiterState] = {}
        self.breakers: dict[str, BreakerPool] = {}
        self.retries: dict[str, RetryState] = {}

    def follow(self, document: Document) -> None:
        """Make every state go by `document`; new ones start fresh, those no longer named let go of their signals."""
        now_us = self.clock.now_us()
        signals = self._follow_health(document, now_us)
        self.signals = signals
        for name in set(self.breakers) - set(document.breakers):
            self.breakers.pop(name).retire(now_us)
        for name, breaker in document.breakers.items():
            signal = _signal(signals, breaker.health)
            if name in self.breakers:
                self.breakers[name].configure(breaker.settings, signal, now_us)
            else:
                self.breakers[name] = BreakerPool(name, breaker.settings, signal, now_us, random.random)
        self._follow_readers(document, now_us)

    def _follow_health(self, document: Document, now_us: int) -> dict[str, HealthSignal]:
        signals: dict[str, HealthSignal] = {}
        for name, settings in document.health.items():
            signal = self.signals.get(name)
            if signal is None:
                signal = HealthSignal(name=name, clock=self.clock)
            signal.configure(settings, now_us)
            signals[name] = signal
        return signals

    def _follow_readers(self, document: Document, now_us: int) -> None:
        _forget(self.limiters, document.limiters)
        _forget(self.retries, document.retries)
        _forget(self.deadlines, document.deadlines)
        for name, limiter in document.limiters.items():
            signal = _signal(self.signals, limiter.health)
            if name in self.limiters:
                self.limiters[name].move_to(signal, now_us)
                self.limiters[name].configure(limiter.settings, now_us)
            else:
                self.limiters[name] = LimiterState(limiter.settings, signal, now_us)
        for name, retry in document.retries.items():
            signal = _signal(self.signals, retry.health)
            if name in self.retries:
                self.retries[name].configure(retry.settings, signal)
            else:
                self.retries[name] = RetryState(retry.settings, signal)
        for name in document.deadlines:
            self.deadlines.setdefault(name, DeadlineState())

    def pipelines(self, document: Document) -> dict[str, Pipeline]:
        """The pipelines of `document` over these states. A policy named in two pipelines is one layer in both."""
        layers: dict[LayerReference, Any] = {}
        for references in document.pipelines.values():
            for reference in references:
                if reference not in layers:
                    layers[reference] = self._layer(document, reference)
        return {
            name: Pipeline(name, *(layers[reference] for reference in references))
            for name, references in document.pipelines.items()
        }

    def _layer(self, document: Document, reference: LayerReference) -> Any:
        name, clock = reference.name, self.clock
        if reference.kind == "deadline":
            return Deadline.over(self.deadlines[name], document.deadlines[name], name=name, clock=clock)
        if reference.kind == "limiter":
            return RateLimiter.over(self.limiters[name], document.limiters[name].settings, name=name, clock=clock)
        if reference.kind == "breaker":
            return CircuitBreaker.over(self.breakers[name], document.breakers[name].settings, name=name, clock=clock)
        return Retry.over(self.retries[name], document.retries[name].settings, name=name, clock=clock)

    def retire(self) -> None:
        """Let go of every signal."""
        now_us = self.clock.now_us()
        for pool in self.breakers.values():
            pool.retire(now_us)


def _signal(signals: Mapping[str, HealthSignal], name: str | None) -> HealthSignal | None:
    return None if name is None else signals[name]


def _forget(states: dict[str, S], named: Iterable[str]) -> None:
    for name in set(states) - set(named):
        del states[name]


class Toolkit:
    """The live policies, pipelines, routes and health signals of one configuration file. Made by `load`."""

    def __init__(self, path: str, document: Document, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = path
        self.clock = clock
        self._lock = threading.Lock()
        self._states = States(clock)
        self._users = 0
        self._last_error: str | None = None
        self.active: Active
        self._apply(document)

    def reload(self) -> None:
        """Read the file again and put it in force. A file that cannot be used changes nothing.

        Raises:
            ConfigError: what is wrong with the file; the configuration in force stays.
        """
        try:
            document = read(self.path)
        except ConfigError as error:
            self._last_error = str(error)
            emit([ConfigRefused(self.path, str(error))])
            raise
        with held_back(), self._lock:
            self._apply(document)
            self._last_error = None
        self._announce(document)

    def _apply(self, document: Document) -> None:
        self._states.follow(document)
        pipelines = self._states.pipelines(document)
        version = self.active.version + 1 if hasattr(self, "active") else 1
        self.active = Active(version, document, pipelines, self.clock.now_us())

    def _announce(self, document: Document) -> None:
        """Tell of a document that has come into force, once every lock is released: an observer may look at the toolkit."""
        emit([ConfigLoaded(self.path, document.sha256)])
        for warning in document.warnings:
            log.warning("%s", warning)

    def pipeline(self, name: str) -> PipelineHandle:
        """A handle on the pipeline called `name`; it follows changes of the configuration.

        Raises:
            ConfigError: there is no such pipeline now.
        """
        self.resolve(name)
        return PipelineHandle(name, self.resolve)

    def resolve(self, name: str) -> Pipeline:
        """The pipeline called `name` as it is now."""
        pipeline = self.active.pipelines.get(name)
        if pipeline is None:
            known = ", ".join(sorted(self.active.pipelines)) or "none at all"
            raise ConfigError(f"{self.path}: has no pipeline called {name!r}; it has {known}")
        return pipeline

    def health(self, name: str = "default") -> HealthSignal:
        """The health signal called `name`.

        Raises:
            ConfigError: there is no such signal.
        """
        signal = self._states.signals.get(name)
        if signal is None:
            raise ConfigError(f"{self.path}: has no health signal called {name!r}; it has {', '.join(self._states.signals)}")
        return signal

    def status(self) -> dict[str, Any]:
        """What an operator wants to see: the configuration in force, the last error, and the state of every policy."""
        active = self.active
        policies: dict[str, dict[str, Any]] = {"deadline": {}, "limiter": {}, "breaker": {}, "retry": {}}
        for pipeline in active.pipelines.values():
            for layer in pipeline.layers:
                policies[layer.kind].setdefault(layer.name, layer.status())
        return {
            "path": self.path,
            "version": active.version,
            "sha256": active.document.sha256,
            "age_s": (self.clock.now_us() - active.since_us) / US_PER_S,
            "last_error": self._last_error,
            "health": {name: signal.status() for name, signal in self._states.signals.items()},
            **{f"{kind}s" if kind != "retry" else "retries": found for kind, found in policies.items()},
        }

    def close(self) -> None:
        """Give up one use of the toolkit; the last one ends it. What is under way settles as before."""
        with _live_lock:
            self._users -= 1
            if self._users > 0:
                return
            if _live.get(self.path) is self:
                del _live[self.path]
        self._states.retire()

    def __enter__(self) -> Toolkit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Toolkit({self.path!r}, version {self.active.version})"


_live_lock = threading.Lock()
_live: dict[str, Toolkit] = {}


def load(path: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK) -> Toolkit:
    """Bring the configuration file at `path` to life. One real path has one live toolkit in a process; each `load` is one use.

    Args:
        path: the YAML file.
        clock: where time comes from; only the first load of a path decides.

    Raises:
        ConfigError: every fault of the file, each with line and column.
    """
    real = os.path.realpath(path)
    with held_back(), _live_lock:
        toolkit = _live.get(real)
        is_new = toolkit is None
        if toolkit is None:
            toolkit = _live[real] = Toolkit(real, read(real), clock)
        toolkit._users += 1
        document = toolkit.active.document
    if is_new:
        toolkit._announce(document)
    return toolkit
