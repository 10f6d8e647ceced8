"""A coroutine function called through four layers, with retry: what a service sends out, beside what people stitch by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks import guards, stitched
from benchmarks.harness import Size, Subject, Table, awaited, called, measure

BARE, OURS = "the function alone", "resilience: deadline, limiter, retry, breaker"
LEAN, USUAL = "limits + circuitbreaker + backoff + asyncio.timeout", "limits + aiobreaker + tenacity + asyncio.timeout"


def work() -> int:
    return 1


async def awork() -> int:
    return 1


def ours() -> Any:
    pipeline = guards.outgoing()
    return lambda: pipeline.acall(awork)


def ours_sync() -> Any:
    pipeline = guards.outgoing()
    return lambda: pipeline.call(work)


MAKERS: Final[dict[str, Callable[[], Any]]] = {
    BARE: lambda: awork,
    OURS: ours,
    LEAN: lambda: stitched.Calls(awork, stitched.lean),
    USUAL: lambda: stitched.Calls(awork, stitched.usual),
}


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    subjects = [Subject(name, partial(lambda make: awaited(loop, make()), make)) for name, make in MAKERS.items()]
    subjects.append(Subject(f"{OURS}, in a thread", lambda: called(ours_sync())))
    with guards.not_sampled():
        table = measure(subjects, size)
    loop.close()
    table.ratio("four layers / leanest stitching", OURS, LEAN, without=BARE)
    table.ratio("four layers / usual stitching", OURS, USUAL, without=BARE)
    return table
