"""How every way that a request can end is counted, and that each of them gives its permit back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilience import Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import Bench, answering, failing, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.asgi.server import TIMEOUT_S, serving


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, "ok"), (204, "ok"), (301, "ok"), (404, "ok"), (429, "ok"), (500, "failed"), (503, "failed"), (504, "failed")],
)
def test_a_response_counts_by_its_status(status: int, expected: str) -> None:
    bench = Bench()
    bench.half_open()
    run(Conversation(bench.guard(answering(status))).run())
    assert bench.outcome() == expected
    assert bench.clock.pending_timers == 0


def test_an_exception_is_a_failure_and_reaches_the_server_as_itself() -> None:
    bench = Bench()
    bench.half_open()
    error = ValueError("a bug")

    async def scenario() -> None:
        talk = Conversation(bench.guard(failing(error)))
        with pytest.raises(ValueError, match="a bug") as caught:
            await talk.run()
        assert caught.value is error
        assert talk.sent == []

    run(scenario())
    assert bench.outcome() == "failed"
    assert bench.clock.pending_timers == 0


def test_the_server_answers_500_for_a_handler_that_raised() -> None:
    bench = Bench()
    with serving(bench.guard(with_lifespan(failing(ValueError("a bug"))))) as server:
        response = server.get("/")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert bench.breaker.state.value == "open"


def test_an_exception_of_a_framework_is_counted_though_the_framework_answers_it() -> None:
    bench = Bench()

    async def handler(request: Request) -> Response:
        raise ValueError("a bug")

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server:
        assert server.get("/").status_code == 500
        assert server.get("/").status_code == 503
    assert bench.breaker.state.value == "open"


@pytest.mark.parametrize("before", [[], [{"type": "http.response.start", "status": 200, "headers": []}]])
def test_an_application_that_returns_without_an_answer_does_not_keep_its_permit(before: list[Any]) -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)

    run(Conversation(bench.guard(handler)).run())
    assert bench.outcome() == ("ok" if before else "failed")  # without a start the server makes a 500 of it
    assert bench.clock.pending_timers == 0


def test_a_file_handed_over_by_path_is_the_last_body() -> None:
    bench, states = Bench(), []
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})
        states.append(bench.outcome())

    run(Conversation(bench.guard(handler), extensions=["http.response.pathsend"]).run())
    assert states == ["ok"]


def test_the_call_is_settled_before_its_last_body_is_passed_on() -> None:
    bench, states = Bench(), []
    bench.half_open()

    async def server_send(message: Any) -> None:
        states.append((message["type"], message.get("more_body"), bench.outcome()))

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    talk = Conversation(bench.guard(handler))
    run(talk.app(talk.scope, talk.receive, server_send))
    assert states == [
        ("http.response.start", None, "held"),
        ("http.response.body", True, "held"),
        ("http.response.body", None, "ok"),
    ]


@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_cancels_leaves_no_permit_and_no_vote(begun: bool) -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 500, "headers": []})
        await asyncio.Event().wait()

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler)).start()
        await turns()
        assert bench.outcome() == "held"
        talk.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.task

    run(scenario())
    assert bench.outcome() == "ignored"
    assert bench.clock.pending_timers == 0


@pytest.mark.parametrize("ending", ["returns", "raises", "answers 500"])
def test_a_client_that_went_away_is_no_failure_however_the_handler_ends(ending: str) -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if ending == "raises":
            raise RuntimeError("the client has gone")
        if ending == "answers 500":
            await answering(500)(scope, receive, send)

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler)).start()
        await turns()
        talk.disconnect()
        await asyncio.wait([talk.task])
        assert isinstance(talk.task.exception(), RuntimeError) == (ending == "raises")

    run(scenario())
    assert bench.outcome() == "ignored"
    assert bench.clock.pending_timers == 0


@pytest.mark.parametrize("parts_before", [0, 1, 2])
def test_a_send_that_fails_says_that_the_client_has_gone(parts_before: int) -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = [{"type": "http.response.start", "status": 200, "headers": []}]
        messages += [{"type": "http.response.body", "body": b"part", "more_body": True}] * 3
        for index, message in enumerate(messages):
            if index == parts_before:
                talk.gone = ConnectionResetError("the client has gone")
            await send(message)

    talk = Conversation(bench.guard(handler))
    with pytest.raises(ConnectionResetError):
        run(talk.run())
    assert bench.outcome() == "ignored"


def test_an_os_error_of_the_handler_s_own_is_a_failure() -> None:
    bench = Bench()
    bench.half_open()
    with pytest.raises(ConnectionRefusedError):
        run(Conversation(bench.guard(failing(ConnectionRefusedError("the database")))).run())
    assert bench.outcome() == "failed"


def test_a_disconnect_read_after_the_answer_changes_nothing() -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await answering()(scope, receive, send)
        await receive()
        talk.disconnect()
        await receive()

    talk = Conversation(bench.guard(handler))
    run(talk.run())
    assert bench.outcome() == "ok"


def test_a_client_that_hangs_up_on_a_stream_frees_the_half_open_probe() -> None:
    bench, stopped = Bench(), threading.Event()
    bench.half_open()

    async def parts() -> Any:
        try:
            while True:
                yield "more\n"
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async def handler(request: Request) -> Response:
        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server:
        with server.socket("GET / HTTP/1.1\nhost: x\n") as connection:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            assert server.get("/").status_code == 503  # the probe is taken
        assert stopped.wait(TIMEOUT_S)
    assert bench.outcome() == "ignored"
    assert bench.clock.pending_timers == 0


def test_a_client_that_hangs_up_while_the_handler_waits_frees_the_half_open_probe() -> None:
    bench, entered, left = Bench(), threading.Event(), threading.Event()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    with serving(bench.guard(with_lifespan(handler))) as server:
        with server.socket("GET / HTTP/1.1\nhost: x\n"):
            assert entered.wait(TIMEOUT_S)
        assert left.wait(TIMEOUT_S)
    assert bench.outcome() == "ignored"


def test_background_tasks_run_after_the_call_is_settled_and_outlive_its_deadline() -> None:
    bench, states, done = Bench(), [], threading.Event()
    bench.half_open()

    async def tidy_up() -> None:
        states.append((bench.outcome(), bench.clock.pending_timers))
        bench.clock.advance(60.0)
        await turns()
        states.append((bench.outcome(), bench.clock.pending_timers))
        done.set()

    async def handler(request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(tidy_up))

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server:
        assert server.get("/").text == "done"
        assert done.wait(TIMEOUT_S)
    assert states == [("ok", 0), ("ok", 0)]


def test_a_background_task_that_raises_is_no_failure_of_the_call() -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await answering()(scope, receive, send)
        raise ValueError("in the background")

    with pytest.raises(ValueError, match="in the background"):
        run(Conversation(bench.guard(handler)).run())
    assert bench.outcome() == "ok"


def test_slow_is_the_time_to_the_start_of_the_response() -> None:
    for wait_s, body_s, expected in ((0.0, 20.0, "ok"), (1.5, 0.0, "failed")):
        bench = Bench(default_s=None, slow_call_s=1.0)
        bench.half_open()

        async def handler(
            scope: Any, receive: Any, send: Any, bench: Bench = bench, wait_s: float = wait_s, body_s: float = body_s
        ) -> None:
            bench.clock.advance(wait_s)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            bench.clock.advance(body_s)
            await send({"type": "http.response.body"})

        run(Conversation(bench.guard(handler)).run())
        assert bench.outcome() == expected


def test_no_request_that_ends_in_a_queue_keeps_its_tokens() -> None:
    clock = ManualClock(auto_advance=False)
    limiter = RateLimiter(1.0, 1, max_wait_s=10.0, clock=clock)
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", limiter))

    async def scenario() -> None:
        assert (await Conversation(app).run()).status == 200
        waiter = Conversation(app).start()
        await turns()
        waiter.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter.task
        assert clock.pending_timers == 0
        clock.advance(1.0)
        assert (await Conversation(app).run()).status == 200  # the cancelled one has given its token back

    run(scenario())


def test_the_limiter_lets_a_request_wait_over_a_real_server() -> None:
    clock = ManualClock()
    limiter = RateLimiter(2.0, 1, max_wait_s=5.0, clock=clock)
    app = ResilienceMiddleware(with_lifespan(answering()), pipeline=Pipeline("api", limiter))
    with serving(app) as server, httpx.Client(base_url=server.url) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 200]
    assert clock.slept_s == [0.5, 0.5]
