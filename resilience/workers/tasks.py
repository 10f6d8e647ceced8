"""A pool of asyncio tasks, on the event loop in which it was entered. A task that times out is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, Timer
from resilience.errors import ResilienceError
from resilience.health import NEVER_US, HealthSignal
from resilience.layers.limiter import RateLimiter
from resilience.workers.core import LOOK_EVERY_US, Ended, PoolCore
from resilience.workers.entry import OVER, PLAIN, QUEUED, Entry, TaskOptions, Worker
from resilience.workers.failed import FailedTaskStore
from resilience.workers.keeping import Keeping
from resilience.workers.plan import Guards, PoolPlan
from resilience.workers.pool import Pool, finish_trace
from resilience.workers.running import Running
from resilience.workers.settings import WorkerPoolSettings
from resilience.workers.work import arun, plain

log = logging.getLogger("resilience")
P = ParamSpec("P")
T = TypeVar("T")
_ENDS_S: Final = 1.0
"""How long the end of a pool waits for tasks that it has cancelled."""


class TaskFuture(asyncio.Future[T]):
    """The future of a task. `cancel`, also by whoever awaits it, takes it out of the queue, or cancels it where it runs."""

    __slots__ = ("_entry", "_pool")
    _pool: AsyncWorkerPool
    _entry: Entry

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task. False: it is over."""
        return not self.done() and self._pool._cancel(self._entry, msg)

    def _cancelled(self, msg: Any | None = None) -> None:
        super().cancel(msg)


def _future(pool: AsyncWorkerPool, entry: Entry) -> TaskFuture[Any]:
    future: TaskFuture[Any] = TaskFuture(loop=pool._loop_here())
    future._pool = pool
    future._entry = entry
    return future


class TaskWorker(Worker):
    """A place for one task at a time."""

    __slots__ = ()


class AsyncSubmission:
    """Submits to a pool with options: `pool.options(priority=1).submit(fn, ...)`."""

    __slots__ = ("_options", "_pool")

    def __init__(self, pool: AsyncWorkerPool, options: TaskOptions) -> None:
        self._pool = pool
        self._options = options

    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `AsyncWorkerPool.submit`."""
        future: asyncio.Future[T] = self._pool._enter(fn, args, kwargs, self._options, _future).future
        return future


class AsyncWorkerPool(Pool[TaskWorker]):
    """Runs coroutine functions as asyncio tasks: what `WorkerPool` is for threads, with the same arguments.

    A worker is a task that runs. It belongs to the event loop in which the first task is submitted, and all calls but `status` and
    `configure` are made there. A limiter that must wait or ask a shared store cannot be asked by `submit`, which never waits.
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
    def over(cls, name: str, plan: PoolPlan, clock: Clock) -> AsyncWorkerPool:
        """A pool that goes by a plan, which `configure` replaces."""
        pool = cls.__new__(cls)
        pool._bind(name, plan, clock)
        return pool

    def _bind(self, name: str, plan: PoolPlan, clock: Clock) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: Timer | None = None
        self._looks_next_us = NEVER_US
        self._drained: asyncio.Event | None = None
        self._keepers: set[asyncio.Task[None]] = set()
        self._keeps_again = False
        super().__init__(name, plan, clock)

    # --- what a user calls --------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have `await fn(*args, **kwargs)` run in a task, in a copy of this context. Returns its future, and never waits.

        The future raises what `fn` raises; `TaskTimedOut` when its time is over; `PoolClosed` when the pool ended before it. To
        cancel it, also by cancelling whoever awaits it, cancels the task; use `asyncio.shield` where that is not meant.

        Raises:
            RateLimited: over the limiter's rate.
            PoolFull: as many tasks wait as may.
            PoolClosed: the pool is shutting down.
            TaskTimedOut: the time of the whole pool is over.
            PayloadError: failed tasks are kept, and an argument is not JSON.
            TypeError: the limiter may wait, or its store is shared.
            RuntimeError: this is not the event loop of the pool, or none.
        """
        future: asyncio.Future[T] = self._enter(fn, args, kwargs, PLAIN, _future).future
        return future

    def options(
        self,
        *,
        priority: int = PLAIN.priority,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        key: str | None = None,
        cost: int | None = None,
    ) -> AsyncSubmission:
        """Say more about tasks: `pool.options(priority=1, timeout_s=5.0).submit(fn, ...)`. See `TaskOptions`."""
        return AsyncSubmission(self, TaskOptions(priority, timeout_s, idempotency_key, key, cost))

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Accept nothing more, finish what was accepted, and end. Returns whether all of it was finished in time.

        What is not finished in time is cancelled and told `PoolClosed`, and kept where the pool has a store.

        Args:
            timeout_s: seconds to wait; default as the pool's settings have it.

        Raises:
            TasksNotKept: failed tasks could not be stored; the error has them.
        """
        self._loop_here()
        timeout_s = self.plan.settings.drain_timeout_s if timeout_s is None else timeout_s
        with self._lock:
            self._core.closing = True
        try:
            in_time = await self._wait(timeout_s)
        finally:  # cancelled: what was accepted is told so too
            running = self._cut_off()
        await self._settle(running)
        await asyncio.to_thread(self._keep_again)
        self._raise_not_kept()
        return in_time

    async def __aenter__(self) -> AsyncWorkerPool:
        self._loop_here()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.drain()
        except ResilienceError as trouble:
            if error is None:
                raise
            error.add_note(str(trouble))

    def look(self) -> None:
        """Do what is due at this instant: timeouts and scaling. The pool does it by itself."""
        now_us = self.clock.now_us()
        with self._lock:
            due = self._core.look(now_us)
        for worker in due.started:
            self._start(worker)  # type: ignore[arg-type]  # they are what `_new_worker` made
        if due.step is not None:
            log.info("pool %s: %d -> %d workers", self.name, due.step.old, due.step.size)
        for item in due.expired:
            self._cancel_running(item.entry)
        self._tell_expired(due.expired, now_us)
        if self._keeping.unkept and not self._keeps_again:
            self._keeps_again = True
            self._in_background(self._kept_again())
        self._check_drained()

    # --- a task runs --------------------------------------------------------------------------------------------------------------

    def _start(self, worker: TaskWorker) -> None:
        entry, loop = worker.entry, self._loop
        if entry is None or loop is None:
            return
        pipeline, context = self.plan.pipeline, entry.context
        work: Coroutine[Any, Any, Any]
        if pipeline is None and entry.trace is None:
            work = plain(entry)
        else:
            work = arun(entry, pipeline, self.name)
        # No factory is asked: an eager one would run the task inside of this call, and the queue behind it on one stack.
        entry.running = asyncio.Task(Running(work, worker, entry, self._ended), loop=loop, context=context)

    def _ended(self, worker: Worker, entry: Entry, result: Any, failure: BaseException | None) -> None:
        """In the last step of a task, however it ends: tell its future, and go on with the next."""
        entry.running = None
        if entry.call is not None:
            entry.call.settled = True
        now_us = self.clock.now_us()
        core = self._core
        is_to_keep = False
        if failure is None:
            how = Ended.DONE
        else:
            is_an_error = isinstance(failure, Exception)
            is_to_keep = is_an_error and self.plan.failed is not None and entry.state != OVER
            how = Ended.FAILED if is_an_error else Ended.CANCELLED
        with self._lock:
            # One that is to be kept frees its worker at once; it is pending until it is stored.
            is_told = not is_to_keep and core.end(entry, how)
            following = core.leave(worker, now_us)  # type: ignore[arg-type]  # it is what `_new_worker` made
            late = core.take_late() if core.late else None
        if is_told:
            self._tell_end(entry, result, failure)
        elif is_to_keep and failure is not None:
            self._in_background(self._keep_and_tell(entry, failure, now_us))
        if following is not None:
            self._start(worker)  # type: ignore[arg-type]
        if late:
            self._tell_expired(late, now_us)
        if core.closing:
            self._check_drained()

    def _tell_end(self, entry: Entry, result: Any, failure: BaseException | None) -> None:
        if entry.trace is not None:
            finish_trace(entry, failure)
        future = entry.future
        if failure is None:
            future.set_result(result)
        elif isinstance(failure, Exception):
            future.set_exception(failure)
        else:
            future._cancelled(*failure.args[:1])

    async def _keep_and_tell(self, entry: Entry, failure: BaseException, now_us: int) -> None:
        await self._kept(entry, failure, now_us)
        with self._lock:
            is_told = self._core.end(entry, Ended.FAILED)
        if is_told:
            self._fail(entry, failure)
        self._check_drained()

    async def _kept(self, entry: Entry, failure: BaseException, now_us: int) -> None:
        try:
            await asyncio.to_thread(self._keep, entry, failure, now_us)
        except Exception:  # a storage of the user's that raises what it should not
            log.exception("pool %s: the failed task %s could not be kept", self.name, entry.id)

    def _fail(self, entry: Entry, error: BaseException) -> None:
        finish_trace(entry, error)
        if not entry.future.done():
            entry.future.set_exception(error)
            if self.plan.failed is not None:
                entry.future.exception()  # it is stored: nobody need hear of it from the garbage collector

    async def _kept_again(self) -> None:
        try:
            await asyncio.to_thread(self._keep_again)
        finally:
            self._keeps_again = False

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        keeper = self._loop_here().create_task(work)
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    # --- the parts that differ ----------------------------------------------------------------------------------------------------

    def _new_worker(self) -> TaskWorker:
        return TaskWorker()

    def _stop(self, worker: TaskWorker) -> None:
        """A place that is empty needs no end."""

    def _tell(self, entry: Entry, error: BaseException) -> None:
        self._fail(entry, error)

    def _keep_later(self, entry: Entry, error: BaseException, now_us: int) -> None:
        self._in_background(self._kept_then_told(entry, error, now_us))

    async def _kept_then_told(self, entry: Entry, error: BaseException, now_us: int) -> None:
        await self._kept(entry, error, now_us)
        self._fail(entry, error)

    def _cancel(self, entry: Entry, msg: Any | None) -> bool:
        with self._lock:
            is_cancelled = entry.state == QUEUED and self._core.end(entry, Ended.CANCELLED)
        if is_cancelled:
            finish_trace(entry, None)
            entry.future._cancelled(msg)
            self._check_drained()
            return True
        return self._cancel_running(entry)

    def _cancel_running(self, entry: Entry) -> bool:
        task = entry.running
        return task is not None and task.cancel()

    def _pass_gate(self, plan: PoolPlan, call: Any) -> None:
        if plan.gate is not None and plan.gate.outer.has_effects:
            raise TypeError(
                f"pool {self.name}: its limiter may wait or ask a shared store, and submit never waits; give it max_wait_s=0 and "
                "no shared store, or guard the code that submits by a pipeline"
            )
        super()._pass_gate(plan, call)

    # --- looking ------------------------------------------------------------------------------------------------------------------

    def _note(self, entry: Entry, now_us: int) -> None:
        next_us = self._looks_next_us
        if next_us > now_us + LOOK_EVERY_US or (entry.deadline_us is not None and entry.deadline_us < next_us):
            self._arm()

    def _arm(self) -> None:
        now_us = self.clock.now_us()
        with self._lock:
            next_us = self._core.next_look_us(now_us)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looks_next_us = next_us
        if next_us < NEVER_US:
            self._timer = self.clock.call_later(max(0, next_us - now_us) / US_PER_S, self._on_timer)

    def _on_timer(self) -> None:
        if self._timer is not None:  # somebody was in a hurry
            self._timer.cancel()
            self._timer = None
        try:
            self.look()
        except Exception:
            log.exception("pool %s: could not look after its tasks; the next look is in a second", self.name)
        self._arm()

    def _hurry(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._on_timer)

    def _loop_here(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._drained = asyncio.Event()
        elif self._loop is not loop:
            raise RuntimeError(f"pool {self.name}: belongs to another event loop; make one for each loop")
        return loop

    # --- its end ------------------------------------------------------------------------------------------------------------------

    def _check_drained(self) -> None:
        if self._core.closing and not self._core.pending and self._drained is not None:
            self._drained.set()

    async def _wait(self, timeout_s: float) -> bool:
        self._check_drained()
        drained = self._drained
        if drained is None or drained.is_set():
            return True
        if timeout_s <= 0:
            return False
        in_time = True

        def give_up() -> None:
            nonlocal in_time
            in_time = drained.is_set()
            drained.set()

        timer = self.clock.call_later(timeout_s, give_up)
        try:
            await drained.wait()
        finally:
            timer.cancel()
        return in_time

    def _cut_off(self) -> list[asyncio.Task[Any]]:
        """End what is left. Returns the tasks that were at work."""
        now_us = self.clock.now_us()
        with self._lock:
            core = self._core
            # What waits for its place in the store has ended by itself, and is told what it ended with.
            rest = [*core.queue.all(), *(entry for entry in core.running if entry.running is not None)]
            cut_off = [core.expire(entry, Ended.CANCELLED) for entry in rest]
            core.close()
        running = [item.entry.running for item in cut_off if item.entry.running is not None]
        for task in running:
            task.cancel()
        self._tell_expired(cut_off, now_us, self._shut_off)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looks_next_us = NEVER_US
        return running

    async def _settle(self, running: list[asyncio.Task[Any]]) -> None:
        """Wait for tasks that were cancelled, for a moment: one that goes on all the same is left to itself."""
        if running:
            _, left = await asyncio.wait(running, timeout=_ENDS_S)
            for _ in left:
                log.warning("pool %s: a task goes on though it was cancelled", self.name)
        while keepers := tuple(self._keepers):
            await asyncio.gather(*keepers, return_exceptions=True)
            self._keepers.difference_update(keepers)  # from Python 3.12 on, to gather what is done gives their callbacks no turn

    def renew_locks(self) -> None:
        """In a forked child: its loop is not there, and what was accepted is the parent's to run."""
        self._lock = type(self._lock)()
        self._loop = None
        self._timer = None
        self._looks_next_us = NEVER_US
        self._drained = None
        self._keepers = set()
        self._keeping = Keeping(self.name)
        closing = self._core.closing
        self._core = PoolCore(self.plan.settings, self.plan.health, self._new_worker, self.clock.now_us())
        self._core.closing = closing
