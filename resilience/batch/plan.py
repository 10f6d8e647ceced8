"""What is settled before a batch begins: its settings in microseconds, its deadline, its budget of second tries, who watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from resilience.batch.abandoned import Abandoned
from resilience.batch.adapter import Adapter
from resilience.batch.pool import ThreadPool
from resilience.batch.settings import BatchSettings
from resilience.batch.telemetry import BatchTrace
from resilience.call import Call
from resilience.clock import Clock
from resilience.handle import PipelineHandle
from resilience.health import HealthSignal
from resilience.layers.retry.budget import RetryBudget
from resilience.pipeline import Pipeline


class Progress(NamedTuple):
    """How far a batch has come.

    done: calls that have their result. total: calls in all, or None where the input does not tell. ok, failed: of those done; what
    was cancelled is neither.
    """

    done: int
    total: int | None
    ok: int
    failed: int


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)  # not frozen: that costs a batch as much as two of its calls
class BatchPlan:
    """One batch, before its first call. `around` is the call that it is a part of; `deadline_us` the earlier of both deadlines."""

    name: str
    settings: BatchSettings
    clock: Clock
    began_us: int
    deadline_us: int | None
    around: Call | None
    health: HealthSignal | None
    budget: RetryBudget
    pool: ThreadPool
    abandoned: Abandoned
    trace: BatchTrace | None
    on_progress: OnProgress | None
    call_us: int | None
    hedge_us: int | None
    grace_us: int
    half_us: int

    def budget_of(self, adapter: Adapter[Any, Any]) -> RetryBudget:
        """What pays for a second try: the budget of the back end's own retry, where it has one."""
        pipeline = adapter.pipeline
        if isinstance(pipeline, PipelineHandle):
            pipeline = pipeline.current
        if isinstance(pipeline, Pipeline) and pipeline.retry is not None:
            return pipeline.retry.state.budget
        return self.budget
