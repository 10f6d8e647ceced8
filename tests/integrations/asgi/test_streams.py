"""Bodies in parts and event streams: fields once, votes at the start, no deadline for what has no end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from resilience import Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import Bench, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.asgi.server import TIMEOUT_S, received, serving

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def test_a_streamed_body_carries_the_fields_exactly_once() -> None:
    async def parts() -> Any:
        for number in range(5):
            yield f"part {number}\n"

    async def handler(request: Request) -> Response:
        return StreamingResponse(parts())

    bench = Bench(rate_per_s=10.0, burst=50, fields="always")
    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    with serving(app) as server, server.socket("GET / HTTP/1.1\nhost: x\nconnection: close\n") as connection:
        answer = received(connection).decode().lower()
    assert answer.count("part ") == 5
    assert answer.count("\r\nratelimit-policy:") == 1
    assert answer.count("\r\nratelimit:") == 1
    assert '\r\nratelimit-policy: "api";q=50;w=5\r\n' in answer
    assert '\r\nratelimit: "api";r=49;t=1\r\n' in answer
    assert answer.count("retry-after") == 0


def test_several_limits_share_one_list() -> None:
    clock = ManualClock()
    layers = [
        RateLimiter(10.0, 50, key="client_address", fields="always", name="per_client", clock=clock),
        RateLimiter(100.0, 200, fields="always", name='all "of" them', clock=clock),
        RateLimiter(7.0, fields="refused", name="quiet", clock=clock),
    ]
    app = ResilienceMiddleware(_two_parts, pipeline=Pipeline("api", *layers))

    async def scenario() -> None:
        talk = await Conversation(app).run()
        assert talk.header("ratelimit-policy") == '"per_client";q=50;w=5, "all \\"of\\" them";q=200;w=2'
        assert talk.header("ratelimit") == '"per_client";r=49;t=1, "all \\"of\\" them";r=199;t=1'
        assert talk.header("content-type") == "text/plain"

    run(scenario())


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


async def _two_parts(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await send({"type": "http.response.body", "body": b"b"})


def test_a_message_that_the_application_sends_again_and_again_stays_as_it_was() -> None:
    bench = Bench(fields="always")

    async def scenario() -> None:
        for _ in range(3):
            talk = await Conversation(bench.guard(_two_parts)).run()
            assert talk.header("ratelimit") is not None

    run(scenario())
    assert START["headers"] == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize("fields", ["always", "refused"])
def test_headers_may_be_any_iterable(fields: str) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": (pair for pair in [(b"x-one", b"1"), EVENTS])})
        await send({"type": "http.response.body"})

    async def without(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def scenario() -> None:
        talk = await Conversation(Bench(fields=fields).guard(handler)).run()
        assert talk.header("x-one") == "1"
        assert talk.header("content-type") == EVENTS[1].decode()
        assert (talk.header("ratelimit") is not None) == (fields == "always")
        assert (await Conversation(Bench(fields=fields).guard(without)).run()).status == 200

    run(scenario())


def _event_stream(first_event: asyncio.Event, last_event: asyncio.Event, status: int = 200) -> Any:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-one", b"1"), EVENTS]})
        await first_event.wait()
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await last_event.wait()
        await send({"type": "http.response.body"})

    return handler


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (503, "failed")])
def test_an_event_stream_votes_at_its_start_and_has_no_deadline(status: int, expected: str) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        first, last = asyncio.Event(), asyncio.Event()
        talk = Conversation(bench.guard(_event_stream(first, last, status))).start()
        await turns()
        assert bench.outcome() == expected  # before its first event, which may be long in coming
        assert bench.clock.pending_timers == 0
        bench.clock.advance(1_000.0)
        await turns()
        first.set()
        await turns()
        assert talk.body == b"data: 1\n\n"
        bench.clock.advance(1_000.0)
        last.set()
        await talk.task
        assert talk.is_complete

    run(scenario())
    assert bench.outcome() in (expected, "untouched")


def test_an_event_stream_keeps_its_deadline_where_that_was_asked_for() -> None:
    bench = Bench(streams=True)
    bench.half_open()

    async def scenario() -> None:
        first, last = asyncio.Event(), asyncio.Event()
        first.set()
        talk = Conversation(bench.guard(_event_stream(first, last))).start()
        await turns()
        assert bench.outcome() == "ok"
        bench.clock.advance(5.0)
        await talk.task
        assert (talk.status, talk.is_complete) == (200, False)

    run(scenario())
    assert bench.outcome() == "ok"  # it voted once, at its start


def test_the_outgoing_calls_of_an_event_stream_have_its_time_no_more() -> None:
    from resilience import current_deadline

    bench, seen = Bench(), []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_deadline(bench.clock) is not None)
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        seen.append(current_deadline(bench.clock) is not None)
        await send({"type": "http.response.body"})

    run(Conversation(bench.guard(handler)).run())
    assert seen == [True, False]


def test_an_event_stream_that_breaks_off_later_does_not_vote_again() -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        run(Conversation(bench.guard(handler)).run())
    assert bench.outcome() == "ok"


def test_an_event_stream_outlives_its_deadline_over_a_real_server() -> None:
    may_end = threading.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        bench.clock.advance(30.0)
        await turns()
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        assert await asyncio.to_thread(may_end.wait, TIMEOUT_S)
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    bench = Bench()
    with (
        serving(bench.guard(with_lifespan(handler))) as server,
        server.client() as client,
        client.stream("GET", "/") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "data: 1"
        assert bench.breaker.decisions()["admitted"] == 1  # counted while the stream is still open
        may_end.set()
        assert "data: 2" in list(lines)


def test_a_long_answer_that_is_no_event_stream_is_bound_by_the_deadline() -> None:
    bench = Bench()
    bench.half_open()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.Event().wait()

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler)).start()
        await turns()
        assert bench.outcome() == "held"
        bench.clock.advance(5.0)
        await talk.task
        assert (talk.status, talk.body, talk.is_complete) == (200, b"half", False)

    run(scenario())
    assert bench.outcome() == "failed"
