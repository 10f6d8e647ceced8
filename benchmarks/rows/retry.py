"""A call that succeeds at its first try, through a retry: what everybody pays for the few calls that need one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.harness import Size, Subject, Table, awaited, called, measure
from resilience import Pipeline, Retry


def work() -> int:
    return 1


async def awork() -> int:
    return 1


def ours(fn: Any) -> Any:
    """A decorated function, as the others are."""
    return Pipeline("bench", Retry(attempts=3))(fn)


def ours_called(fn: Any) -> Any:
    pipeline = Pipeline("bench", Retry(attempts=3))
    return (lambda: pipeline.acall(fn)) if asyncio.iscoroutinefunction(fn) else (lambda: pipeline.call(fn))


def backoff(fn: Any) -> Any:
    import backoff as peer  # noqa: PLC0415

    return peer.on_exception(peer.expo, OSError, max_tries=3)(fn)


def tenacity(fn: Any) -> Any:
    import tenacity as peer  # noqa: PLC0415

    return peer.retry(
        stop=peer.stop_after_attempt(3),
        wait=peer.wait_random_exponential(max=2),
        retry=peer.retry_if_exception_type(OSError),
        reraise=True,
    )(fn)


def stamina(fn: Any) -> Any:
    import stamina as peer  # noqa: PLC0415

    return peer.retry(on=OSError, attempts=3)(fn)


MAKERS: Final[dict[str, Callable[[Any], Any]]] = {
    "the function alone": lambda fn: fn,
    "resilience": ours,
    "resilience, by call and acall": ours_called,
    "backoff": backoff,
    "tenacity": tenacity,
    "stamina": stamina,
}


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()

    def prepared(make: Callable[[Any], Any]) -> Callable[[int], float]:
        return called(make(work))

    def aprepared(make: Callable[[Any], Callable[[], Awaitable[object]]]) -> Callable[[int], float]:
        return awaited(loop, make(awork))

    subjects = [Subject(f"sync: {name}", lambda make=make: prepared(make)) for name, make in MAKERS.items()]  # type: ignore[misc]
    subjects += [Subject(f"async: {name}", lambda make=make: aprepared(make)) for name, make in MAKERS.items()]  # type: ignore[misc]
    table = measure(subjects, size)
    loop.close()
    for kind in ("sync", "async"):
        for peer in ("backoff", "tenacity", "stamina"):
            table.ratio(f"{kind}: retry / {peer}", f"{kind}: resilience", f"{kind}: {peer}")
    return table
