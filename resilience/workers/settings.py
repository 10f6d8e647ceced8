"""What can be set on a worker pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resilience.settings import Kind, option, validate

PRIORITIES: Final = 10
"""Priorities are 0 (first) to 9 (last)."""
DEFAULT_PRIORITY: Final = 5
_LONGEST_S: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class WorkerPoolSettings:
    """Settings of a worker pool. What is None follows from `max_workers`, or is not bounded."""

    min_workers: int = option(
        Kind.COUNT, "workers that are there however little there is to do", default=1, minimum=1, maximum=10_000
    )
    max_workers: int = option(Kind.COUNT, "workers at most", default=16, minimum=1, maximum=10_000)
    queue: int = option(
        Kind.COUNT, "tasks that wait at most; one more is refused as pool full", default=1_000, minimum=0, maximum=10_000_000
    )
    timeout_s: float | None = option(
        Kind.DURATION,
        "how long a task may take, from when it is accepted; not set: as long as it takes",
        default=None,
        above=0,
        maximum=_LONGEST_S,
        optional=True,
    )
    pool_timeout_s: float | None = option(
        Kind.DURATION,
        "how long the pool as a whole may take, from its start; not set: for ever",
        default=None,
        above=0,
        maximum=_LONGEST_S,
        optional=True,
    )
    drain_timeout_s: float = option(
        Kind.DURATION, "how long the end of the pool waits for what it has accepted", default=30.0, minimum=0, maximum=86_400
    )
    ageing_s: float = option(
        Kind.DURATION, "waiting so long makes a task one priority more urgent", default=10.0, minimum=0.001, maximum=86_400
    )
    grow_wait_s: float = option(
        Kind.DURATION, "it grows when tasks wait longer than this on average", default=0.8, minimum=0.001, maximum=3600
    )
    grow_by: int | None = option(
        Kind.COUNT,
        "workers that one step adds at most; not set: three quarters of max_workers",
        default=None,
        minimum=1,
        maximum=10_000,
        optional=True,
    )
    shrink_by: int | None = option(
        Kind.COUNT,
        "workers that one step takes away at most; not set: three quarters of max_workers",
        default=None,
        minimum=1,
        maximum=10_000,
        optional=True,
    )
    cool_down_s: float = option(
        Kind.DURATION, "after a step, how long before the next", default=10.0, minimum=0.001, maximum=86_400
    )
    max_abandoned: int | None = option(
        Kind.COUNT,
        "tasks that timed out and cannot be stopped, for which other workers stand in; not set: as many as max_workers",
        default=None,
        minimum=0,
        maximum=10_000,
        optional=True,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"{type(self).__name__}.min_workers: must be at most max_workers {self.max_workers}, got {self.min_workers}"
            )

    @property
    def added_at_most(self) -> int:
        """Workers that one step adds at most."""
        return self.grow_by or max(1, self.max_workers * 3 // 4)

    @property
    def taken_at_most(self) -> int:
        """Workers that one step takes away at most."""
        return self.shrink_by or max(1, self.max_workers * 3 // 4)

    @property
    def abandoned_at_most(self) -> int:
        """For how many tasks that cannot be stopped other workers stand in."""
        return self.max_workers if self.max_abandoned is None else self.max_abandoned
