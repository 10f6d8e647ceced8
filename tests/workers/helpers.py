"""What tests of pools share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from resilience.workers import FailedTask, FailedTaskStoreError, TaskState
from resilience.workers.entry import Entry


class Storage:
    """A storage in memory that can be told to fail."""

    def __init__(self) -> None:
        self.tasks: dict[str, FailedTask] = {}
        self.broken = False
        self.tries = 0

    def keep(self, task: FailedTask) -> None:
        self.tries += 1
        if self.broken:
            raise FailedTaskStoreError("memory: failed tasks cannot be stored: it was told so")
        self.tasks[task.id] = task

    def find(self, task_id: str) -> FailedTask | None:
        return self.tasks.get(task_id)

    def select(self, *, name: str | None, state: TaskState | None, limit: int, now_s: float) -> Sequence[FailedTask]:
        return list(self.tasks.values())[:limit]

    def claim(self, task_id: str, claim: str, now_s: float, lease_until_s: float) -> FailedTask | None:
        return self.tasks.get(task_id)

    def succeed(self, task_id: str, claim: str, now_s: float) -> bool:
        return self.tasks.pop(task_id, None) is not None

    def fail(self, task_id: str, claim: str, error: str, traceback: str, now_s: float) -> bool:
        return task_id in self.tasks

    def purge(self, *, ids: Sequence[str] | None, state: TaskState | None, before_s: float | None, now_s: float) -> int:
        count = len(self.tasks)
        self.tasks.clear()
        return count

    def close(self) -> None:
        pass


class Blocked:
    """A function that runs until it is let go. `begun` is released once for each call that has begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, result: Any = None) -> Any:
        self.begun.release()
        assert self.open.wait(120)
        return result

    def wait_begun(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.begun.acquire(timeout=30)


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for what another thread is about to do."""
    event = threading.Event()
    for _ in range(int(timeout_s / 0.002)):
        if condition():
            return
        event.wait(0.002)
    raise AssertionError("it never came to be")


def entry_of(priority: int = 5, submitted_us: int = 0, deadline_us: int | None = None) -> Entry:
    """A task by itself."""
    from contextvars import Context

    entry = Entry(len, (), {}, Context(), priority, deadline_us)
    entry.submitted_us = submitted_us
    return entry
