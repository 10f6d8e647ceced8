"""10,000 calls in tasks and 10,000 in threads, cancelled or failing at random points in any layer, leave nothing behind.

No permit, no probe, no task, no member of a timer's slot, no reservation in a limiter's queue.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import pytest

from resilience import Call, CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Rejected, Retry
from resilience.call import CURRENT
from resilience.layers.base import Wait
from resilience.testing import ManualClock
from resilience.timers import wheel_of
from tests.core.helpers import Failure
from tests.core.test_nothing_leaks import Bulkhead, Interrupted, InterruptedClock

pytestmark = [pytest.mark.soak, pytest.mark.slow]

CALLS: Final = 10_000
THREADS: Final = 20
WAYS: Final = ("call", "guard", "nested call", "call in guard", "guard in call")
ENDS: Final = (Failure, OSError, Rejected, Interrupted, asyncio.CancelledError, StopIteration)


class CountingLimiter(RateLimiter):
    """Counts the reservations that were given back."""

    given_back = 0
    counting = threading.Lock()

    def admit(self, call: Call) -> Wait | None:
        wait = super().admit(call)
        if wait is None:
            return None

        def cancel() -> None:
            with self.counting:
                self.given_back += 1
            wait.cancel()

        return Wait(wait.wait_s, cancel)


class Plant:
    """Three pipelines on one signal, tuned so that all of it happens: queueing, opening, probing, retrying, expiring."""

    def __init__(self, clock: ManualClock, chance: random.Random) -> None:
        self.clock = clock
        self.chance = chance
        self.health = HealthSignal(every_s=1.0, recover=0.2, clock=clock)
        self.limiters: list[CountingLimiter] = []
        self.gates: list[Bulkhead] = []
        self.breakers: list[CircuitBreaker] = []
        self.everything = Pipeline(
            "everything",
            Deadline(3.0, clock=clock),
            *self.limited(90.0, burst=15, max_wait_s=0.5, key=self.key, max_keys=3),
            self.breaker(failure_rate=0.25),
            Retry(3, backoff_s=(0.05, 0.3), budget=(1_000, 1.0), clock=clock, uniform=chance.random),
            Deadline(0.4, clock=clock),
            self.breaker(failure_rate=0.5, key=self.key, max_keys=5),
            *self.limited(900.0, burst=50, max_wait_s=0.2),
        )
        self.guarded = Pipeline(
            "guarded",
            Deadline(1.0, clock=clock),
            *self.limited(300.0, burst=20, max_wait_s=0.3),
            self.breaker(failure_rate=0.35),
            *self.limited(300.0, burst=30, max_wait_s=0.3, key=self.key),
        )
        self.inner = Pipeline(
            "inner",
            self.breaker(failure_rate=0.35),
            *self.limited(500.0, burst=30, max_wait_s=0.5),
            Retry(2, backoff_s=(0.01, 0.1), when_nested=True, budget=(1_000, 1.0), clock=clock, uniform=chance.random),
            Deadline(0.3, clock=clock),
        )

    def limited(self, rate_per_s: float, **settings: Any) -> tuple[CountingLimiter, Bulkhead]:
        """A limiter, and behind it a gate that counts who came through."""
        limiter = CountingLimiter(
            rate_per_s, health=self.health, name=f"limiter {len(self.limiters)}", clock=self.clock, **settings
        )
        gate = Bulkhead(f"gate {len(self.gates)}")
        self.limiters.append(limiter)
        self.gates.append(gate)
        return limiter, gate

    def breaker(self, **settings: Any) -> CircuitBreaker:
        usual: dict[str, Any] = {"min_calls": 5, "window_s": 2.0, "open_for_s": 0.3, "half_open_for_s": 0.4, "probes": 3}
        breaker = CircuitBreaker(
            **usual, **settings, health=self.health, name="breaker", clock=self.clock, uniform=self.chance.random
        )
        self.breakers.append(breaker)
        return breaker

    def key(self, call: Call) -> str:
        if self.chance.random() < 0.02:
            raise LookupError("no key today")
        return f"key {self.chance.randrange(8)}"

    def call(self, way: str, work: Callable[[], str]) -> str:
        """Do the work in this thread, behind one pipeline or two."""
        if way == "nested call":
            return self.everything.call(lambda: self.inner.call(work))
        if way == "guard in call":
            return self.everything.call(lambda: self.call("guard", work))
        if way == "call":
            return self.everything.call(work)
        with self.guarded.guard():
            return self.inner.call(work) if way == "call in guard" else work()

    async def acall(self, way: str, work: Callable[[], Awaitable[str]]) -> str:
        """The same in a task."""
        if way == "nested call":
            return await self.everything.acall(lambda: self.inner.acall(work))
        if way == "guard in call":
            return await self.everything.acall(lambda: self.acall("guard", work))
        if way == "call":
            return await self.everything.acall(work)
        async with self.guarded.guard():
            return await (self.inner.acall(work) if way == "call in guard" else work())

    def check(self) -> None:
        """Nothing is left, and nobody got past a gate without tokens."""
        assert [gate.inside for gate in self.gates] == [0] * len(self.gates)
        for limiter, gate in zip(self.limiters, self.gates, strict=True):
            counts = limiter.decisions()
            assert gate.passed == counts["admitted"] + counts["queued"] - limiter.given_back, limiter.name
        for breaker in self.breakers:
            assert [machine._probes for machine in breaker.pool if machine._probes] == []
            assert breaker.pool.single.probed > 0 or len(breaker.pool.table) > 0
        assert sum(limiter.given_back for limiter in self.limiters) > 0
        assert self.health.incidents > 1
        self.clock.advance(3_600.0)
        assert self.clock.pending_timers == 0
        assert CURRENT.get() is None


class SharedTimers(ManualClock):
    """Deadlines share timers, as on the system's clock."""

    timer_slot_us = 4_000


async def flood(clock: ManualClock, chance: random.Random, call: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Begin calls, cancel some, move time, until all are over. Returns how many were cancelled before they could begin."""
    tasks: list[asyncio.Task[None]] = []
    begun = never_ran = 0
    while begun < CALLS or tasks:
        coming = min(CALLS - begun, chance.randrange(20))
        tasks += [asyncio.create_task(call()) for _ in range(coming)]
        begun += coming
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.01 and not task.cancelling():
                task.cancel()
        clock.advance(chance.random() / 10)
        over = [task for task in tasks if task.done()]
        never_ran += sum(task.cancelled() for task in over)
        assert [task.exception() for task in over if not task.cancelled() and task.exception()] == []
        tasks = [task for task in tasks if not task.done()]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return never_ran


def check_slots(clock: ManualClock) -> None:
    """No call is left in a slot of timers, and no slot once its time has passed."""
    wheel = wheel_of(asyncio.get_running_loop(), clock)
    assert [slot.members for slot in wheel._slots.values() if slot.members] == []
    clock.advance(3_600.0)
    assert wheel._slots == {}


@pytest.mark.parametrize("clock_type", [ManualClock, SharedTimers])
def test_tasks(
    clock_type: type[ManualClock], caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    record_property("size", f"{CALLS:,} calls in tasks, {clock_type.__name__}")
    caplog.set_level("CRITICAL")
    clock, chance = clock_type(auto_advance=False), random.Random(clock_type.timer_slot_us)
    plant = Plant(clock, chance)
    ends: Counter[str] = Counter()
    still_cancelling: list[str] = []

    async def work() -> str:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            await clock.asleep(chance.random())
        if chance.random() < 0.4:
            raise chance.choice([OSError, Failure, TimeoutError])
        return "done"

    async def call() -> None:
        end = "done"
        try:
            await plant.acall(chance.choice(WAYS), work)
        except ENDS as error:
            end = type(error).__name__
        ends[end] += 1
        task = asyncio.current_task()
        if task is not None and task.cancelling() and end != "CancelledError":
            still_cancelling.append(end)

    async def main() -> int:
        never_ran = await flood(clock, chance, call)
        check_slots(clock)
        return never_ran

    never_ran = asyncio.run(main())
    plant.check()
    assert sum(ends.values()) + never_ran == CALLS
    assert still_cancelling == [], "only who was cancelled is told so"
    kinds = ("done", "CancelledError", "Failure", "OSError", "CircuitOpen", "RateLimited", "DeadlineExceeded")
    assert min(ends[kind] for kind in kinds) > 10, ends


def test_threads(caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]) -> None:
    record_property("size", f"{CALLS:,} calls in {THREADS} threads")
    caplog.set_level("CRITICAL")
    chance = random.Random(1)
    clock = InterruptedClock(chance)
    plant = Plant(clock, chance)
    ends: Counter[str] = Counter()
    counting = threading.Lock()
    unexpected: list[BaseException] = []

    def work() -> str:
        clock.advance(chance.random() / 50)
        if chance.random() < 0.5:
            raise chance.choice([OSError, Failure, TimeoutError, Interrupted, asyncio.CancelledError, StopIteration])
        return "done"

    def one() -> str:
        try:
            return plant.call(chance.choice(WAYS), work)
        except ENDS as error:
            return type(error).__name__

    def caller() -> None:
        for _ in range(CALLS // THREADS):
            try:
                end = one()
            except BaseException as error:
                unexpected.append(error)
                continue
            with counting:
                ends[end] += 1

    before = threading.active_count()
    threads = [threading.Thread(target=caller) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() == before
    plant.check()
    assert unexpected == []
    assert sum(ends.values()) == CALLS
    kinds = ("done", "Failure", "OSError", "Interrupted", "CancelledError", "StopIteration", "CircuitOpen", "RateLimited")
    assert min(ends[kind] for kind in kinds) > 10, ends
