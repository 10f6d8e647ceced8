"""Thousands of calls that are cancelled or fail at random points leave no permit, no probe and no timer behind."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, Deadline, Outcome, Pipeline, RateLimiter, Rejected, Retry
from resilience.call import CURRENT
from resilience.testing import ManualClock
from tests.core.helpers import Failure

CALLS = 2_000
SEEDS = range(2)


class Bulkhead:
    """Counts who is inside."""

    kind, votes_at_start, has_effects = "bulkhead", False, False

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = self.passed = 0
        self._lock = threading.Lock()

    def admit(self, call: Call) -> object:
        with self._lock:
            self.inside += 1
            self.passed += 1
        return self

    def settle(self, token: object, outcome: Outcome, call: Call, now_us: int) -> None:
        with self._lock:
            self.inside -= 1


class Plant:
    """One pipeline with everything in it, tuned so that all of it happens: queueing, opening, probing, retrying, expiring."""

    def __init__(self, clock: ManualClock, chance: random.Random) -> None:
        self.clock = clock
        self.chance = chance
        self.whole, self.each = Bulkhead("whole"), Bulkhead("each")
        breaking: dict[str, Any] = {
            "min_calls": 5,
            "window_s": 5.0,
            "open_for_s": 0.5,
            "probes": 3,
            "clock": clock,
            "uniform": chance.random,
        }
        self.breakers = [
            CircuitBreaker(name="whole", failure_rate=0.5, **breaking),
            CircuitBreaker(name="each", failure_rate=0.6, key=self.key, max_keys=5, **breaking),
        ]
        self.pipeline = Pipeline(
            "everything",
            Deadline(3.0, clock=clock),
            self.whole,
            RateLimiter(60.0, burst=10, max_wait_s=0.5, key=self.key, max_keys=3, clock=clock),
            self.breakers[0],
            Retry(3, backoff_s=(0.05, 0.3), budget=(1_000, 1.0), clock=clock, uniform=chance.random),
            Deadline(0.4, clock=clock),
            self.breakers[1],
            self.each,
            RateLimiter(500.0, burst=50, max_wait_s=0.2, clock=clock),
        )

    def key(self, call: Call) -> str:
        if self.chance.random() < 0.02:
            raise LookupError("no key today")
        return f"key {self.chance.randrange(8)}"

    def check(self) -> None:
        """Nothing is left."""
        assert (self.whole.inside, self.each.inside) == (0, 0)
        assert self.whole.passed >= CALLS * 0.9
        for breaker in self.breakers:
            for machine in breaker.pool:
                assert machine._probes == {}
        assert self.clock.pending_timers == 0
        assert CURRENT.get() is None


async def flood(clock: ManualClock, chance: random.Random, call: Callable[[], Coroutine[Any, Any, None]]) -> tuple[int, int]:
    """Begin calls, cancel some, move time, until all are over: how many were begun, and cancelled before they could begin."""
    tasks: list[asyncio.Task[None]] = []
    begun = never_ran = 0
    while begun < CALLS or tasks:
        for _ in range(chance.randrange(20) if begun < CALLS else 0):
            tasks.append(asyncio.create_task(call()))
            begun += 1
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.02 and not task.cancelling():
                task.cancel()
        clock.advance(chance.random() / 10)
        never_ran += sum(task.done() and task.cancelled() for task in tasks)
        tasks = [task for task in tasks if not task.done()]
    return begun, never_ran


@pytest.mark.parametrize("seed", SEEDS)
def test_tasks(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    clock, chance = ManualClock(auto_advance=False), random.Random(seed)
    plant = Plant(clock, chance)
    ends: Counter[str] = Counter()

    async def work() -> str:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            await clock.asleep(chance.random())
        if chance.random() < 0.5:
            raise chance.choice([OSError, Failure, TimeoutError])
        return "done"

    async def call() -> None:
        try:
            await plant.pipeline.acall(work)
        except (Failure, OSError, Rejected) as error:
            ends[type(error).__name__] += 1
        except asyncio.CancelledError:
            ends["cancelled"] += 1
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 1
        else:
            ends["done"] += 1

    begun, never_ran = asyncio.run(flood(clock, chance, call))
    plant.check()
    assert sum(ends.values()) + never_ran == begun
    assert min(ends[end] for end in ("done", "cancelled", "Failure", "CircuitOpen", "RateLimited", "DeadlineExceeded")) > 0, ends


class Interrupted(BaseException):
    """What a signal handler may raise anywhere."""


class InterruptedClock(ManualClock):
    """Sleeps are interrupted now and then."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._moving = threading.Lock()

    def advance(self, duration_s: float) -> None:
        with self._moving:
            super().advance(duration_s)

    def sleep(self, duration_s: float) -> None:
        if self._chance.random() < 0.2:
            raise Interrupted
        super().sleep(duration_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_threads(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    chance = random.Random(seed)
    clock = InterruptedClock(chance)
    plant = Plant(clock, chance)
    ends: Counter[str] = Counter()
    unexpected: list[BaseException] = []

    def work() -> str:
        clock.advance(chance.random() / 50)
        if chance.random() < 0.6:
            raise chance.choice([OSError, Failure, TimeoutError, Interrupted, asyncio.CancelledError, StopIteration])
        return "done"

    def caller() -> None:
        for _ in range(CALLS // 20):
            try:
                plant.pipeline.call(work)
            except (Failure, OSError, Rejected, Interrupted, asyncio.CancelledError, StopIteration) as error:
                ends[type(error).__name__] += 1
            except BaseException as error:
                unexpected.append(error)
            else:
                ends["done"] += 1

    threads = [threading.Thread(target=caller) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plant.check()
    assert unexpected == []
    assert sum(ends.values()) == CALLS
    assert min(ends[end] for end in ("done", "Failure", "Interrupted", "CancelledError", "StopIteration", "CircuitOpen")) > 0, ends
