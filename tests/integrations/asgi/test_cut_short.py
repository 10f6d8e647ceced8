"""Responses that began and did not end: handlers that raise on the way, servers that shut down, clients that hang up."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from resilience import current_deadline
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import Bench, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.server import TIMEOUT_S, received, serving

START: Any = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
EVENTS: Any = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PART: Any = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST: Any = {"type": "http.response.body", "body": b"last"}
GET = "GET / HTTP/1.1\nhost: x\n"


def raising_after(*messages: Any) -> Any:
    """An application that sends `messages`, and then has a bug."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        raise ValueError("a bug on the way")

    return app


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([START], "failed", id="after the start"),
        pytest.param([START, PART], "failed", id="after a part"),
        pytest.param([START, LAST], "ok", id="after the last body"),
        pytest.param([EVENTS], "ok", id="in an event stream"),
        pytest.param([EVENTS, PART], "ok", id="after an event"),
    ],
)
def test_a_handler_that_raises_after_its_start(messages: list[Any], expected: str) -> None:
    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(raising_after(*messages)))
    with pytest.raises(ValueError, match="a bug on the way"):
        run(talk.run())
    assert [message["type"] for message in talk.sent] == [message["type"] for message in messages], "nothing of ours was added"
    assert bench.outcome() == expected
    assert bench.clock.pending_timers == 0


@pytest.mark.parametrize("parts", [0, 2])
def test_the_client_of_a_handler_that_raises_after_its_start_sees_the_connection_cut(parts: int) -> None:
    bench = Bench()
    bench.half_open()

    async def body() -> Any:
        for _ in range(parts):
            yield "part"
        raise ValueError("a bug on the way")

    async def handler(request: Request) -> Response:
        return StreamingResponse(body())

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server, server.socket(GET) as connection:
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"part") == parts
    assert not answer.endswith(b"\r\n0\r\n\r\n"), "no end that would make it look whole"
    assert answer.count(b"HTTP/1.1") == 1
    assert bench.outcome() == "failed"


def _stuck(*messages: Any) -> tuple[Any, threading.Event]:
    """A handler that sends `messages` and never comes back, and what tells that it has sent them."""
    is_stuck = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        is_stuck.set()
        await asyncio.Event().wait()

    return app, is_stuck


@pytest.mark.parametrize(
    ("messages", "expected"),
    [([], "ignored"), ([START, PART], "ignored"), ([EVENTS, PART], "ok"), ([START, LAST], "ok")],
    ids=["waiting", "streaming", "event stream", "in the background"],
)
def test_a_server_that_shuts_down_cancels_its_handlers_and_nothing_is_held(messages: list[Any], expected: str) -> None:
    bench = Bench()
    bench.half_open()
    app, is_stuck = _stuck(*messages)
    with serving(bench.guard(with_lifespan(app)), timeout_graceful_shutdown=0) as server, server.socket(GET):
        assert is_stuck.wait(TIMEOUT_S)
        assert bench.outcome() == ("held" if expected == "ignored" else expected)
    assert bench.outcome() == expected
    assert bench.clock.pending_timers == 0


def test_a_client_that_hangs_up_on_an_event_stream_ends_it_and_changes_no_vote() -> None:
    bench, stopped = Bench(), threading.Event()
    bench.half_open()

    async def events() -> Any:
        try:
            while True:
                yield "data: more\n\n"
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async def handler(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server:
        with server.socket(GET) as connection:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert stopped.wait(TIMEOUT_S)
    assert bench.outcome() == "ok"
    assert bench.clock.pending_timers == 0


def test_background_work_in_a_thread_has_no_deadline_and_no_call_around_it() -> None:
    bench, done = Bench(), threading.Event()
    seen: list[object] = []
    bench.half_open()
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)

    def tidy_up() -> None:
        bench.clock.advance(60.0)
        seen.append((bench.outcome(), current_deadline(bench.clock)))
        bench.pipeline.call(seen.append, "a call of its own")
        done.set()

    @app.get("/")
    def read(background: BackgroundTasks) -> str:
        seen.append(current_deadline(bench.clock) is not None)
        background.add_task(tidy_up)
        return "done"

    with serving(app) as server:
        assert server.get("/").json() == "done"
        assert done.wait(TIMEOUT_S)
    assert seen == [True, ("ok", None), "a call of its own"]
