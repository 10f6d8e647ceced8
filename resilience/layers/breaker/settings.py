"""What can be set on a circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.settings import Kind, option, validate

MAX_DURATION_S = 86_400


@dataclass(frozen=True, slots=True)
class CircuitBreakerSettings:
    """Settings of a circuit breaker. The window is `window_s` seconds, or the last `window_calls` calls where that is set."""

    failure_rate: float = option(Kind.SHARE, "share of failed calls that opens", default=0.5, minimum=0, maximum=1)
    window_s: float = option(Kind.DURATION, "how far back calls count", default=30.0, minimum=0.01, maximum=MAX_DURATION_S)
    window_calls: int | None = option(
        Kind.COUNT, "count the last so many calls instead", default=None, minimum=1, maximum=1_000_000, optional=True
    )
    min_calls: int = option(Kind.COUNT, "calls needed before it may open", default=20, minimum=1, maximum=1_000_000)
    slow_call_s: float | None = option(
        Kind.DURATION, "a call slower than this is slow", default=None, above=0, maximum=MAX_DURATION_S, optional=True
    )
    slow_call_rate: float = option(Kind.SHARE, "share of slow calls that opens", default=0.5, minimum=0, maximum=1)
    consecutive_failures: int | None = option(
        Kind.COUNT, "failures in a row that open at once", default=None, minimum=1, maximum=1_000_000, optional=True
    )
    open_for_s: float = option(
        Kind.DURATION, "how long it stays open before it probes", default=30.0, minimum=0.001, maximum=MAX_DURATION_S
    )
    open_growth: float = option(
        Kind.NUMBER, "factor on the open time after each failed recovery", default=1.0, minimum=1, maximum=100
    )
    open_max_s: float = option(
        Kind.DURATION, "the longest a growing open time becomes", default=300.0, above=0, maximum=MAX_DURATION_S
    )
    probes: int = option(Kind.COUNT, "calls let through to decide on recovery", default=5, minimum=1, maximum=10_000)
    half_open_for_s: float | None = option(
        Kind.DURATION,
        "a probe that takes longer counts as failed; not set: as open_for",
        default=None,
        above=0,
        maximum=MAX_DURATION_S,
        optional=True,
    )
    key: str | None = option(
        Kind.TEXT, "one breaker for each: host, method or header:NAME; not set: one for all", default=None, optional=True
    )
    max_keys: int = option(Kind.COUNT, "breakers kept at most when keyed", default=1_000, minimum=1, maximum=1_000_000)
    force: str | None = option(Kind.CHOICE, "hold it open or closed", default=None, choices=("open", "closed"), optional=True)
    shadow: bool = option(Kind.FLAG, "count and report what would be refused, refuse nothing", default=False)

    def __post_init__(self) -> None:
        validate(self)
        if self.failure_rate == 0:
            raise ValueError("CircuitBreakerSettings.failure_rate: must be above 0 %, or every call would open it")
        if self.window_calls is not None and self.min_calls > self.window_calls:
            raise ValueError(
                f"CircuitBreakerSettings.min_calls: must be at most the window of {self.window_calls} calls, got {self.min_calls}"
            )
