"""Failed tasks on their way into the store. Those that it cannot take now wait here, and take places in the queue meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from resilience.clock import US_PER_S, Clock
from resilience.errors import ResilienceError
from resilience.workers.entry import Entry
from resilience.workers.failed import FailedTaskStore, clean, described
from resilience.workers.storage import FailedTask, FailedTaskStoreError

log = logging.getLogger("resilience")


class TasksNotKept(ResilienceError):
    """The pool has ended, and failed tasks of it could not be stored. They are in `tasks`; nobody else has them."""

    def __init__(self, message: str, tasks: Sequence[FailedTask]) -> None:
        super().__init__(message)
        self.tasks = tuple(tasks)


def record_of(entry: Entry, error: BaseException, pool: str, clock: Clock, now_us: int) -> FailedTask:
    """What is written down of a task that has failed."""
    text, trace = described(error)
    now_s = clock.wall_s()
    submitted_s = now_s - max(0, now_us - entry.submitted_us) / US_PER_S
    key = entry.key or entry.id
    return FailedTask(
        entry.id, clean(entry.name), clean(pool), entry.payload or "", key, text, trace, entry.attempts, submitted_s, now_s
    )


class Keeping:
    """The failed tasks of one pool. `kept` counts those that are stored; `unkept` holds the others, the oldest first."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self.kept = 0
        self.unkept: list[FailedTask] = []
        self.last_error = ""

    def store_or_wait(self, store: FailedTaskStore, task: FailedTask) -> str:
        """Store one. Returns why not.

        While others wait it is not even tried: a locked file costs seconds a try, and there may be a thousand tasks.
        """
        if self.unkept:
            return self.last_error
        error = self.store(store, task)
        return "" if error is None else str(error)

    def store(self, store: FailedTaskStore, task: FailedTask) -> FailedTaskStoreError | None:
        """Store one, now. Returns why not; what it is that went wrong is logged once."""
        try:
            store.keep(task)
        except FailedTaskStoreError as error:
            if str(error) != self.last_error:
                self.last_error = str(error)
                log.error("pool %s: failed tasks wait in memory and take places in its queue: %s", self._pool, error)
            return error
        if self.last_error:
            self.last_error = ""
            log.warning("pool %s: failed tasks can be stored again", self._pool)
        return None
