"""1, 2 and 8 threads on one bucket and on one breaker: what a decision of all of them together takes, by the clock on the wall.

Ours reads the clock and decides as a pipeline does. Waits count here, so other work on the machine counts too; the processor time
of the same turns, which it moves less, stands beside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Final

from benchmarks.harness import Size, Subject, Table, Take, measure
from benchmarks.rows.breaker import work
from benchmarks.stitched import UNREACHED, Limit
from resilience import CircuitBreaker, RateLimiter, clock
from resilience.call import Call, Outcome
from resilience.clock import NS_PER_US

THREADS: Final = (1, 2, 8)
Operation = Callable[[], object]
Make = Callable[[], Callable[[], Operation]]
"""Makes the shared thing; what that returns makes a thread's own operation on it."""


def our_bucket() -> Callable[[], Operation]:
    limiter = RateLimiter(1e9, UNREACHED)

    def own() -> Operation:
        call = Call()

        def decide() -> None:
            call.now_us = clock.monotonic_ns() // NS_PER_US
            limiter.admit(call)

        return decide

    return own


def our_breaker() -> Callable[[], Operation]:
    breaker = CircuitBreaker()
    settle = breaker.settler.settle

    def own() -> Operation:
        call = Call()

        def decide() -> None:
            call.now_us = clock.monotonic_ns() // NS_PER_US
            ticket = breaker.admit(call)
            if ticket is not None:
                settle(ticket, Outcome.OK, call, clock.monotonic_ns() // NS_PER_US)

        return decide

    return own


def limits() -> Callable[[], Operation]:
    limit = Limit()
    return lambda: lambda: limit.hit(limit.item, "api")


def pybreaker() -> Callable[[], Operation]:
    import pybreaker as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker()
    return lambda: lambda: breaker.call(work)


MAKERS: Final[dict[str, Make]] = {
    "bucket: resilience": our_bucket,
    "bucket: limits, fixed window": limits,
    "breaker: resilience": our_breaker,
    "breaker: pybreaker": pybreaker,
}

IN_SMOKE: Final = ("bucket: resilience", "bucket: limits, fixed window", "breaker: resilience")


def by_threads(make: Make, threads: int, clock: Callable[[], float] = time.perf_counter) -> Take:
    """So many operations by so many threads, from when the last is ready to when all are done."""
    own = make()

    def take(count: int) -> float:
        share = max(1, count // threads)
        ready = threading.Barrier(threads + 1)

        def run() -> None:
            operation = own()
            ready.wait()
            for _ in repeat(None, share):
                operation()

        workers = [threading.Thread(target=run) for _ in range(threads)]
        for worker in workers:
            worker.start()
        began_s = clock()
        ready.wait()
        for worker in workers:
            worker.join()
        return (clock() - began_s) * count / (share * threads)

    return take


def run(size: Size) -> Table:
    longer = Size(3, 0.05, is_smoke=True) if size.is_smoke else Size(7, 0.1)
    makers = {name: make for name, make in MAKERS.items() if name in IN_SMOKE or not size.is_smoke}
    by_wall = [
        Subject(f"{name}, {count} threads", partial(by_threads, make, count)) for name, make in makers.items() for count in THREADS
    ]
    by_processor = [
        Subject(f"{name}, {count} threads, processor time", partial(by_threads, make, count, time.process_time))
        for name, make in makers.items()
        for count in (1, 8)
    ]
    table = measure(by_wall + by_processor, longer)
    for what in ("bucket", "breaker"):
        ours = f"{what}: resilience"
        table.ratio(f"{what}: 2 threads / 1", f"{ours}, 1 threads", f"{ours}, 2 threads")
        for by in ("", ", processor time"):
            table.ratio(f"{what}: 8 threads / 1{by}", f"{ours}, 1 threads{by}", f"{ours}, 8 threads{by}")
            table.ratio(f"{what}: 8 threads / limits{by}", f"bucket: limits, fixed window, 8 threads{by}", f"{ours}, 8 threads{by}")
    return table
