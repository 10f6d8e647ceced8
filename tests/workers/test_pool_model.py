"""A pool against a plain list of what was promised: whatever happens, nothing that was accepted is lost, and the order holds.

Driven by hand on an event loop whose time stands still until it is told to move, so that every step is the same each time.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import HealthSignal
from resilience.health import Hold
from resilience.testing import ManualClock
from resilience.workers import AsyncWorkerPool, FailedTaskStore, PoolClosed, PoolFull, TaskTimedOut
from resilience.workers.plan import PoolPlan
from resilience.workers.settings import WorkerPoolSettings
from tests.soak.sizes import EXAMPLES, SIDE_MACHINE
from tests.workers.helpers import Storage

pytestmark = [pytest.mark.soak, pytest.mark.slow]


@dataclass(eq=False)
class Job:
    """One task that was accepted."""

    number: int
    priority: int
    at_us: int
    timeout_s: float | None
    gate: asyncio.Future[str]
    future: Any = None
    begun: bool = False
    is_stubborn: bool = False

    async def __call__(self, number: int) -> int:
        self.begun = True
        while True:
            try:
                word = await asyncio.shield(self.gate)
            except asyncio.CancelledError:
                if not self.is_stubborn:
                    raise
                continue
            if word == "fail":
                raise LookupError(number)
            return number


class AtOnce(ThreadPoolExecutor):
    """Does in this thread, at once, what is to be done beside the loop: every run of the same steps is the same."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class PoolMachine(RuleBasedStateMachine):
    """Submits, finishes, fails, cancels, lets time pass, changes settings, breaks the store."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(AtOnce(1))
        self.clock = ManualClock(auto_advance=False)
        self.storage = Storage()
        self.health = HealthSignal(clock=self.clock)
        self.hold = Hold()
        self.settings = WorkerPoolSettings(min_workers=1, max_workers=3, queue=4, ageing_s=2.0, timeout_s=20.0, cool_down_s=1.0)
        self.store = FailedTaskStore(self.storage, clock=self.clock)
        self.jobs: list[Job] = []
        self.begun: list[Job] = []
        self.in_loop(self._make)

    def _make(self) -> None:
        self.pool = AsyncWorkerPool.over("model", self._plan(), self.clock)

    def _plan(self) -> PoolPlan:
        return PoolPlan.of("model", self.settings, None, None, self.health, self.store)

    def in_loop(self, step: Any, *args: Any) -> Any:
        """Take one step on the loop, and let all that follows from it happen."""

        async def taken() -> Any:
            result = step(*args)
            for _ in range(6):
                await asyncio.sleep(0)
            while self.pool._keepers:
                await asyncio.gather(*self.pool._keepers)
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(taken())

    # --- what happens -------------------------------------------------------------------------------------------------------------

    @rule(priority=st.integers(0, 9), timeout_s=st.sampled_from([None, 0.5, 3.0, 30.0]), is_stubborn=st.booleans())
    def submit(self, priority: int, timeout_s: float | None, is_stubborn: bool) -> None:
        waiting = self.pool.status()["queue_length"] + self.pool.status()["failed_not_kept"]
        job = Job(len(self.jobs), priority, self.clock.now_us(), timeout_s, self.loop.create_future(), is_stubborn=is_stubborn)

        def step() -> None:
            job.future = self.pool.options(priority=priority, timeout_s=timeout_s).submit(job.__call__, job.number)

        try:
            self.in_loop(step)
        except PoolFull:
            assert waiting >= self.settings.queue
        else:
            self.jobs.append(job)

    @precondition(lambda self: any(job.begun and not job.gate.done() for job in self.jobs))
    @rule(which=st.integers(0, 1_000), word=st.sampled_from(["done", "fail"]))
    def end(self, which: int, word: str) -> None:
        at_work = [job for job in self.jobs if job.begun and not job.gate.done()]
        self.in_loop(at_work[which % len(at_work)].gate.set_result, word)

    @precondition(lambda self: any(not job.future.done() for job in self.jobs))
    @rule(which=st.integers(0, 1_000))
    def cancel(self, which: int) -> None:
        pending = [job for job in self.jobs if not job.future.done()]
        job = pending[which % len(pending)]
        job.is_stubborn = False
        self.in_loop(job.future.cancel)

    @rule(duration_s=st.sampled_from([0.001, 0.4, 1.0, 2.5, 11.0]))
    def pass_time(self, duration_s: float) -> None:
        self.in_loop(self.clock.advance, duration_s)

    @rule(broken=st.booleans())
    def store_breaks(self, broken: bool) -> None:
        self.storage.broken = broken

    @rule(most=st.integers(1, 5), queue=st.integers(0, 6), ageing_s=st.sampled_from([0.5, 2.0, 60.0]))
    def change(self, most: int, queue: int, ageing_s: float) -> None:
        self.settings = WorkerPoolSettings(
            min_workers=min(2, most), max_workers=most, queue=queue, ageing_s=ageing_s, timeout_s=20.0, cool_down_s=1.0
        )
        self.in_loop(self.pool.configure, self._plan())

    @rule(is_well=st.booleans())
    def health_moves(self, is_well: bool) -> None:
        if is_well:
            self.health.closed(self.hold, self.clock.now_us())
        else:
            self.health.opened(self.hold, self.clock.now_us(), None)

    # --- what holds, always -------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        status = self.pool.status()
        ended = status["done"] + status["failed"] + status["timed_out"] + status["cancelled"]
        assert status["accepted"] == len(self.jobs) == ended + status["pending"]
        assert status["pending"] == sum(not job.future.done() for job in self.jobs)
        outcomes = [self._outcome(job) for job in self.jobs]
        for outcome in ("done", "failed", "timed_out", "cancelled"):
            assert status[outcome] == outcomes.count(outcome), outcome

    def _outcome(self, job: Job) -> str:
        """What its future was told, which must be what happened."""
        if not job.future.done():
            return "pending"
        if job.future.cancelled():
            return "cancelled"
        error = job.future.exception()
        if error is None:
            assert job.future.result() == job.number
            return "done"
        if isinstance(error, LookupError):
            assert error.args == (job.number,)
            return "failed"
        assert isinstance(error, TaskTimedOut)
        assert (error.reason == "expired_on_arrival") == (not job.begun)
        assert self.clock.now_us() >= job.at_us + (job.timeout_s or 20.0) * 1e6
        return "timed_out"

    @invariant()
    def what_failed_is_kept(self) -> None:
        """In the store, or in memory for as long as the store is broken; and only that."""
        told = {f'{{"args":[{job.number}],"kwargs":{{}}}}' for job in self.jobs if self._outcome(job) in ("failed", "timed_out")}
        stored = {task.payload for task in self.storage.tasks.values()}
        held = {task.payload for task in self.pool._keeping.unkept}
        assert stored | held == told
        assert self.pool.status()["failed_not_kept"] == len(self.pool._keeping.unkept)

    @invariant()
    def nobody_is_late(self) -> None:
        now_us = self.clock.now_us()
        assert all(job.future.done() or now_us < job.at_us + (job.timeout_s or 20.0) * 1e6 for job in self.jobs)

    @invariant()
    def workers_are_bounded(self) -> None:
        status = self.pool.status()
        at_work = [job for job in self.jobs if job.begun and not job.gate.done() and not job.future.done()]
        going_on = [job for job in self.jobs if job.is_stubborn and job.begun and not job.gate.done() and job.future.done()]
        nobody_stands_in = status["busy"] - len(at_work)
        assert nobody_stands_in + status["abandoned"] == len(going_on)
        assert nobody_stands_in == 0 or status["abandoned"] >= self.settings.max_workers
        assert status["wanted_workers"] <= self.settings.max_workers
        assert status["busy"] + status["idle"] == status["workers"]

    @invariant()
    def the_order_holds(self) -> None:
        """Whoever has begun came before all that wait, at the latest when it began: by priority and the time it had waited."""
        waiting = [job for job in self.jobs if not job.begun and not job.future.done()]
        for job in [job for job in self.jobs if job.begun and job not in self.begun]:
            self.begun.append(job)
            for other in waiting:
                if other.number < job.number:  # what came later was not there to be chosen
                    assert self._weight(job) <= self._weight(other)

    def _weight(self, job: Job) -> float:
        return job.priority * self.settings.ageing_s * 1e6 + job.at_us

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _drain(self) -> None:
        async def drained() -> None:
            self.storage.broken = False
            for job in self.jobs:
                job.is_stubborn = False
            await self.pool.drain(0.0)
            for job in self.jobs:
                if not job.gate.done():
                    job.gate.set_result("done")
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(drained())
        status = self.pool.status()
        assert status["pending"] == 0
        assert status["accepted"] == status["done"] + status["failed"] + status["timed_out"] + status["cancelled"]
        cut_off = [job for job in self.jobs if not job.future.cancelled() and isinstance(job.future.exception(), PoolClosed)]
        assert status["failed_kept"] == len(self.storage.tasks) == status["failed"] + status["timed_out"] + len(cut_off)
        assert not self.clock.pending_timers


TestPool = PoolMachine.TestCase
TestPool.settings = settings(SIDE_MACHINE, max_examples=EXAMPLES or 25)
