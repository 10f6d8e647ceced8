"""What can be set on a batch caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resilience.clock import to_us
from resilience.settings import Kind, option, validate

MAX_TIMEOUT_S: Final = 86_400
MAX_CONCURRENCY: Final = 10_000


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Settings of a batch caller. Without time limits a batch takes as long as its caller's deadline lets it."""

    concurrency: int = option(Kind.COUNT, "calls of one batch in flight at most", default=32, minimum=1, maximum=MAX_CONCURRENCY)
    timeout_s: float | None = option(
        Kind.DURATION, "time for the whole batch", default=None, above=0, maximum=MAX_TIMEOUT_S, optional=True
    )
    call_timeout_s: float | None = option(
        Kind.DURATION, "time for each call", default=None, above=0, maximum=MAX_TIMEOUT_S, optional=True
    )
    stop_over: float | None = option(
        Kind.SHARE, "share of failed calls above which no further call begins", default=None, minimum=0, maximum=1, optional=True
    )
    stop_min_calls: int = option(Kind.COUNT, "calls that have ended before that share counts", default=10, minimum=1)
    hedge_after_s: float | None = option(
        Kind.DURATION, "time after which a second try is sent", default=None, above=0, maximum=MAX_TIMEOUT_S, optional=True
    )
    hedge_tokens: int = option(Kind.COUNT, "size of the budget of second tries", default=10, minimum=1, maximum=1_000)
    hedge_ratio: float = option(Kind.NUMBER, "what a call that succeeds earns of it", default=0.1, above=0, maximum=1)
    grace_s: float = option(Kind.DURATION, "time in which a call that was stopped must end", default=0.02, minimum=0, maximum=60)
    threads: int | None = option(
        Kind.COUNT, "threads of the pool, for all batches at once", default=None, minimum=1, maximum=MAX_CONCURRENCY, optional=True
    )
    abandoned_max: int = option(
        Kind.COUNT, "abandoned calls that get a replacement", default=32, minimum=0, maximum=MAX_CONCURRENCY
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.hedge_after_s is not None and self.call_timeout_s is not None and self.hedge_after_s >= self.call_timeout_s:
            raise ValueError(
                f"BatchSettings.hedge_after_s: must be below call_timeout_s ({self.call_timeout_s} s), or no second try is ever "
                f"sent; got {self.hedge_after_s} s"
            )

    @property
    def most_threads(self) -> int:
        """Threads of the pool: as many as calls of one batch, unless it is told."""
        return self.concurrency if self.threads is None else self.threads

    def in_us(self, name: str) -> int | None:
        """A duration in microseconds, or None where it is not set."""
        value: float | None = getattr(self, name)
        return None if value is None else to_us(value)
