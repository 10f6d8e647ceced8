"""A bounded pool of threads whose jobs can be abandoned.

The threads are daemons: one that hangs does not keep the process from ending. A thread without a job ends after a moment, so that
nobody has to close the pool.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from typing import Final

from resilience.batch.abandoned import Abandoned

log = logging.getLogger("resilience")

_WITHIN: Final[ContextVar[tuple[ThreadPool, ...]]] = ContextVar("resilience_batch_pools", default=())
"""The pools whose jobs this code is a part of."""
IDLE_S: Final = 0.5
"""How long a thread without a job waits for one."""


class Stage(Enum):
    """How far a job has come."""

    QUEUED = "queued"
    RUNNING = "running"
    ABANDONED = "abandoned"
    DROPPED = "dropped"
    OVER = "over"


class Job:
    """Work for a thread, in the context in which it was made. The work must not raise."""

    __slots__ = ("_context", "_work", "is_replaced", "refuse", "stage")

    def __init__(self, work: Callable[[], object], refuse: Callable[[], object]) -> None:
        self._work = work
        self._context: Context = copy_context()
        self.refuse = refuse
        self.stage = Stage.QUEUED  # written under the pool's lock
        self.is_replaced = False

    def run(self, pool: ThreadPool) -> None:
        """Do it in a thread of `pool`."""
        self._context.run(self._run, pool)

    def _run(self, pool: ThreadPool) -> None:
        _WITHIN.set((*_WITHIN.get(), pool))
        self._work()


class _Worker:
    """A thread of the pool, and the box in which it finds its next job. None in it: there is no more work."""

    __slots__ = ("box", "thread")

    def __init__(self, name: str, serve: Callable[[_Worker, Job], None], job: Job) -> None:
        self.box: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=serve, args=(self, job), name=name, daemon=True)


class ThreadPool:
    """Threads by demand, `most` at a time besides those whose job was abandoned and that have been replaced."""

    def __init__(self, name: str, most: int, abandoned: Abandoned) -> None:
        self._name = name
        self._most = most
        self._abandoned = abandoned
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._backlog: deque[Job] = deque()
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._lingers = True  # threads wait for further jobs
        self._threads = 0  # those that count towards `most`
        self._stuck = 0  # those of them whose job was abandoned
        self._number = 0
        self._inner: ThreadPool | None = None

    def renew_locks(self) -> None:
        """In a forked child: there are no threads of its parent."""
        self._abandoned.renew_lock()
        self._begin()

    @property
    def threads(self) -> int:
        """Those alive, abandoned ones and those of batches within batches included."""
        return len(self._alive) + (0 if self._inner is None else self._inner.threads)

    def here(self) -> ThreadPool:
        """The pool for a batch that is made here: itself; or one further in, for what its own jobs wait for, which might else wait
        for them."""
        if self not in _WITHIN.get():
            return self
        with self._lock:
            if self._inner is None:
                self._inner = ThreadPool(self._name, self._most, self._abandoned)
        return self._inner.here()

    def submit(self, work: Callable[[], object], refuse: Callable[[], object]) -> Job | None:
        """Have `work` done by a free thread, or the next one, in a copy of this context.

        None: every thread is held by an abandoned job. Where that comes to pass only while it waits, `refuse` is called.
        """
        job = Job(work, refuse)
        worker: _Worker | None = None
        with self._lock:
            if self._stuck >= self._most:
                return None
            self._lingers = True
            if self._idle:
                self._idle.pop().box.put(job)
            elif self._threads < self._most:
                worker = self._new_worker(job)
            else:
                self._backlog.append(job)
        if worker is not None:
            self._start(worker, job)
        return None if job.stage is Stage.DROPPED else job

    def drop(self, job: Job) -> bool:
        """Nobody needs `job` any more. Returns whether it had not begun; it never will."""
        with self._lock:
            if job.stage is not Stage.QUEUED:
                return False
            job.stage = Stage.DROPPED
            return True

    def abandon(self, job: Job) -> bool:
        """Nobody waits for `job` any more, which does not end. False: it has ended just now.

        Its place is given to another (`job.is_replaced`), within the bound.
        """
        worker: _Worker | None = None
        waiting: Job | None = None
        refused: list[Job] = []
        with self._lock:
            if job.stage is not Stage.RUNNING:
                return False
            job.stage = Stage.ABANDONED
            job.is_replaced = self._abandoned.add()
            if job.is_replaced:
                self._threads -= 1
                waiting = self._take_backlog()
                worker = None if waiting is None else self._new_worker(waiting)
            else:
                self._stuck += 1
                refused = self._refused()
        if worker is not None and waiting is not None and not self._start(worker, waiting):
            refused = [waiting]
        for waiting in refused:
            waiting.refuse()
        return True

    def _refused(self) -> list[Job]:
        """Those that wait, where no thread is left that could come to do them."""
        refused: list[Job] = []
        while self._stuck >= self._most and (job := self._take_backlog()) is not None:
            job.stage = Stage.DROPPED
            refused.append(job)
        return refused

    def close(self, wait_s: float) -> None:
        """Let threads without a job end now, and others after theirs; wait for the former, for `wait_s` seconds each at most."""
        with self._lock:
            self._lingers = False
            idle, self._idle = self._idle, []
            self._threads -= len(idle)
            for worker in idle:
                worker.box.put(None)
        for worker in idle:
            worker.thread.join(wait_s)
        if self._inner is not None:
            self._inner.close(wait_s)

    def _start(self, worker: _Worker, job: Job) -> bool:
        """Let a thread begin. False: this machine has no more of them, and no other of the pool is left to do its job."""
        try:
            worker.thread.start()
        except RuntimeError:
            with self._lock:
                self._alive.discard(worker)
                self._threads -= 1
                if self._threads > self._stuck:
                    self._backlog.append(job)
                    return True
                job.stage = Stage.DROPPED
            log.exception("%s: cannot start a thread", self._name)
            return False
        return True

    def _new_worker(self, job: Job) -> _Worker:
        self._threads += 1
        self._number += 1
        worker = _Worker(f"{self._name}-{self._number}", self._serve, job)
        self._alive.add(worker)
        return worker

    # --- in its threads ---------------------------------------------------------------------------------------------------------

    def _serve(self, worker: _Worker, job: Job | None) -> None:
        try:
            while job is not None:
                if self._may_begin(job):
                    job.run(self)
                job = self._next(worker, job)
                if job is None:
                    job = self._wait(worker)
        finally:
            with self._lock:
                self._alive.discard(worker)

    def _may_begin(self, job: Job) -> bool:
        with self._lock:
            if job.stage is not Stage.QUEUED:
                return False
            job.stage = Stage.RUNNING
            return True

    def _next(self, worker: _Worker, ended: Job) -> Job | None:
        """What to do after `ended`; None: look into the box."""
        with self._lock:
            was_abandoned = ended.stage is Stage.ABANDONED
            ended.stage = Stage.OVER
            if was_abandoned and not self._take_back(ended):
                worker.box.put(None)
                return None
            job = self._take_backlog()
            if job is not None:
                return job
            if self._lingers:
                self._idle.append(worker)
            else:
                self._threads -= 1
                worker.box.put(None)
            return None

    def _take_back(self, ended: Job) -> bool:
        """An abandoned job has ended after all. Returns whether its thread is still wanted."""
        self._abandoned.ended(replaced=ended.is_replaced)
        if not ended.is_replaced:
            self._stuck -= 1
            return True
        if self._threads >= self._most:
            return False
        self._threads += 1
        return True

    def _take_backlog(self) -> Job | None:
        while self._backlog:
            job = self._backlog.popleft()
            if job.stage is Stage.QUEUED:
                return job
        return None

    def _wait(self, worker: _Worker) -> Job | None:
        try:
            return worker.box.get(timeout=IDLE_S)
        except queue.Empty:
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    self._threads -= 1
                    return None
            return worker.box.get()  # a job has just been put there
