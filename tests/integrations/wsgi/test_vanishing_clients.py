"""Clients that vanish after the first byte of a streamed response leave no permit behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from resilience import CircuitBreaker, Deadline, Pipeline, RateLimiter
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.testing import nothing_leaks
from tests.integrations.asgi.server import TIMEOUT_S, Running
from tests.integrations.wsgi import threaded
from tests.integrations.wsgi.apps import TEXT
from tests.integrations.wsgi.servers import serving
from tests.integrations.wsgi.visitors import close_the_breaker, look_and_hang_up, open_the_breaker
from tests.soak.sizes import by_length

pytestmark = pytest.mark.soak

CLIENTS: Final = by_length(150, 1_000)
AT_ONCE: Final = 4


class Endless:
    """A body that goes on until the server gives it up; `given_up` counts those."""

    given_up = 0
    changed = threading.Condition()

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> bytes:
        return b"x" * 16_384

    def close(self) -> None:
        with self.changed:
            Endless.given_up += 1
            self.changed.notify_all()


def test_no_permit_is_left_in_the_process() -> None:
    breaker = CircuitBreaker(min_calls=1)
    pipeline = Pipeline("api", Deadline(600.0), RateLimiter(1_000_000.0, 1_000_000), breaker)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        return Endless()

    def visit(server: Running) -> None:
        with server.socket("GET / HTTP/1.1\nHost: localhost") as connection:
            assert connection.recv(1)

    Endless.given_up = 0
    with (
        nothing_leaks(wait_s=TIMEOUT_S),
        threaded.serving(ResilienceMiddleware(app, pipeline=pipeline), threads=AT_ONCE) as server,
        ThreadPoolExecutor(AT_ONCE) as clients,
    ):
        list(clients.map(visit, [server] * CLIENTS))
        with Endless.changed:
            assert Endless.changed.wait_for(lambda: Endless.given_up == CLIENTS, TIMEOUT_S), "the server goes on to send"
    assert breaker.decisions()["admitted"] == CLIENTS
    assert breaker.status()["failure_rate"] == 0.0
    assert breaker.pool.single.is_idle(breaker.clock.now_us()), "they count neither as failures nor as successes"


def test_no_probe_is_left_in_a_worker_process(tmp_path: Path) -> None:
    with serving({"gunicorn": ["gunicorn gthread"]}, tmp_path) as servers, ThreadPoolExecutor(AT_ONCE) as clients:
        server = servers["gunicorn"]
        open_the_breaker(server)
        list(clients.map(look_and_hang_up, [server] * CLIENTS))
        close_the_breaker(server)
