"""Plain `def` handlers run in threads, which nobody can cancel: 504 on time, and the thread's place stays taken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilience import Deadline, DeadlineExceeded, Pipeline, current_deadline
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import Bench
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.asgi.server import TIMEOUT_S, serving

THREADS = 40
"""Places among anyio's worker threads, as it comes."""


class Workers:
    """A plain `def` handler that blocks until the test lets it go, and counts who is in it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.is_full = threading.Event()
        self._lock = threading.Lock()
        self.calls = self.inside = self.most_inside = 0
        self.deadlines: list[str] = []

    def handle(self, request: Request) -> Response:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            if self.inside == THREADS:
                self.is_full.set()
        assert self.may_end.wait(TIMEOUT_S)
        deadline = current_deadline()
        try:
            assert deadline is not None, "a thread that runs on lost its deadline"
            deadline.check()
        except DeadlineExceeded as error:
            self.deadlines.append(error.reason)
        finally:
            with self._lock:
                self.inside -= 1
        return PlainTextResponse("too late")


def real_app(handler: Callable[[Request], Response]) -> Any:
    """Starlette behind a deadline of the real clock."""
    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=Pipeline("api", Deadline(30.0, name="api")))
    return app


def test_sixty_expired_requests_never_take_more_than_the_forty_threads() -> None:
    workers = Workers()

    def ask(_: int) -> int:
        return server.get("/", x_envoy_expected_rq_timeout_ms="1500").status_code

    with serving(real_app(workers.handle)) as server, ThreadPoolExecutor(60) as pool:
        statuses = list(pool.map(ask, range(60)))  # all are answered while every handler still blocks
        assert statuses == [504] * 60
        assert workers.is_full.wait(TIMEOUT_S)
        assert workers.inside == THREADS
        assert server.get("/", x_envoy_expected_rq_timeout_ms="50").status_code == 504  # no thread came free
        workers.may_end.set()
        assert server.get("/", x_envoy_expected_rq_timeout_ms="20000").status_code == 200
    assert workers.most_inside == THREADS
    assert workers.calls == THREADS + 1, "requests that expired while they waited for a thread were run after all"
    assert workers.deadlines == ["expired"] * THREADS


def in_process(bench: Bench, handler: Any, *middleware: Middleware) -> Any:
    """Starlette behind the layers of `bench`."""
    return bench.guard(Starlette(routes=[Route("/", handler)], middleware=list(middleware)))


async def _passes_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("middleware", [[], [Middleware(BaseHTTPMiddleware, dispatch=_passes_on)]], ids=["bare", "within"])
def test_the_place_stays_taken_until_the_thread_ends_and_its_calls_see_that_time_is_over(
    middleware: list[Middleware],
) -> None:
    bench = Bench()
    seen: list[str] = []
    started, may_end = threading.Event(), threading.Event()
    outgoing = Pipeline("payments", Deadline(name="payments", clock=bench.clock))

    def handler(request: Request) -> Response:
        started.set()
        assert may_end.wait(TIMEOUT_S)
        try:
            outgoing.call(seen.append, "sent")
        except DeadlineExceeded as error:
            seen.append(error.reason)
        return PlainTextResponse("too late")

    async def scenario() -> None:
        places = anyio.to_thread.current_default_thread_limiter()
        talk = Conversation(in_process(bench, handler, *middleware)).start()
        await asyncio.to_thread(started.wait, TIMEOUT_S)
        bench.clock.advance(5.0)
        await turns()
        assert (talk.status, talk.is_complete) == (504, True)
        assert places.borrowed_tokens == 1
        assert not talk.task.done()
        may_end.set()
        await talk.task
        await turns()
        assert places.borrowed_tokens == 0

    run(scenario())
    assert seen == ["expired_on_arrival"]
    assert bench.clock.pending_timers == 0


def test_a_thread_that_makes_a_streamed_body_is_not_abandoned_either() -> None:
    for spec_version in ("2.3", "2.4"):
        bench = Bench()
        started, may_end = threading.Event(), threading.Event()

        def parts(started: threading.Event = started, may_end: threading.Event = may_end) -> Iterator[str]:
            yield "first"
            started.set()
            assert may_end.wait(TIMEOUT_S)
            yield "second"
            yield "third"

        async def handler(request: Request, parts: Callable[[], Iterator[str]] = parts) -> Response:
            return StreamingResponse(parts())

        async def scenario(
            bench: Bench = bench,
            spec_version: str = spec_version,
            handler: Any = handler,
            started: threading.Event = started,
            may_end: threading.Event = may_end,
        ) -> None:
            places = anyio.to_thread.current_default_thread_limiter()
            talk = Conversation(in_process(bench, handler), spec_version=spec_version).start()
            await asyncio.to_thread(started.wait, TIMEOUT_S)
            bench.clock.advance(5.0)
            await turns()
            assert places.borrowed_tokens == 1
            may_end.set()
            await talk.task
            assert (talk.status, talk.body, talk.is_complete) == (200, b"first", False)

        run(scenario())


def test_a_thread_of_fastapi_dependencies_is_not_abandoned_either() -> None:
    bench = Bench()
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def session() -> Iterator[str]:
        started.set()
        assert may_end.wait(TIMEOUT_S)
        yield "a session"
        ended.set()

    app = FastAPI()

    @app.get("/")
    def read(session: str = Depends(session)) -> str:
        return session

    async def scenario() -> None:
        places = anyio.to_thread.current_default_thread_limiter()
        talk = Conversation(bench.guard(app)).start()
        await asyncio.to_thread(started.wait, TIMEOUT_S)
        bench.clock.advance(5.0)
        await turns()
        assert talk.status == 504
        assert places.borrowed_tokens == 1
        may_end.set()
        await talk.task
        assert len([message for message in talk.sent if message["type"] == "http.response.start"]) == 1

    run(scenario())
    assert ended.is_set()


def test_an_endless_body_from_a_late_thread_is_stopped() -> None:
    bench = Bench()
    started, may_end = threading.Event(), threading.Event()
    made = 0

    def endless() -> Iterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "more"

    def handler(request: Request) -> Response:
        started.set()
        assert may_end.wait(TIMEOUT_S)
        return StreamingResponse(endless())

    async def scenario() -> None:
        talk = Conversation(in_process(bench, handler), spec_version="2.4").start()
        await asyncio.to_thread(started.wait, TIMEOUT_S)
        bench.clock.advance(5.0)
        may_end.set()
        await talk.task
        assert (talk.status, talk.is_complete) == (504, True)

    run(scenario())
    assert made <= 2
