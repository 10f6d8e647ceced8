"""What a pool costs for each small task: threads beside `concurrent.futures.ThreadPoolExecutor`, tasks beside `asyncio.TaskGroup`.

All in one process and one run. Rounds take turns, so the machine's speed and its other load cancel out: the figure is the median of
the rounds' ratios. The tasks do nothing, so what is measured is the way in, the queue, the way out and the future.

Run with `make bench`, or by itself. Exit status 1: a pool takes more than `LIMIT` times as long.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resilience.workers import AsyncWorkerPool, WorkerPool

LIMIT = 2.0
ROUNDS = 7
TASKS = 10_000
WORKERS = 4
OUT = Path(__file__).parent / "out" / "workers.json"


def nothing(number: int) -> int:
    return number


async def anothing(number: int) -> int:
    return number


def with_executor() -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(nothing, number) for number in range(TASKS)]
        assert sum(future.result() for future in futures) == TASKS * (TASKS - 1) // 2


def with_pool(timeout_s: float | None = None) -> None:
    with WorkerPool(min_workers=WORKERS, max_workers=WORKERS, queue=TASKS, timeout_s=timeout_s) as pool:
        futures = [pool.submit(nothing, number) for number in range(TASKS)]
        assert sum(future.result() for future in futures) == TASKS * (TASKS - 1) // 2


async def with_group() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(anothing(number)) for number in range(TASKS)]
    assert sum(task.result() for task in tasks) == TASKS * (TASKS - 1) // 2


async def with_group_in_time() -> None:
    """Each task has a timeout here too, since it is a part of what is compared."""

    async def in_time(number: int) -> int:
        async with asyncio.timeout(60.0):
            return await anothing(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_time(number)) for number in range(TASKS)]
    assert sum(task.result() for task in tasks) == TASKS * (TASKS - 1) // 2


async def with_apool(timeout_s: float | None = None) -> None:
    async with AsyncWorkerPool(min_workers=WORKERS, max_workers=WORKERS, queue=TASKS, timeout_s=timeout_s) as pool:
        futures = [pool.submit(anothing, number) for number in range(TASKS)]
    assert sum(future.result() for future in futures) == TASKS * (TASKS - 1) // 2


def us_a_task(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) / TASKS * 1e6


def main() -> int:
    """Measure and report."""
    rows: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "threads": (with_executor, with_pool),
        "threads, with a timeout": (with_executor, lambda: with_pool(60.0)),
        "tasks": (lambda: asyncio.run(with_group()), lambda: asyncio.run(with_apool())),
        "tasks, with a timeout": (lambda: asyncio.run(with_group_in_time()), lambda: asyncio.run(with_apool(60.0))),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, pair in rows.items():
        for work in pair:
            work()  # warm
        measured = [[us_a_task(work) for work in pair] for _ in range(ROUNDS)]
        theirs_us, ours_us = (statistics.median(column) for column in zip(*measured, strict=True))
        ratio = statistics.median(ours / theirs for theirs, ours in measured)
        figures[name] = {"theirs_us": theirs_us, "ours_us": ours_us, "ratio": ratio}
        print(f"{name:<26} standard library {theirs_us:6.2f} us   pool {ours_us:6.2f} us   {ratio:.2f} x (limit {LIMIT:g})")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"python": sys.version.split()[0], "tasks": TASKS, "workers": WORKERS, **figures}, indent=2) + "\n")
    return 0 if all(row["ratio"] <= LIMIT for row in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
