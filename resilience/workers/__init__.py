"""Worker pools that keep their promises: bounded, by priority, with admission and timeouts; and failed tasks that are not lost."""

from __future__ import annotations

from resilience.workers.effects import create_effects_table, first_time
from resilience.workers.entry import CurrentTask, TaskOptions, current_task
from resilience.workers.failed import FailedTaskStore, Replay, ReplayOutcome
from resilience.workers.keeping import TasksNotKept
from resilience.workers.named import task
from resilience.workers.payload import PayloadError
from resilience.workers.refusals import PoolClosed, PoolFull, TaskTimedOut
from resilience.workers.settings import WorkerPoolSettings
from resilience.workers.sqlite import SQLiteStorage
from resilience.workers.storage import FailedTask, FailedTaskStorage, FailedTaskStoreError, TaskState
from resilience.workers.tasks import AsyncWorkerPool
from resilience.workers.threads import WorkerPool

__all__ = [
    "AsyncWorkerPool",
    "CurrentTask",
    "FailedTask",
    "FailedTaskStorage",
    "FailedTaskStore",
    "FailedTaskStoreError",
    "PayloadError",
    "PoolClosed",
    "PoolFull",
    "Replay",
    "ReplayOutcome",
    "SQLiteStorage",
    "TaskOptions",
    "TaskState",
    "TaskTimedOut",
    "TasksNotKept",
    "WorkerPool",
    "WorkerPoolSettings",
    "create_effects_table",
    "current_task",
    "first_time",
    "task",
]
