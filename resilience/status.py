"""What an operator wants to see of what is alive: plain data, ready for JSON.

No key of a client is in it, and it does not grow with their number: a keyed policy tells how many keys it keeps, and a keyed
breaker how many of them are in which state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from resilience.call import Call
from resilience.clock import US_PER_S
from resilience.config.document import LayerKind, LayerReference
from resilience.config.schema import LAYERS
from resilience.health import HealthSignal
from resilience.layers.breaker import BreakerState, CircuitBreaker
from resilience.layers.deadline import Deadline
from resilience.layers.limiter import RateLimiter
from resilience.layers.retry import Retry
from resilience.pipeline import Pipeline
from resilience.states import Active

_LAYERS: Final = (Deadline, RateLimiter, CircuitBreaker, Retry)
_WORST_FIRST: Final = (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)
_MOST_LINES: Final = 20


def active_status(active: Active, now_us: int) -> dict[str, Any]:
    """A configuration in force: which it is, since when, its signals, and all its policies, also those in no pipeline."""
    return {
        "version": active.version,
        "sha256": active.document.sha256,
        "age_s": max(0, now_us - active.since_us) / US_PER_S,
        "health": _signals(active.states.signals.values()),
        **_policies(_layers_of(active)),
    }


def pipeline_status(pipeline: Pipeline) -> dict[str, Any]:
    """A pipeline made in code: its policies, and the signals that they go by. Layers of the user's own are left out."""
    layers = [layer for layer in pipeline.layers if isinstance(layer, _LAYERS)]
    states = [layer.pool if isinstance(layer, CircuitBreaker) else layer.state for layer in layers]
    signals = dict.fromkeys(signal for state in states if (signal := getattr(state, "health", None)) is not None)
    return {"pipeline": pipeline.name, "health": _signals(signals), **_policies(layers)}


def shortened(error: str) -> str:
    """An error whose lines are faults, cut where there are so many that nobody would read them all."""
    lines = error.split("\n")
    if len(lines) <= _MOST_LINES:
        return error
    return "\n".join([*lines[:_MOST_LINES], f"... and {len(lines) - _MOST_LINES} more"])


def _signals(signals: Iterable[HealthSignal]) -> dict[str, Any]:
    return {signal.name: signal.status() for signal in signals}


def _layers_of(active: Active) -> Iterator[Any]:
    """One layer for each policy of the document, in its order: the one that pipelines use where any does."""
    used = {(layer.kind, layer.name): layer for pipeline in active.pipelines.values() for layer in pipeline.layers}
    for kind, section in LAYERS.items():
        named: Mapping[str, Any] = getattr(active.document, section.name)
        for name in named:
            layer = used.get((kind, name))
            yield active.states._layer(LayerReference(cast(LayerKind, kind), name)) if layer is None else layer


def _policies(layers: Iterable[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {section.name: {} for section in LAYERS.values()}
    for layer in layers:
        section = found[LAYERS[layer.kind].name]
        name = layer.name
        while name in section:  # in code, two layers may have one name
            name += "'"
        section[name] = _policy(layer)
    return found


def _policy(layer: Any) -> dict[str, Any]:
    if isinstance(layer, RateLimiter):
        return _limiter(layer)
    return _breaker(layer) if isinstance(layer, CircuitBreaker) else dict(layer.status())


def _limiter(limiter: RateLimiter) -> dict[str, Any]:
    found = {"shadow": limiter.settings.shadow, **limiter.status()}
    if limiter.key_of is not None:
        return found
    return {**found, "remaining": limiter.quota(Call(now_us=limiter.clock.now_us())).remaining}


def _breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    found = {"shadow": breaker.settings.shadow, **breaker.status()}
    if breaker._key_of is None:
        return found
    counts = Counter(machine.state for machine in breaker.pool.table)
    # The rest of a single breaker's state says nothing of many.
    told = {name: value for name, value in found.items() if name not in {"generation", "failure_rate", "opens_for_s"}}
    worst = next((state for state in _WORST_FIRST if counts[state]), BreakerState.CLOSED)
    return {**told, "state": worst.value, "states": {state.value: counts[state] for state in BreakerState}}
