"""Metrics: plain integers of the layers, read by observable instruments only when a reader collects.

Labels are names from the configuration or the code, and words of our own. No client key ever becomes one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from resilience.workers.pool import Pool

LAYERS: Final = (Deadline, RateLimiter, CircuitBreaker, Retry)
STATE_NUMBERS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_POOLS: Final = "resilience.workers.pool"
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
    meter.create_observable_gauge("resilience.pool.queue.length", [_callback(_queue_lengths)], description="tasks that wait")
    meter.create_observable_gauge(
        "resilience.pool.queue.wait", [_callback(_queue_waits)], unit="s", description="how long tasks wait on average"
    )
    meter.create_observable_gauge("resilience.pool.workers", [_callback(_workers)], description="workers by what they do")
    meter.create_observable_counter("resilience.pool.tasks", [_callback(_tasks)], description="tasks by how they ended")
    meter.create_observable_gauge(
        "resilience.pool.not_kept", [_callback(_not_kept)], description="failed tasks in memory that could not be stored"
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


def _pools() -> list[Pool[Any]]:
    """The living worker pools. Whoever has one has loaded what they are made of, and nobody else should pay for that."""
    return members(sys.modules[_POOLS].Pool) if _POOLS in sys.modules else []


def _decisions() -> Iterator[Observation]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for kind in LAYERS:
        for layer in _distinct(kind):
            for decision, count in layer.decisions().items():
                counts[layer.kind, layer.name, decision] += count
    for pool in _pools():
        for decision, count in pool.decisions().items():
            counts["pool", pool.name, decision] += count
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


def _queue_lengths() -> Iterator[Observation]:
    yield from _of_pools(lambda status: {(): status["queue_length"]})


def _queue_waits() -> Iterator[Observation]:
    for pool in _pools():
        yield Observation(pool.status()["queue_wait_s"], {"policy": pool.name})


def _workers() -> Iterator[Observation]:
    yield from _of_pools(lambda status: {(("state", state),): status[state] for state in ("busy", "idle", "abandoned")})


def _tasks() -> Iterator[Observation]:
    outcomes = ("done", "failed", "timed_out", "cancelled")
    yield from _of_pools(lambda status: {(("outcome", outcome),): status[outcome] for outcome in outcomes})


def _not_kept() -> Iterator[Observation]:
    yield from _of_pools(lambda status: {(): status["failed_not_kept"]})


def _of_pools(read: Callable[[dict[str, Any]], dict[tuple[tuple[str, str], ...], int]]) -> Iterator[Observation]:
    """Counts of all pools of a name together, by further labels."""
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for pool in _pools():
        for labels, count in read(pool.status()).items():
            counts[("policy", pool.name), *labels] += count
    for labels, count in counts.items():
        yield Observation(count, dict(labels))


def _reloads(reporter: ChangeReporter) -> Iterator[Observation]:
    yield Observation(reporter.configs_loaded, {"result": "loaded"})
    yield Observation(reporter.configs_refused, {"result": "refused"})
