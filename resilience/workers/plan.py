"""What a pool goes by at one moment: replaced whole when the configuration changes, never mutated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from resilience.health import HealthSignal
from resilience.layers.limiter import RateLimiter
from resilience.pipeline import Pipeline
from resilience.workers.failed import FailedTaskStore
from resilience.workers.settings import WorkerPoolSettings


class Guards(Protocol):
    """What each task goes through: a pipeline, or a handle on one."""

    name: str

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call in this thread."""

    async def acall(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        """Await in this task."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Settings and what they lead to.

    Attributes:
        settings: the numbers.
        gate: the limiter that admits, as a pipeline of its own; None: everybody is let in for whom there is room.
        pipeline: what each task goes through, or None.
        health: the signal whose factor bounds how many work at once, or None.
        failed: where failed tasks are kept, or None.
    """

    settings: WorkerPoolSettings
    gate: Pipeline | None = None
    pipeline: Guards | None = None
    health: HealthSignal | None = None
    failed: FailedTaskStore | None = None

    @classmethod
    def of(
        cls,
        name: str,
        settings: WorkerPoolSettings,
        limiter: RateLimiter | None,
        pipeline: Guards | None,
        health: HealthSignal | None,
        failed: FailedTaskStore | None,
    ) -> PoolPlan:
        """A plan for the pool called `name`."""
        return cls(settings, None if limiter is None else Pipeline(name, limiter), pipeline, health, failed)
