"""Six hundred requests whose time runs out in a plain `def` handler take no more threads than there are places for."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.integrations.asgi.server import TIMEOUT_S, serving
from tests.integrations.asgi.test_threads import THREADS, real_app

REQUESTS: Final = 600
AT_ONCE: Final = 150
REQUEST: Final = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-envoy-expected-rq-timeout-ms: %d\r\n\r\n"


class Sleeper:
    """A handler that sleeps until the test is over, far longer than its deadline."""

    def __init__(self) -> None:
        self.may_wake = threading.Event()
        self.woken: list[bool] = []
        self.threads: set[str] = set()

    def handle(self, request: Request) -> Response:
        self.threads.add(threading.current_thread().name)
        self.woken.append(self.may_wake.wait(2 * TIMEOUT_S))
        return PlainTextResponse("slept")


def workers() -> int:
    """How many worker threads there are."""
    return sum("worker thread" in thread.name for thread in threading.enumerate())


async def ask(port: int, timeout_ms: int) -> bytes:
    """The whole answer to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % timeout_ms)
    try:
        return await reader.read()
    finally:
        writer.close()


async def flood(port: int) -> tuple[list[bytes], int]:
    """All answers, and the most worker threads seen on the way."""
    places, most = asyncio.Semaphore(AT_ONCE), 0

    async def one() -> bytes:
        nonlocal most
        async with places:
            answer = await ask(port, 100)
        most = max(most, workers())
        return answer

    async with asyncio.timeout(TIMEOUT_S):
        return list(await asyncio.gather(*(one() for _ in range(REQUESTS)))), most


def test_six_hundred_expired_requests_never_take_more_than_the_forty_threads() -> None:
    sleeper = Sleeper()
    try:
        with serving(real_app(sleeper.handle)) as server:
            before = workers()
            answers, most = asyncio.run(flood(server.port))
            assert sleeper.woken == [], "every answer was there while every handler still slept"
            sleeper.may_wake.set()
            patient = asyncio.run(ask(server.port, 20_000))
    finally:
        sleeper.may_wake.set()
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 504 Gateway Timeout"] * REQUESTS
    assert all(b"application/problem+json" in answer and b'"reason": "expired"' in answer for answer in answers)
    assert 0 < most - before <= THREADS
    assert len(sleeper.threads) <= THREADS
    assert len(sleeper.woken) <= THREADS + 1, "requests that expired while they waited for a thread were run after all"
    assert all(sleeper.woken)
    assert patient.endswith(b"slept"), "the places are free again"
