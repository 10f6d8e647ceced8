"""What the core's tests share: both drivers behind one signature, and calls that end as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from resilience import Call, CircuitBreaker, CircuitOpen, Outcome, Pipeline
from resilience.testing import ManualClock

T = TypeVar("T")
Drive = Callable[[Pipeline, Callable[[], Any]], Any]
"""Sends `work` through a pipeline, as a plain call or as a coroutine."""

VECTORS = Path(__file__).parent.parent / "vectors"


def vectors(name: str) -> Any:
    """The outside table `name`."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def via_sync(pipeline: Pipeline, work: Callable[[], Any]) -> Any:
    """Drive it in this thread."""
    return pipeline.call(work)


def via_async(pipeline: Pipeline, work: Callable[[], Any]) -> Any:
    """Drive it in a task."""

    async def awork() -> Any:
        return work()

    return asyncio.run(pipeline.acall(awork))


class Failure(Exception):
    """What a dependency that is down raises."""


def succeed() -> str:
    """A dependency that is well."""
    return "done"


def fail() -> None:
    """A dependency that is down."""
    raise Failure


def abandon() -> None:
    """A caller who stops waiting: the outcome is ignored."""
    raise asyncio.CancelledError


def attempt(pipeline: Pipeline, work: Callable[[], Any], drive: Drive = via_sync) -> str:
    """How one call went: "ok", "failed", "abandoned" or "refused"."""
    try:
        drive(pipeline, work)
    except CircuitOpen:
        return "refused"
    except Failure:
        return "failed"
    except asyncio.CancelledError:
        return "abandoned"
    return "ok"


def no_jitter() -> float:
    """The draw that shortens nothing."""
    return 0.0


def raiser(errors: Iterable[BaseException | None]) -> Callable[[], str]:
    """Work that raises `errors` one after the other; None, and the end of them, is a success."""
    left = iter(errors)

    def work() -> str:
        error = next(left, None)
        if error is not None:
            raise error
        return "done"

    return work


class Desk:
    """Admits and settles single calls of one breaker, for tests that need them to overlap."""

    def __init__(self, breaker: CircuitBreaker, clock: ManualClock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._calls: dict[Any, Call] = {}

    def admit(self, key: str | None = None) -> Any:
        """A ticket. Raises CircuitOpen."""
        call = Call("test", key=key, now_us=self._clock.now_us())
        ticket = self._breaker.admit(call)
        assert ticket is not None
        self._calls.setdefault(ticket, call)
        return ticket

    def settle(self, ticket: Any, outcome: Outcome) -> None:
        """Give a ticket back."""
        self._breaker.settle(ticket, outcome, self._calls[ticket], self._clock.now_us())

    def is_refused(self, key: str | None = None) -> bool:
        """Whether nobody gets in."""
        try:
            self.admit(key)
        except CircuitOpen:
            return True
        return False
