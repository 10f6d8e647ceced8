"""Circuit breaking."""

from resilience.layers.breaker.layer import BreakerPool, CircuitBreaker
from resilience.layers.breaker.machine import BreakerState
from resilience.layers.breaker.settings import CircuitBreakerSettings

__all__ = ["BreakerPool", "BreakerState", "CircuitBreaker", "CircuitBreakerSettings"]
