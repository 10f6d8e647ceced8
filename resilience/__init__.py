"""Keeps services standing when traffic surges and dependencies fail.

Layers (`RateLimiter`, `CircuitBreaker`, `Retry`, `Deadline`) compose into a `Pipeline` and share one `HealthSignal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience import telemetry
from resilience.call import Call, Decision, Outcome, Permit
from resilience.clock import Clock
from resilience.current import CurrentCall, current_call
from resilience.errors import (
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    Problem,
    Quota,
    RateLimited,
    Rejected,
    ResilienceError,
)
from resilience.events import (
    BreakerChanged,
    ConfigLoaded,
    ConfigRefused,
    Event,
    HealthChanged,
    Observer,
    StoreChanged,
    subscribe,
)
from resilience.handle import PipelineHandle
from resilience.health import HealthSignal
from resilience.layers.breaker import BreakerState, CircuitBreaker
from resilience.layers.deadline import CurrentDeadline, Deadline, current_deadline
from resilience.layers.limiter import RateLimiter
from resilience.layers.retry import Retry, Verdict
from resilience.pipeline import Pipeline
from resilience.refusals import RefusalSettings

if TYPE_CHECKING:
    from resilience.toolkit import Toolkit, load

__version__ = "0.1.0"

__all__ = [
    "BreakerChanged",
    "BreakerState",
    "Call",
    "CircuitBreaker",
    "CircuitOpen",
    "Clock",
    "ConfigError",
    "ConfigLoaded",
    "ConfigRefused",
    "CurrentCall",
    "CurrentDeadline",
    "Deadline",
    "DeadlineExceeded",
    "Decision",
    "Event",
    "HealthChanged",
    "HealthSignal",
    "Observer",
    "Outcome",
    "Permit",
    "Pipeline",
    "PipelineHandle",
    "Problem",
    "Quota",
    "RateLimited",
    "RateLimiter",
    "RefusalSettings",
    "Rejected",
    "ResilienceError",
    "Retry",
    "StoreChanged",
    "Toolkit",
    "Verdict",
    "__version__",
    "current_call",
    "current_deadline",
    "load",
    "subscribe",
]

telemetry.install()


def __getattr__(name: str) -> Any:
    """What reads files is loaded when it is asked for: to whoever writes pipelines in code, importing YAML is half of the time."""
    if name not in ("Toolkit", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilience import toolkit

    globals()["Toolkit"], globals()["load"] = toolkit.Toolkit, toolkit.load
    return globals()[name]
