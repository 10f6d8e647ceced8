"""Batches under hard use: many cancelled at random points, many that hang, very many requests through a few places."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, Pipeline, Retry
from resilience.batch import BatchCaller, Kind, Results
from resilience.testing import nothing_leaks
from tests.soak.sizes import by_length

pytestmark = pytest.mark.soak

CANCELLATIONS = by_length(500, 10_000)
REQUESTS = by_length(5_000, 100_000)
RUNS = by_length(2, 20)
MOST_LATE_S = 0.05
MOST_TOO_LATE = by_length(RUNS, 1)
"""In the short form, among tests that share the machine, time is not judged."""


class Broken(Exception):
    """What one call in ten ends with."""


def verdict(results: Results[Any], late_s: float) -> bool:
    """Whether a batch of 100 calls, of which 10 fail and 5 hang, came back as promised."""
    assert len(results) == 100
    for number, result in enumerate(results):
        if result.ok:
            assert result.value == number
        else:
            assert isinstance(result.error, Exception)
    if late_s > MOST_LATE_S or len(results.values()) != 85:  # on a machine that is too busy they do not all get their turn
        return False
    assert [result.value for result in results if result.ok] == [
        number for number in range(100) if number % 10 != 3 and number % 20 != 5
    ]
    kinds = {number: result.kind for number, result in enumerate(results) if not result.ok}
    assert kinds == {
        number: Kind.TIMEOUT if number % 20 == 5 else Kind.BUSINESS for number in [*range(3, 100, 10), *range(5, 100, 20)]
    }
    assert results.report.peak == 40
    return True


def test_a_batch_of_tasks_is_back_in_time() -> None:
    inside = peak = 0

    async def call(number: int) -> int:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        try:
            if number % 20 == 5:
                await asyncio.Event().wait()
            await asyncio.sleep(0.01)
            if number % 10 == 3:
                raise Broken(number)
            return number
        finally:
            inside -= 1

    async def one(caller: BatchCaller) -> bool:
        began_s = time.monotonic()
        results = await caller.acall(call, range(100))
        late_s = time.monotonic() - began_s - 0.2
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (inside, peak <= 40) == (0, True)
        return verdict(results, late_s)

    with nothing_leaks():
        caller = BatchCaller("soak", concurrency=40, timeout_s=0.2)
        in_time = [asyncio.run(one(caller)) for _ in range(RUNS)]
    assert in_time.count(False) <= MOST_TOO_LATE, in_time


def test_a_batch_of_threads_is_back_in_time() -> None:
    released = threading.Event()

    def call(number: int) -> int:
        if number % 20 == 5:
            released.wait(60.0)
        time.sleep(0.005)
        if number % 10 == 3:
            raise Broken(number)
        return number

    in_time = []
    with nothing_leaks(wait_s=5.0):
        for _ in range(RUNS):
            with BatchCaller("soak", concurrency=40, timeout_s=0.2) as caller:
                began_s = time.monotonic()
                results = caller.call(call, range(100))
                late_s = time.monotonic() - began_s - 0.2
                in_time.append(verdict(results, late_s))
                hung = [number for number, result in enumerate(results) if getattr(result, "abandoned", False)]
                assert hung == [*range(5, 100, 20)] or not in_time[-1]
                assert results.report.abandoned == len(hung) == caller.status()["abandoned"]["now"]
                assert caller.status()["threads"] <= 40 + 5
                released.set()
                released = threading.Event()
    assert in_time.count(False) <= MOST_TOO_LATE, in_time


def test_cancellations_at_random_points_leak_nothing() -> None:
    chance = random.Random(7)
    breaker = CircuitBreaker(min_calls=1_000_000)
    pipelines = [None, Pipeline("plain", Deadline(30.0), breaker), Pipeline("retry", Retry(attempts=2, backoff_s=0.0), breaker)]
    inside = 0

    async def call(steps: int) -> int:
        nonlocal inside
        inside += 1
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            if steps == 3:
                raise Broken
            return steps
        finally:
            inside -= 1

    async def cancelled(callers: list[BatchCaller]) -> None:
        caller = chance.choice(callers)
        requests = [chance.randrange(6) for _ in range(chance.randrange(12))]
        task = asyncio.create_task(_fan(caller, call, requests, streamed=chance.random() < 0.3))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert inside == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def run(callers: list[BatchCaller]) -> None:
        for _ in range(CANCELLATIONS):
            await cancelled(callers)

    callers = [
        BatchCaller(f"soak {number}", concurrency=3, pipeline=pipeline, hedge_after_s=hedge_after_s, timeout_s=30.0)
        for number, pipeline in enumerate(pipelines)
        for hedge_after_s in (None, 0.0001)
    ]
    with nothing_leaks():
        asyncio.run(run(callers))
    assert breaker.state is BreakerState.CLOSED
    for caller in callers:
        status = caller.status()
        assert (status["in_flight"], status["abandoned"]) == (0, {"now": 0, "total": 0})


async def _fan(caller: BatchCaller, call: Any, requests: list[int], *, streamed: bool) -> None:
    if not streamed:
        await caller.acall(call, requests)
        return
    async with contextlib.aclosing(caller.astream(call, requests)) as stream:  # type: ignore[type-var]
        async for _ in stream:
            pass


def test_very_many_requests_need_no_more_memory_than_few() -> None:
    async def call(number: int) -> bytes:
        await asyncio.sleep(0)
        return bytes(1_000)

    async def many(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def peak_bytes(count: int) -> int:
        caller = BatchCaller("soak", concurrency=100, pipeline=Pipeline("stock", Deadline(30.0), CircuitBreaker()), timeout_s=600.0)
        seen = 0
        gc.collect()
        tracemalloc.start()
        async for settled in caller.astream(call, many(count)):
            assert settled.result.ok
            seen += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == count
        return peak

    few, all_of_them = asyncio.run(peak_bytes(1_000)), asyncio.run(peak_bytes(REQUESTS))
    assert all_of_them < few * 1.5


def test_very_many_requests_through_threads() -> None:
    def requests() -> Iterator[int]:
        yield from range(REQUESTS // 10)

    with nothing_leaks(), BatchCaller("soak", concurrency=100, threads=8) as caller:
        seen = sum(settled.request for settled in caller.stream(int, requests()))
        assert seen == sum(range(REQUESTS // 10))
