"""What can be set on a circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resilience.layers.statuses import GRPC_CODES, HIGHEST_STATUS, LOWEST_STATUS, status_range
from resilience.settings import Kind, option, validate

MAX_DURATION_S = 86_400
DEFAULT_MIN_CALLS: Final = 20
DEFAULT_FAILED_STATUSES: Final = ("500..599",)
COUNTED_CODES: Final = tuple(name for name in GRPC_CODES if name != "CANCELLED")
"""The gRPC codes that can count as failures. A cancelled call says nothing of the peer."""
DEFAULT_FAILED_CODES: Final = ("UNAVAILABLE", "INTERNAL", "DATA_LOSS", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED")


@dataclass(frozen=True, slots=True)
class CircuitBreakerSettings:
    """Settings of a circuit breaker. The window is `window_s` seconds, or the last `window_calls` calls where that is set.

    `min_calls` None means 20, and at most `window_calls`; once made, the settings hold the number.
    """

    failure_rate: float = option(Kind.SHARE, "share of failed calls that opens", default=0.5, above=0, maximum=1)
    window_s: float = option(Kind.DURATION, "how far back calls count", default=30.0, minimum=0.01, maximum=MAX_DURATION_S)
    window_calls: int | None = option(
        Kind.COUNT, "count the last so many calls instead", default=None, minimum=1, maximum=1_000_000, optional=True
    )
    min_calls: int = option(
        Kind.COUNT,
        "calls needed before it may open; not set: 20, or the whole window where that is a count below 20",
        default=None,
        minimum=1,
        maximum=1_000_000,
        optional=True,
    )
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
    failed_statuses: tuple[str, ...] = option(
        Kind.NAMES,
        "HTTP statuses, and ranges such as 500..599, that count as failures; any other shows that the peer lives",
        default=DEFAULT_FAILED_STATUSES,
    )
    failed_codes: tuple[str, ...] = option(
        Kind.NAMES, "gRPC codes that count as failures; any other shows that the peer lives", default=DEFAULT_FAILED_CODES
    )
    key: str | None = option(
        Kind.TEXT, "one breaker for each: host, method or header:NAME; not set: one for all", default=None, optional=True
    )
    max_keys: int = option(Kind.COUNT, "breakers kept at most when keyed", default=1_000, minimum=1, maximum=1_000_000)
    force: str | None = option(Kind.CHOICE, "hold it open or closed", default=None, choices=("open", "closed"), optional=True)
    shadow: bool = option(Kind.FLAG, "count and report what would be refused, refuse nothing", default=False)

    def __post_init__(self) -> None:
        validate(self)
        if self.min_calls is None:
            object.__setattr__(self, "min_calls", min(DEFAULT_MIN_CALLS, self.window_calls or DEFAULT_MIN_CALLS))
        if self.window_calls is not None and self.min_calls > self.window_calls:
            raise ValueError(
                f"CircuitBreakerSettings.min_calls: must be at most the window of {self.window_calls} calls, got {self.min_calls}"
            )
        self._check_names()

    def _check_names(self) -> None:
        for text in self.failed_statuses:
            if status_range(text) is None:
                raise ValueError(
                    f"CircuitBreakerSettings.failed_statuses: must be HTTP statuses between {LOWEST_STATUS} and {HIGHEST_STATUS}, "
                    f"or ranges such as 500..599, got {text!r}"
                )
        for name in self.failed_codes:
            if name not in COUNTED_CODES:
                known = ", ".join(COUNTED_CODES)
                raise ValueError(f"CircuitBreakerSettings.failed_codes: {name!r} is unknown; it can be {known}")
