"""What pools of threads and pools of tasks share: how a task comes in, how its end is told, and what an operator sees."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar

from resilience import tracing
from resilience.call import CURRENT, Call, Decision, FunctionCall, Outcome, enclosing_call
from resilience.clock import US_PER_S, Clock, to_us, wall_ns
from resilience.drivers import drive
from resilience.errors import Rejected
from resilience.registry import enrol
from resilience.tracing import CallTrace
from resilience.workers.core import Ended, Expired, PoolCore, Refusal
from resilience.workers.entry import PLAIN, Entry, TaskOptions, Worker, task_name
from resilience.workers.failed import FailedTaskStore
from resilience.workers.keeping import Keeping, TasksNotKept, record_of
from resilience.workers.payload import encode
from resilience.workers.plan import PoolPlan
from resilience.workers.refusals import PoolClosed, PoolFull, TaskTimedOut
from resilience.workers.storage import FailedTaskStoreError

log = logging.getLogger("resilience")
KIND: Final = "pool"
_NOBODY: Final = Call()
"""The call that tracing is asked about where nothing encloses the submission."""
W = TypeVar("W", bound=Worker)


class Pool(ABC, Generic[W]):
    """The shell around the books: it holds their lock around arithmetic only, and does the rest once it is released."""

    def __init__(self, name: str, plan: PoolPlan, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.plan = plan
        self._lock = threading.Lock()
        self._core: PoolCore[W] = PoolCore(plan.settings, plan.health, self._new_worker, clock.now_us())
        self._keeping = Keeping(name)
        self._rejected = dict.fromkeys(("rate", "full", "closed", "expired"), 0)
        enrol(self)

    # --- what differs -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _new_worker(self) -> W:
        """Make a worker that is not started."""

    @abstractmethod
    def _start(self, worker: W) -> None:
        """Set a worker to the task that it holds."""

    @abstractmethod
    def _stop(self, worker: W) -> None:
        """Let an idle worker end."""

    @abstractmethod
    def _tell(self, entry: Entry, error: BaseException) -> None:
        """Let the future of a task that is over raise `error`."""

    @abstractmethod
    def _hurry(self) -> None:
        """Have `look` done now, and soon again where it says so."""

    @abstractmethod
    def _keep_later(self, entry: Entry, error: BaseException, now_us: int) -> None:
        """Store a task that is over, then tell its future."""

    # --- a task comes -------------------------------------------------------------------------------------------------------------

    def _enter(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: TaskOptions, future: Any
    ) -> Entry:
        """Accept a task or refuse it. `future` makes its future."""
        now_us = self.clock.now_us()
        plan = self.plan
        if plan.gate is None and CURRENT.get() is None:
            trace = tracing.begin(self.name, _NOBODY)
            if trace is None:
                return self._accept(plan, fn, args, kwargs, options, future, now_us, None)
            return self._traced(plan, fn, args, kwargs, options, future, now_us, trace, None)
        call = FunctionCall(task_name(fn), args, kwargs, now_us, None)
        call.key, call.cost = options.key, options.cost
        if plan.gate is None:
            call.parent = enclosing_call()
            trace = tracing.begin(self.name, call)
        else:
            plan.gate.begin(call)
            trace = call.trace
            call.deadline_us = None  # that of a request around it bounds the request, not what it leaves behind
        if trace is None:
            self._pass_gate(plan, call)
            return self._accept(plan, fn, args, kwargs, options, future, self.clock.now_us(), None)
        return self._traced(plan, fn, args, kwargs, options, future, now_us, trace, call)

    def _pass_gate(self, plan: PoolPlan, call: Call) -> None:
        gate = plan.gate
        if gate is None:
            return
        refusal = self._core.refusal(call.now_us)
        if refusal is not None:  # before a token is taken
            raise self._refused(refusal)
        try:
            permit = drive(gate.outer.steps(call), gate.clock) if gate.outer.has_effects else gate.outer.admit(call)
        except Rejected:
            self._count("rate")
            raise
        permit.settle(Outcome.OK)

    def _traced(
        self,
        plan: PoolPlan,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        future: Any,
        now_us: int,
        trace: CallTrace,
        call: Call | None,
    ) -> Entry:
        """The same, recorded: a leaf for the admission; what was accepted takes the trace along."""
        trace.enter()
        began_ns = wall_ns()
        decision, refusal = Decision.ADMITTED, None
        try:
            if call is not None:
                self._pass_gate(plan, call)
            entry = self._accept(plan, fn, args, kwargs, options, future, now_us, trace)
            if entry.started_us == 0:
                decision = Decision.QUEUED
            return entry
        except BaseException as error:
            decision, refusal = Decision.REJECTED, error
            raise
        finally:
            told = {"resilience.pool.queue.length": self._core.queue.length}
            trace.layer(KIND, self.name, self.name, began_ns, decision.value, told, refusal)
            trace.exit()
            if refusal is not None:
                trace.finish(refusal)
            refusal = None  # its traceback refers to this frame

    def _accept(
        self,
        plan: PoolPlan,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        future: Any,
        now_us: int,
        trace: CallTrace | None,
    ) -> Entry:
        core = self._core
        refusal = core.refusal(now_us)
        if refusal is not None:  # before anything is made for it: there may be a million of these
            raise self._refused(refusal)
        deadline_us = self._deadline_us(options, now_us)
        if deadline_us is not None and deadline_us <= now_us:
            self._count("expired")
            raise TaskTimedOut(policy=self.name, reason="expired_on_arrival")
        entry = Entry(fn, args, kwargs, copy_context(), options.priority, deadline_us)
        entry.key = options.idempotency_key
        entry.trace = trace
        if plan.failed is not None:
            entry.payload = encode(task_name(fn), args, kwargs)
        entry.future = future(self, entry)
        with self._lock:
            if core.closing or core.queue.length + core.unkept >= core.settings.queue:  # the quick part of it
                refusal = core.refusal(now_us)
            worker = core.accept(entry, now_us) if refusal is None else None
        if refusal is not None:
            raise self._refused(refusal)
        if worker is not None:
            self._start(worker)
        self._note(entry, now_us)
        return entry

    def _note(self, entry: Entry, now_us: int) -> None:
        """A task was accepted: see that somebody looks in time."""

    def _deadline_us(self, options: TaskOptions, now_us: int) -> int | None:
        core = self._core
        timeout_us = core.timeout_us if options.timeout_s is None else to_us(options.timeout_s)
        pool_us = core.pool_deadline_us
        if timeout_us is None:
            return pool_us
        return now_us + timeout_us if pool_us is None else min(pool_us, now_us + timeout_us)

    def _refused(self, refusal: Refusal) -> Rejected:
        if refusal is Refusal.CLOSED:
            self._count("closed")
            return PoolClosed(policy=self.name, reason="shutting_down")
        self._count("full")
        if refusal is Refusal.NOT_KEPT:
            return PoolFull(policy=self.name, reason="not_kept")
        core = self._core
        return PoolFull(policy=self.name, reason="full", retry_after_s=core.mean_run_us / max(1, core.busy) / US_PER_S or None)

    def _count(self, reason: str) -> None:
        with self._lock:
            self._rejected[reason] += 1

    # --- a task ends --------------------------------------------------------------------------------------------------------------

    def _tell_expired(self, expired: list[Expired], now_us: int, error: Callable[[Expired], BaseException] | None = None) -> None:
        """Tell the futures of tasks whose time is over, or that the end of the pool has cut off."""
        for item in expired:
            told = self._timed_out(item) if error is None else error(item)
            if item.is_abandoned and error is None:
                self._warn_abandoned(item.entry)
            if self.plan.failed is None:
                self._tell(item.entry, told)
                finish_trace(item.entry, told)
            else:
                self._keep_later(item.entry, told, now_us)

    def _timed_out(self, item: Expired) -> BaseException:
        return TaskTimedOut(policy=self.name, reason="expired" if item.was_running else "expired_on_arrival")

    def _shut_off(self, item: Expired) -> BaseException:
        return PoolClosed(policy=self.name, reason="cut_off" if item.was_running else "shutting_down")

    def _warn_abandoned(self, entry: Entry) -> None:
        """Nothing can stop the work of a thread."""

    def _keep(self, entry: Entry, error: BaseException, now_us: int) -> None:
        """Store a task that failed; where that fails too, hold on to it. Blocks: for threads only."""
        store = self.plan.failed
        if store is None:
            return
        task = record_of(entry, error, self.name, self.clock, now_us)
        trouble = self._keeping.store_or_wait(store, task)
        with self._lock:
            is_known, entry.is_kept = entry.is_kept, True  # it may fail and time out at the same moment
            if not trouble:
                self._keeping.kept += not is_known
            elif not is_known:
                self._keeping.unkept.append(task)
                self._core.unkept += 1
        if trouble:
            error.add_note(f"pool {self.name}: could not be stored, and is held in memory until it can: {trouble}")

    def _keep_again(self) -> None:
        """Store what could not be stored, for as long as that succeeds. Blocks."""
        store, keeping = self.plan.failed, self._keeping
        while store is not None and keeping.unkept:
            task = keeping.unkept[0]
            if keeping.store(store, task) is not None:
                return
            with self._lock:
                if task in keeping.unkept:
                    keeping.unkept.remove(task)
                    keeping.kept += 1
                    self._core.unkept -= 1

    def _raise_not_kept(self) -> None:
        """At the end: what is still not stored must not end unseen."""
        tasks = list(self._keeping.unkept)
        if tasks:
            raise TasksNotKept(
                f"pool {self.name}: {len(tasks)} failed tasks could not be stored ({self._keeping.last_error}); `tasks` has them",
                tasks,
            )

    # --- its settings -------------------------------------------------------------------------------------------------------------

    def configure(self, plan: PoolPlan) -> None:
        """Go by other settings from now on. Tasks that were accepted keep their time, and what waits keeps its place."""
        with self._lock:
            self.plan = plan
            self._core.health = plan.health
            if not self._core.closing:
                self._core.configure(plan.settings, self.clock.now_us())
        self._hurry()

    # --- telling ------------------------------------------------------------------------------------------------------------------

    @property
    def failed(self) -> FailedTaskStore | None:
        """Where its failed tasks are kept."""
        return self.plan.failed

    @property
    def is_closed(self) -> bool:
        """Whether it refuses tasks for good."""
        return self._core.closing

    def decisions(self) -> Mapping[str, int]:
        """How often each decision was made since the pool was born, in the vocabulary of the layers."""
        core = self._core
        return {
            Decision.ADMITTED.value: core.accepted,
            Decision.REJECTED.value: sum(self._rejected.values()),
            Decision.EXPIRED.value: core.ended[Ended.TIMED_OUT],
        }

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, as plain data for JSON."""
        now_us = self.clock.now_us()
        with self._lock:
            core = self._core
            most = core.most_busy(now_us)
            return {
                "workers": core.workers,
                "wanted_workers": core.size,
                "workers_allowed_by_health": most,
                "busy": core.busy,
                "idle": len(core.idle),
                "abandoned": core.abandoned,
                "queue_length": core.queue.length,
                "queue_wait_s": core.mean_wait_us / US_PER_S,
                "run_s": core.mean_run_us / US_PER_S,
                "scaling_steps": core.steps,
                "accepted": core.accepted,
                "pending": core.pending,
                **{ended.value: count for ended, count in core.ended.items()},
                "rejected": dict(self._rejected),
                "failed_kept": self._keeping.kept,
                "failed_not_kept": core.unkept,
                "closed": core.closing,
            }

    def __repr__(self) -> str:
        core = self._core
        return f"{type(self).__name__}({self.name!r}, {core.workers} workers, {core.queue.length} waiting)"


def finish_trace(entry: Entry, error: BaseException | None) -> None:
    """The recording of a task ends."""
    trace, entry.trace = entry.trace, None
    if trace is not None:
        trace.finish(error)


__all__ = ["PLAIN", "FailedTaskStoreError", "Pool", "finish_trace"]
