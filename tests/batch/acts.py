"""Calls that end as told, the same for tasks and for threads, and both drivers behind one signature."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from resilience import CircuitOpen, DeadlineExceeded, RateLimited
from resilience.batch import BatchCaller, Kind, Results

TIMEOUT_S = 20.0
"""How long a test waits for what must come; nothing here waits that long unless it is broken."""


class Failure(Exception):
    """What a back end answers that is well and says no."""


def error_of(name: str) -> Exception:
    """A fresh error."""
    errors: dict[str, Callable[[], Exception]] = {
        "fails": lambda: Failure(name),
        "no connection": lambda: ConnectionRefusedError(name),
        "limited": lambda: RateLimited(policy="limit"),
        "open": lambda: CircuitOpen(policy="breaker", reason="open"),
        "late": lambda: TimeoutError(name),
        "expired": lambda: DeadlineExceeded(policy="deadline", reason="expired"),
    }
    return errors[name]()


KINDS = {
    "fails": Kind.BUSINESS,
    "no connection": Kind.TRANSPORT,
    "limited": Kind.REFUSED,
    "open": Kind.REFUSED,
    "late": Kind.TIMEOUT,
    "expired": Kind.TIMEOUT,
}
"""What each of them means."""


@dataclass
class Acts:
    """Does what a request says: "ok", "hangs", "turns" (lets others run first), or one of `KINDS`; and counts who is inside."""

    released: threading.Event = field(default_factory=threading.Event)
    inside: int = 0
    peak: int = 0
    calls: list[Any] = field(default_factory=list)
    ended: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _enter(self, act: Any) -> None:
        with self._lock:
            self.calls.append(act)
            self.inside += 1
            self.peak = max(self.peak, self.inside)

    def _leave(self) -> None:
        with self._lock:
            self.inside -= 1
            self.ended += 1

    async def acall(self, act: Any) -> Any:
        """As a coroutine function."""
        self._enter(act)
        try:
            if act == "hangs":
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return self._end(act)
        finally:
            self._leave()

    def call(self, act: Any) -> Any:
        """As a function."""
        self._enter(act)
        try:
            if act == "hangs":
                self.released.wait(TIMEOUT_S)
            return self._end(act)
        finally:
            self._leave()

    def _end(self, act: Any) -> Any:
        if act in KINDS:
            raise error_of(act)
        return ("done", act)


Fan = Callable[..., Results[Any]]
"""Sends requests through a caller, as tasks or in threads."""


def in_tasks(caller: BatchCaller, acts: Acts, requests: Iterable[Any], **options: Any) -> Results[Any]:
    """As tasks of a loop of their own."""

    async def run() -> Results[Any]:
        results: Results[Any] = await caller.acall(acts.acall, requests, **options)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results

    return asyncio.run(run())


def in_threads(caller: BatchCaller, acts: Acts, requests: Iterable[Any], **options: Any) -> Results[Any]:
    """In threads."""
    results: Results[Any] = caller.call(acts.call, requests, **options)
    return results


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    for _ in range(round(TIMEOUT_S * 100)):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within the time")
