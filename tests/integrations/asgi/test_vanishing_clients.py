"""Clients that vanish after the first byte of a streamed response leave no permit behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from resilience import CircuitBreaker, Deadline, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import nothing_leaks
from tests.integrations.asgi.server import TIMEOUT_S, Running, serving
from tests.soak.sizes import by_length

pytestmark = pytest.mark.soak

CLIENTS: Final = by_length(150, 1_000)
AT_ONCE: Final = 4


class Endless:
    """Responses that go on until their clients have gone; `given_up` counts those."""

    def __init__(self) -> None:
        self.given_up = 0
        self._changed = threading.Condition()

    async def respond(self, request: Request) -> StreamingResponse:
        """The handler."""
        return StreamingResponse(self.parts(), media_type="text/plain")

    async def parts(self) -> AsyncIterator[bytes]:
        """The body."""
        try:
            while True:
                yield b"x" * 16_384
                await asyncio.sleep(0)
        finally:
            with self._changed:
                self.given_up += 1
                self._changed.notify_all()

    def wait_for(self, count: int) -> bool:
        """Whether so many were given up in the end."""
        with self._changed:
            return self._changed.wait_for(lambda: self.given_up == count, TIMEOUT_S)


def visit(server: Running) -> None:
    """Take the first byte, and go."""
    with server.socket("GET / HTTP/1.1\nHost: localhost") as connection:
        assert connection.recv(1)


def test_no_permit_is_left() -> None:
    breaker, endless = CircuitBreaker(min_calls=1), Endless()
    pipeline = Pipeline("api", Deadline(600.0), RateLimiter(1_000_000.0, 1_000_000), breaker)
    app = Starlette(routes=[Route("/", endless.respond)])
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline)
    with nothing_leaks(wait_s=TIMEOUT_S), serving(app) as server, ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(visit, [server] * CLIENTS))
        assert endless.wait_for(CLIENTS), "the server goes on to send"
    assert breaker.decisions()["admitted"] == CLIENTS
    assert breaker.status()["failure_rate"] == 0.0
    assert breaker.pool.single.is_idle(breaker.clock.now_us()), "they count neither as failures nor as successes"


def test_no_probe_is_left() -> None:
    """While it is half-open, of one probe: were a single permit lost, nobody would get through any more."""
    breaker, endless = CircuitBreaker(min_calls=1, probes=1, open_for_s=0.001, half_open_for_s=3_600.0), Endless()
    app = Starlette(routes=[Route("/", endless.respond)])
    app.add_middleware(ResilienceMiddleware, pipeline=Pipeline("api", breaker))
    with pytest.raises(ZeroDivisionError):
        Pipeline("direct", breaker).call(lambda: 1 // 0)
    with serving(app) as server:
        for _ in range(CLIENTS // 10):
            before = endless.given_up
            _get_through(server)
            assert endless.wait_for(before + 1)
    assert breaker.state.value == "half_open"
    assert breaker.decisions()["probe"] == CLIENTS // 10


def _get_through(server: Running) -> None:
    """The probe before is free as soon as its handler has noticed that its client has gone, or soon after."""
    for _ in range(2_000):
        with server.socket("GET / HTTP/1.1\nHost: localhost") as connection:
            if b" 200 " in connection.makefile("rb").readline():
                return
    raise AssertionError("nobody gets through any more")
