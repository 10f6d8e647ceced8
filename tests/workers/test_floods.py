"""Very many submissions, cancellations and timeouts: bounded, told, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any, Final

import pytest

from resilience.testing import ManualClock
from resilience.workers import AsyncWorkerPool, FailedTaskStore, PoolFull, TaskTimedOut, WorkerPool
from tests.soak.sizes import by_length
from tests.workers.helpers import Blocked, Storage, until

pytestmark = [pytest.mark.soak]

SUBMISSIONS: Final = by_length(30_000, 1_000_000)
ENDINGS: Final = by_length(2_000, 10_000)
BOUND: Final = 1_000


def test_a_million_submissions_against_a_bound_of_a_thousand(record_property: Callable[[str, object], None]) -> None:
    """From eight threads at once, against two workers that take a thousand tasks and then no more."""
    record_property("size", f"{SUBMISSIONS:,} submissions")
    blocked, done = Blocked(), Counter[str]()
    accepted: list[Any] = []

    def submit(number: int) -> None:
        for _ in range(SUBMISSIONS // 8):
            try:
                accepted.append(pool.submit(count))
            except PoolFull as refused:
                done[refused.reason] += 1

    def count() -> int:
        return 1

    with WorkerPool(min_workers=2, max_workers=2, queue=BOUND) as pool:
        pool.submit(blocked)
        pool.submit(blocked)
        blocked.wait_begun(2)
        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = pool.status()
        assert (len(accepted), status["queue_length"], status["rejected"]["full"]) == (BOUND, BOUND, SUBMISSIONS - BOUND)
        blocked.open.set()
        assert sum(future.result(30) for future in accepted) == BOUND
    status = pool.status()
    assert (status["accepted"], status["done"], status["pending"]) == (BOUND + 2, BOUND + 2, 0)


def test_random_cancellations_and_timeouts_of_threads_leave_nothing(record_property: Callable[[str, object], None]) -> None:
    record_property("size", f"{ENDINGS:,} tasks")
    chance, clock = random.Random(7), ManualClock()
    futures: list[Any] = []
    gone: list[weakref.ref[Any]] = []
    before = threading.active_count()
    with WorkerPool(min_workers=4, max_workers=4, queue=ENDINGS, failed=FailedTaskStore(Storage()), clock=clock) as pool:
        for number in range(ENDINGS):
            future = pool.options(priority=number % 10, timeout_s=chance.choice([0.5, 5.0, 1e6])).submit(_work, number)
            futures.append(future)
            gone.append(weakref.ref(future))
            if chance.random() < 0.3:
                chance.choice(futures).cancel()
            if number % 20 == 0:
                clock.advance(chance.random())
                pool.look()
        wait(futures, 60)
        status = pool.status()
        told = Counter(_told(future) for future in futures)
        assert told == {name: status[name] for name in ("done", "failed", "timed_out", "cancelled") if status[name]}
        assert status["accepted"] == ENDINGS
        assert status["failed_kept"] == status["failed"] + status["timed_out"]
        until(lambda: pool.status()["abandoned"] == 0 and pool.status()["workers"] == 4)
        assert threading.active_count() <= before + 5
        assert len(pool._core._deadlines) <= 200
        assert not pool._core.running
    del futures[:], future
    gc.collect()
    assert not [ref for ref in gone if ref() is not None], "no future is held"


def _work(number: int) -> int:
    if number % 7 == 0:
        raise LookupError(number)
    return number


def _told(future: Any) -> str:
    try:
        error = future.exception()
    except (CancelledError, asyncio.CancelledError):
        return "cancelled"
    if error is None:
        return "done"
    return "timed_out" if isinstance(error, TaskTimedOut) else "failed"


def test_random_cancellations_and_timeouts_of_tasks_leave_nothing(record_property: Callable[[str, object], None]) -> None:
    record_property("size", f"{ENDINGS:,} tasks")
    chance = random.Random(7)
    gone: list[weakref.ref[Any]] = []

    async def work(number: int, steps: int) -> int:
        for _ in range(steps):
            await asyncio.sleep(0)
        return _work(number)

    async def main() -> None:
        clock = ManualClock(auto_advance=False)
        futures: list[Any] = []
        async with AsyncWorkerPool(min_workers=8, max_workers=8, queue=ENDINGS, clock=clock) as pool:
            for number in range(ENDINGS):
                options = pool.options(priority=number % 10, timeout_s=chance.choice([0.5, 5.0, 1e6]))
                future = options.submit(work, number, chance.randrange(6))
                futures.append(future)
                gone.append(weakref.ref(future))
                if chance.random() < 0.3:
                    chance.choice(futures).cancel()
                if number % 10 == 0:
                    await asyncio.sleep(0)
                    clock.advance(chance.random())
            await asyncio.wait(futures)
            status = pool.status()
            told = Counter(_told(future) for future in futures)
            assert told == {name: status[name] for name in ("done", "failed", "timed_out", "cancelled") if status[name]}
            assert min(told.values()) > ENDINGS / 100
            await asyncio.sleep(0)
            assert (pool.status()["abandoned"], pool.status()["busy"]) == (0, 0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert clock.pending_timers == 0

    asyncio.run(main())
    gc.collect()
    assert not [ref for ref in gone if ref() is not None], "no future is held"
