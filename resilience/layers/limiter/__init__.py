"""Rate limiting by token bucket."""

from resilience.layers.limiter.layer import RateLimiter
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.limiter.shared import SharedRateLimiter
from resilience.layers.limiter.shared_state import SharedLimiterState
from resilience.layers.limiter.state import LimiterState

__all__ = ["LimiterState", "RateLimiter", "RateLimiterSettings", "SharedLimiterState", "SharedRateLimiter"]
