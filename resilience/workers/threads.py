"""A pool of threads. A thread cannot be stopped: a task that times out is told so, and its thread goes on until it returns."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock
from resilience.errors import ResilienceError
from resilience.health import NEVER_US, HealthSignal
from resilience.layers.limiter import RateLimiter
from resilience.workers.core import LOOK_EVERY_US, Ended, PoolCore
from resilience.workers.entry import OVER, PLAIN, QUEUED, RUNNING, Entry, TaskOptions, Worker
from resilience.workers.failed import FailedTaskStore
from resilience.workers.keeping import Keeping
from resilience.workers.plan import Guards, PoolPlan
from resilience.workers.pool import Pool, finish_trace
from resilience.workers.settings import WorkerPoolSettings
from resilience.workers.work import run

log = logging.getLogger("resilience")
P = ParamSpec("P")
T = TypeVar("T")
_JOIN_S: Final = 5.0
"""How long the end of a pool waits for threads that have nothing to do any more."""
_POLL_S: Final = 0.02


class TaskFuture(Future[T]):
    """The future of a task. `cancel` takes it out of the queue; a task that runs cannot be cancelled."""

    _pool: WorkerPool
    _entry: Entry

    def cancel(self) -> bool:
        """Take the task out of the queue. False: it runs already, or is over."""
        if self.cancelled():
            return True
        if not self._pool._cancel(self._entry):
            return False
        super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def running(self) -> bool:
        """Whether it is at work now."""
        return self._entry.state == RUNNING


def _future(pool: WorkerPool, entry: Entry) -> TaskFuture[Any]:
    future: TaskFuture[Any] = TaskFuture()
    future._pool = pool
    future._entry = entry
    return future


class ThreadWorker(Worker):
    """A thread that works. `gate` is locked while it has nothing to do."""

    __slots__ = ("gate", "thread")

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread: threading.Thread | None = None


def _set(entry: Entry, result: Any, failure: BaseException | None) -> None:
    """Tell a future. It calls back in this thread, which is for the next task whatever a callback raises."""
    try:
        if failure is None:
            entry.future.set_result(result)
        else:
            entry.future.set_exception(failure)
    except BaseException:  # the future itself logs and drops an `Exception`; a callback may end its thread by SystemExit
        log.exception("a callback on the future of %s tried to end the thread", entry.name)


class Submission:
    """Submits to a pool with options: `pool.options(priority=1).submit(fn, ...)`."""

    __slots__ = ("_options", "_pool")

    def __init__(self, pool: WorkerPool, options: TaskOptions) -> None:
        self._pool = pool
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `WorkerPool.submit`."""
        future: Future[T] = self._pool._enter(fn, args, kwargs, self._options, _future).future
        return future


class WorkerPool(Pool[ThreadWorker]):
    """Runs functions in threads: a bounded queue by priority, admission, timeouts, and as many threads as the load needs.

    Args:
        name: for errors, telemetry and threads.
        min_workers: threads that are there however little there is to do; default 1.
        max_workers: threads at most, 1 to 10,000; default 16.
        queue: tasks that wait at most; default 1,000. One more is refused with `PoolFull`.
        timeout_s: seconds a task may take from when it is accepted; default None, as long as it takes.
        pool_timeout_s: seconds the pool as a whole may take from now; default None, for ever.
        drain_timeout_s: seconds its end waits for what it has accepted; default 30.
        ageing_s: waiting so long makes a task one priority more urgent; default 10.
        grow_wait_s: it grows when tasks wait longer than this on average; default 0.8.
        grow_by: threads that one step adds at most; default three quarters of `max_workers`.
        shrink_by: threads that one step takes away at most; default three quarters of `max_workers`.
        cool_down_s: seconds between two steps; default 10.
        max_abandoned: timed out tasks that cannot be stopped, for which other threads stand in; default as many as `max_workers`.
        limiter: admits tasks; what is over the rate is refused with `RateLimited`, or waits here if it has a `max_wait_s`.
        pipeline: what each task goes through, such as a retry and a breaker.
        health: the signal whose factor bounds how many threads work at once; default None.
        failed: where tasks that failed are kept; then arguments must be JSON.
        clock: where time comes from.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        name: str = "workers",
        *,
        min_workers: int = 1,
        max_workers: int = 16,
        queue: int = 1_000,
        timeout_s: float | None = None,
        pool_timeout_s: float | None = None,
        drain_timeout_s: float = 30.0,
        ageing_s: float = 10.0,
        grow_wait_s: float = 0.8,
        grow_by: int | None = None,
        shrink_by: int | None = None,
        cool_down_s: float = 10.0,
        max_abandoned: int | None = None,
        limiter: RateLimiter | None = None,
        pipeline: Guards | None = None,
        health: HealthSignal | None = None,
        failed: FailedTaskStore | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        settings = WorkerPoolSettings(
            min_workers=min_workers,
            max_workers=max_workers,
            queue=queue,
            timeout_s=timeout_s,
            pool_timeout_s=pool_timeout_s,
            drain_timeout_s=drain_timeout_s,
            ageing_s=ageing_s,
            grow_wait_s=grow_wait_s,
            grow_by=grow_by,
            shrink_by=shrink_by,
            cool_down_s=cool_down_s,
            max_abandoned=max_abandoned,
        )
        self._bind(name, PoolPlan.of(name, settings, limiter, pipeline, health, failed), clock)

    @classmethod
    def over(cls, name: str, plan: PoolPlan, clock: Clock) -> WorkerPool:
        """A pool that goes by a plan, which `configure` replaces."""
        pool = cls.__new__(cls)
        pool._bind(name, plan, clock)
        return pool

    def _bind(self, name: str, plan: PoolPlan, clock: Clock) -> None:
        self._bell = threading.Event()
        self._looks_next_us = 0  # until when the supervisor sleeps
        self._supervisor: threading.Thread | None = None
        self._crew: set[ThreadWorker] = set()
        self._drained = threading.Event()
        self._is_over = False
        self._has_warned = False
        super().__init__(name, plan, clock)
        _POOLS.add(self)

    # --- what a user calls --------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` run in a thread, in a copy of this context. Returns its future.

        The future raises what `fn` raises; `TaskTimedOut` when its time is over; `PoolClosed` when the pool ended before it.

        Raises:
            RateLimited: over the limiter's rate.
            PoolFull: as many tasks wait as may.
            PoolClosed: the pool is shutting down.
            TaskTimedOut: the time of the whole pool is over.
            PayloadError: failed tasks are kept, and an argument is not JSON.
        """
        future: Future[T] = self._enter(fn, args, kwargs, PLAIN, _future).future
        return future

    def options(
        self,
        *,
        priority: int = PLAIN.priority,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        key: str | None = None,
        cost: int | None = None,
    ) -> Submission:
        """Say more about tasks: `pool.options(priority=1, timeout_s=5.0).submit(fn, ...)`. See `TaskOptions`."""
        return Submission(self, TaskOptions(priority, timeout_s, idempotency_key, key, cost))

    def drain(self, timeout_s: float | None = None) -> bool:
        """Accept nothing more, finish what was accepted, and end. Returns whether all of it was finished in time.

        What is not finished in time is told `PoolClosed`, and kept where the pool has a store. A thread that is still at work then
        cannot be stopped: it goes on by itself, and ends with its task.

        Args:
            timeout_s: seconds to wait; default as the pool's settings have it.

        Raises:
            TasksNotKept: failed tasks could not be stored; the error has them.
        """
        timeout_s = self.plan.settings.drain_timeout_s if timeout_s is None else timeout_s
        with self._lock:
            self._core.closing = True
            if not self._core.pending:
                self._drained.set()
        self._bell.set()
        try:
            in_time = self._wait(timeout_s)
        finally:  # interrupted: what was accepted is told so too
            self._cut_off()
        self._join()
        self._keep_again()
        self._raise_not_kept()
        return in_time

    def _cut_off(self) -> None:
        """End what is left."""
        now_us = self.clock.now_us()
        with self._lock:
            core = self._core
            rest = [*core.queue.all(), *core.running]
            cut_off = [core.expire(entry, Ended.CANCELLED) for entry in rest]
            idle = core.close()
            self._is_over = True
        self._tell_expired(cut_off, now_us, self._shut_off)
        for worker in idle:
            self._stop(worker)
        self._bell.set()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.drain()
        except ResilienceError as trouble:
            if error is None:
                raise
            error.add_note(str(trouble))

    def look(self) -> None:
        """Do what is due at this instant: timeouts and scaling. The pool does it by itself."""
        now_us = self.clock.now_us()
        with self._lock:
            due = self._core.look(now_us)
            is_drained = self._is_drained()
            if not self._core.abandoned:
                self._has_warned = False
        for worker in due.started:
            self._start(worker)  # type: ignore[arg-type]  # they are what `_new_worker` made
        for worker in due.stopped:
            self._stop(worker)  # type: ignore[arg-type]
        if due.step is not None:
            log.info("pool %s: %d -> %d workers", self.name, due.step.old, due.step.size)
        self._tell_expired(due.expired, now_us)
        if self._keeping.unkept:
            self._keep_again()
        if is_drained:
            self._drained.set()

    # --- in the threads -----------------------------------------------------------------------------------------------------------

    def _work(self, worker: ThreadWorker) -> None:
        entry = worker.entry
        try:
            while True:
                if entry is None:
                    if worker.stopped:
                        return
                    worker.gate.acquire()
                    entry = worker.entry
                    continue
                entry = self._one(worker, entry)
        finally:
            self._crew.discard(worker)

    def _one(self, worker: ThreadWorker, entry: Entry) -> Entry | None:
        """Run one task and tell its future. Returns the next."""
        plan = self.plan
        result = failure = None
        try:
            result = entry.context.run(run, entry, plan.pipeline, self.name)
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the future; the thread is for the next task
            failure = error
        now_us = self.clock.now_us()
        if failure is not None and plan.failed is not None and entry.state != OVER:
            self._keep_safely(entry, failure, now_us)
        core = self._core
        with self._lock:
            is_told = core.end(entry, Ended.DONE if failure is None else Ended.FAILED)
            following = core.leave(worker, now_us)
            late = core.take_late() if core.late else None
            is_drained = core.closing and not core.pending
        if is_told:
            if entry.trace is not None:
                finish_trace(entry, failure)
            _set(entry, result, failure)
        if late:
            self._tell_expired(late, now_us)
        if is_drained:
            self._drained.set()
        failure = None  # its traceback refers to this frame
        return following

    def _keep_safely(self, entry: Entry, error: BaseException, now_us: int) -> None:
        try:
            self._keep(entry, error, now_us)
        except Exception:  # a storage of the user's that raises what it should not
            log.exception("pool %s: the failed task %s could not be kept", self.name, entry.id)

    # --- the parts that differ ----------------------------------------------------------------------------------------------------

    def _new_worker(self) -> ThreadWorker:
        return ThreadWorker()

    def _start(self, worker: ThreadWorker) -> None:
        if worker.thread is not None:
            worker.gate.release()
            return
        thread = threading.Thread(target=self._work, args=(worker,), name=f"resilience-{self.name}", daemon=True)
        worker.thread = thread
        self._crew.add(worker)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left: what it was for waits on
            self._crew.discard(worker)
            with self._lock:
                self._core.give_back(worker)
            log.warning("pool %s: no thread can be started, it goes on with %d: %s", self.name, self._core.workers, error)

    def _stop(self, worker: ThreadWorker) -> None:
        worker.gate.release()

    def _tell(self, entry: Entry, error: BaseException) -> None:
        _set(entry, None, error)

    def _keep_later(self, entry: Entry, error: BaseException, now_us: int) -> None:
        self._keep_safely(entry, error, now_us)
        self._tell(entry, error)
        finish_trace(entry, error)

    def _warn_abandoned(self, entry: Entry) -> None:
        if not self._has_warned:  # there may be one for each task; the status has how many there are
            self._has_warned = True
            log.warning(
                "pool %s: %s timed out and cannot be stopped; another thread stands in for it, and for %d such tasks at most",
                self.name,
                entry.name,
                self.plan.settings.abandoned_at_most,
            )

    def _cancel(self, entry: Entry) -> bool:
        with self._lock:
            is_cancelled = entry.state == QUEUED and self._core.end(entry, Ended.CANCELLED)
            is_drained = self._is_drained()
        if is_cancelled:
            finish_trace(entry, None)
        if is_drained:
            self._drained.set()
        return is_cancelled

    def _is_drained(self) -> bool:
        return self._core.closing and not self._core.pending

    # --- the thread that looks ----------------------------------------------------------------------------------------------------

    def _note(self, entry: Entry, now_us: int) -> None:
        next_us = self._looks_next_us
        if next_us > now_us + LOOK_EVERY_US or (entry.deadline_us is not None and entry.deadline_us < next_us):
            self._bell.set()
        elif self._supervisor is None:
            self._supervise()

    def _hurry(self) -> None:
        self._bell.set()

    def _supervise(self) -> None:
        thread = threading.Thread(target=self._look_on, name=f"resilience-{self.name}-looks", daemon=True)
        with self._lock:
            if self._supervisor is not None or self._is_over:
                return
            self._supervisor = thread
        try:
            thread.start()
        except RuntimeError as error:
            self._supervisor = None
            log.warning("pool %s: timeouts and scaling wait for a thread: %s", self.name, error)

    def _look_on(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                log.exception("pool %s: could not look after its tasks; the next look is in a second", self.name)
            now_us = self.clock.now_us()
            with self._lock:
                if self._is_over:
                    return
                self._looks_next_us = next_us = self._core.next_look_us(now_us)
            self._bell.wait(None if next_us >= NEVER_US else max(0, next_us - now_us) / US_PER_S)
            self._bell.clear()

    # --- its end ------------------------------------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> bool:
        deadline_us = self.clock.now_us() + round(timeout_s * US_PER_S)
        while not self._drained.is_set():
            left_s = (deadline_us - self.clock.now_us()) / US_PER_S
            if left_s <= 0:
                return False
            self._drained.wait(min(left_s, _POLL_S if self.clock.timer_slot_us == 1 else left_s))
        return True

    def _join(self) -> None:
        """Wait for the threads that have no task any more; those of tasks that were cut off are left to end by themselves."""
        with self._lock:
            ending = [worker.thread for worker in self._crew if worker.entry is None or worker.entry.state != OVER]
        for thread in (*ending, self._supervisor):
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def renew_locks(self) -> None:
        """In a forked child: its threads are not there, and what was accepted is the parent's to run."""
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._drained = threading.Event()
        self._crew = set()
        self._supervisor = None
        self._looks_next_us = 0
        self._keeping = Keeping(self.name)
        closing = self._core.closing
        self._core = PoolCore(self.plan.settings, self.plan.health, self._new_worker, self.clock.now_us())
        self._core.closing = closing


_POOLS: Final[weakref.WeakSet[WorkerPool]] = weakref.WeakSet()


def _drain_all() -> None:
    """At exit: what was accepted is finished, for as long as each pool's settings have it."""
    for pool in list(_POOLS):
        if pool.is_closed:
            continue
        try:
            pool.drain()
        except Exception:  # the others are to be drained all the same
            log.exception("pool %s: could not be drained when the interpreter ended", pool.name)


atexit.register(_drain_all)
