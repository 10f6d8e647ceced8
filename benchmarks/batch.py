"""What a batch costs a call: beside `asyncio.gather`, `asyncio.TaskGroup` and `concurrent.futures`, which guard nothing.

The batch sends each call through a pipeline of a deadline and a breaker, bounds the whole in time and in concurrency, and makes a
typed result of each. All in one process and one run, in interleaved rounds; the figure is a ratio of medians, so the speed of the
machine cancels out. A call of tasks suspends once, as every call that leaves the process does at least; one of threads sleeps for
0.1 ms. No span is recorded: the current span is valid and not sampled, as under a tracing middleware in production.

Run with `make bench`. Exit status 1: a batch costs more than `LIMIT` times what the quickest of the others costs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opentelemetry import context, trace

from resilience import CircuitBreaker, Deadline, Pipeline
from resilience.batch import BatchCaller

LIMIT = 2.0
CALLS = 100
ROUNDS = 201
THREADS = 8
THREAD_ROUNDS = 61
OUT = Path(__file__).parent / "out" / "batch.json"


async def suspends(number: int) -> int:
    """A call that waits once."""
    await asyncio.sleep(0)
    return number


async def returns(number: int) -> int:
    """A call that waits for nothing: all that is left is overhead."""
    return number


def blocks(number: int) -> int:
    """A call that holds its thread for a moment."""
    time.sleep(0.0001)
    return number


def guarded() -> Pipeline:
    """The layers that every call of the batch passes."""
    return Pipeline("stock", Deadline(default_s=5.0), CircuitBreaker())


def task_ways(work: Callable[[int], Coroutine[Any, Any, int]]) -> dict[str, Callable[[], Awaitable[None]]]:
    """The same calls as tasks, in each way."""
    caller = BatchCaller("bench", pipeline=guarded(), concurrency=CALLS, timeout_s=5.0)

    async def gather() -> None:
        await asyncio.gather(*(work(number) for number in range(CALLS)))

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            begun: list[asyncio.Task[int]] = [tasks.create_task(work(number)) for number in range(CALLS)]
        [task.result() for task in begun]

    async def batch() -> None:
        await caller.acall(work, range(CALLS))

    return {"asyncio.gather": gather, "asyncio.TaskGroup": group, "BatchCaller.acall": batch}


async def measure_tasks(work: Callable[[int], Coroutine[Any, Any, int]]) -> dict[str, float]:
    """Microseconds a call, the median of each way."""
    ways = task_ways(work)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    gc.disable()
    for number in range(ROUNDS + 3):
        for name, way in ways.items():
            began = time.perf_counter()
            await way()
            if number >= 3:  # the first rounds warm up the interpreter's specialisations
                samples[name].append((time.perf_counter() - began) / CALLS * 1e6)
        if number % 20 == 0:
            gc.collect()
    gc.enable()
    return {name: statistics.median(taken) for name, taken in samples.items()}


def measure_threads() -> dict[str, float]:
    """The same for threads, of which each way has as many."""
    samples: dict[str, list[float]] = {"concurrent.futures": [], "BatchCaller.call": []}
    with (
        ThreadPoolExecutor(THREADS) as executor,
        BatchCaller("bench", pipeline=guarded(), concurrency=THREADS, timeout_s=5.0) as caller,
    ):
        for number in range(THREAD_ROUNDS + 3):
            began = time.perf_counter()
            begun = [executor.submit(blocks, call) for call in range(CALLS)]
            [future.result() for future in begun]
            ended = time.perf_counter()
            caller.call(blocks, range(CALLS))
            if number >= 3:
                samples["concurrent.futures"].append((ended - began) / CALLS * 1e6)
                samples["BatchCaller.call"].append((time.perf_counter() - ended) / CALLS * 1e6)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def ratio(medians: dict[str, float]) -> float:
    """What a batch costs, by the quickest of the others."""
    (batch,) = (taken for name, taken in medians.items() if name.startswith("Batch"))
    return batch / min(taken for name, taken in medians.items() if not name.startswith("Batch"))


def main() -> int:
    unsampled = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    context.attach(trace.set_span_in_context(unsampled))
    medians = {
        "tasks that wait once": asyncio.run(measure_tasks(suspends)),
        "tasks that wait for nothing": asyncio.run(measure_tasks(returns)),
        "threads": measure_threads(),
    }
    versions = {name: version(name) for name in ("resilience-middleware", "opentelemetry-api")}
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {found}' for name, found in versions.items())}")
    for what, taken in medians.items():
        print(f"{what}: {', '.join(f'{name} {median:.2f} µs' for name, median in taken.items())}, ratio {ratio(taken):.2f}")
    ratios = {what: ratio(taken) for what, taken in medians.items()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"versions": versions, "median_us": medians, "ratios": ratios, "limit": LIMIT}, indent=2) + "\n")
    judged = max(ratios["tasks that wait once"], ratios["threads"])
    verdict = "ok" if judged <= LIMIT else "FAILED"
    print(f"a batch costs at most {judged:.2f} x what unguarded calls cost; {LIMIT} is promised: {verdict}")
    return 0 if judged <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
