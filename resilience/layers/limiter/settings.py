"""What can be set on a rate limiter."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from resilience.settings import Kind, option, validate

MIN_RATE_PER_S = 1e-9
MAX_RATE_PER_S = 1e9
MAX_BURST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RateLimiterSettings:
    """Settings of a token bucket. `burst` None means one second's worth of `rate_per_s`, and at least 1."""

    rate_per_s: float = option(Kind.RATE, "tokens that come back each second", minimum=MIN_RATE_PER_S, maximum=MAX_RATE_PER_S)
    burst: int | None = option(
        Kind.COUNT,
        "tokens a full bucket holds; not set: one second's worth of the rate, at least 1",
        default=None,
        minimum=1,
        maximum=MAX_BURST,
        optional=True,
    )
    key: str | None = option(
        Kind.TEXT,
        "one bucket for each: client_address, forwarded_address or header:NAME; not set: one bucket for all",
        default=None,
        optional=True,
    )
    cost: int = option(Kind.COUNT, "tokens one call takes; 0 only looks", default=1, minimum=0, maximum=MAX_BURST)
    max_wait_s: float = option(
        Kind.DURATION, "how long a call may wait for its tokens before it is refused", default=0.0, minimum=0, maximum=3600
    )
    max_keys: int = option(
        Kind.COUNT, "buckets kept at most; beyond, new keys share one", default=100_000, minimum=1, maximum=50_000_000
    )
    status: int = option(Kind.COUNT, "HTTP status of a refusal while health is reduced", default=429, values=(429, 503))
    fields: str = option(
        Kind.CHOICE,
        "when responses carry RateLimit and RateLimit-Policy",
        default="refused",
        choices=("always", "refused", "never"),
    )
    trusted_proxies: tuple[str, ...] = option(Kind.NAMES, "addresses or networks whose X-Forwarded-For is believed", default=())
    shadow: bool = option(Kind.FLAG, "count and report what would be refused, refuse nothing", default=False)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def capacity(self) -> int:
        """The tokens a full bucket holds when well."""
        return self.burst if self.burst is not None else max(1, int(self.rate_per_s))

    @property
    def exact_rate_per_s(self) -> Fraction:
        """The rate as the ratio the user meant: 1/3600 s stays 1/3600."""
        return Fraction(self.rate_per_s).limit_denominator(1_000_000_000) or Fraction(self.rate_per_s)
