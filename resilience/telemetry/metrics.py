"""Metrics: plain integers of the layers, read by observable instruments only when a reader collects.

Labels are names from the configuration or the code, and words of our own. No client key ever becomes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from resilience import store_timing
from resilience.health import HealthSignal
from resilience.layers.breaker import BreakerState, CircuitBreaker
from resilience.layers.deadline import Deadline
from resilience.layers.limiter import RateLimiter, SharedRateLimiter
from resilience.layers.retry import Retry
from resilience.registry import members
from resilience.telemetry.changes import ChangeReporter

LAYERS: Final = (Deadline, RateLimiter, CircuitBreaker, Retry)
STATE_NUMBERS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
Read = Callable[[], Iterable[Observation]]


def observe(reporter: ChangeReporter) -> None:
    """Make the instruments. Before a meter provider is set they wait; without one they cost nothing."""
    meter = metrics.get_meter("resilience")
    meter.create_observable_counter("resilience.decisions", [_callback(_decisions)], description="what the layers decided")
    meter.create_observable_counter("resilience.retry.attempts", [_callback(_attempts)], description="tries made")
    meter.create_observable_gauge("resilience.health.factor", [_callback(_factors)], description="1 when well")
    meter.create_observable_gauge(
        "resilience.breaker.state", [_callback(_states)], description="0 closed, 1 half-open, 2 open; the worst of a keyed one"
    )
    meter.create_observable_gauge("resilience.limiter.rate", [_callback(_rates)], unit="1/s", description="the effective rate")
    meter.create_observable_gauge("resilience.retry.budget", [_callback(_budgets)], description="tokens left")
    meter.create_observable_counter(
        "resilience.limiter.without_store", [_callback(_without_store)], description="decided while the store was away"
    )
    duration = meter.create_histogram("resilience.store.duration", unit="s", description="trips to a shared store")
    store_timing.install(lambda duration_s, store, result: duration.record(duration_s, {"store": store, "result": result}))
    meter.create_observable_counter(
        "resilience.config.reloads", [_callback(lambda: _reloads(reporter))], description="configuration files read"
    )


def _callback(read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: read()


def _distinct(kind: type[Any]) -> Iterator[Any]:
    """The living layers of a kind, one for each state: after a reload two layers may share one."""
    seen: set[int] = set()
    for layer in members(kind):
        state = getattr(layer, "pool", None) or layer.state
        if id(state) not in seen:
            seen.add(id(state))
            yield layer


def _decisions() -> Iterator[Observation]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for kind in LAYERS:
        for layer in _distinct(kind):
            for decision, count in layer.decisions().items():
                counts[layer.kind, layer.name, decision] += count
    for (layer_kind, policy, decision), count in counts.items():
        yield Observation(count, {"layer": layer_kind, "policy": policy, "decision": decision})


def _attempts() -> Iterator[Observation]:
    counts: Counter[str] = Counter()
    for retry in _distinct(Retry):
        counts[retry.name] += retry.state.admitted + retry.state.retried
    for policy, count in counts.items():
        yield Observation(count, {"policy": policy})


def _factors() -> Iterator[Observation]:
    for signal in members(HealthSignal):
        yield Observation(signal.factor, {"signal": signal.name})


def _states() -> Iterator[Observation]:
    for breaker in _distinct(CircuitBreaker):
        worst = max(STATE_NUMBERS[machine.state] for machine in breaker.pool)
        yield Observation(worst, {"policy": breaker.name})


def _rates() -> Iterator[Observation]:
    for limiter in _distinct(RateLimiter):
        yield Observation(limiter.rate_per_s, {"policy": limiter.name})


def _without_store() -> Iterator[Observation]:
    for limiter in _distinct(SharedRateLimiter):
        yield Observation(limiter.shared.without_store, {"policy": limiter.name})


def _budgets() -> Iterator[Observation]:
    for retry in _distinct(Retry):
        yield Observation(retry.state.budget.tokens, {"policy": retry.name})


def _reloads(reporter: ChangeReporter) -> Iterator[Observation]:
    yield Observation(reporter.configs_loaded, {"result": "loaded"})
    yield Observation(reporter.configs_refused, {"result": "refused"})
