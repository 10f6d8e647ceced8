"""Websockets: the handshake passes the guards, an accepted one votes once, and nothing is held after its end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from resilience import CircuitOpen, current_deadline
from tests.integrations.asgi.apps import Bench, failing, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.asgi.server import TIMEOUT_S, Running, serving

DENIAL = "websocket.http.response"


class Client:
    """A websocket client on a raw socket."""

    def __init__(self, server: Running) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
        self._socket.settimeout(TIMEOUT_S)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self.send(Request(host="localhost", target="/"))

    def send(self, event: Event) -> None:
        """Send one event."""
        self._socket.sendall(self._protocol.send(event))

    def next(self) -> Event:
        """The next event of the server's."""
        while not self._events:
            data = self._socket.recv(65_536)
            self._protocol.receive_data(data or None)
            self._events.extend(self._protocol.events())
        return self._events.pop(0)

    def refused(self) -> tuple[int, dict[str, str], bytes]:
        """The HTTP response to a handshake that is refused."""
        event, body = self.next(), b""
        assert isinstance(event, RejectConnection), event
        done = not event.has_body
        while not done:
            part = self.next()
            assert isinstance(part, RejectData)
            body += part.data
            done = part.body_finished
        return event.status_code, {name.decode().lower(): value.decode() for name, value in event.headers}, body

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


async def echo(websocket: WebSocket) -> None:
    """Send back what comes, until the client goes."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return


def echo_app() -> Starlette:
    """A service that echoes."""
    return Starlette(routes=[WebSocketRoute("/", echo)])


def test_an_admitted_websocket_works_and_outlives_the_deadline() -> None:
    bench = Bench()
    bench.half_open()
    with serving(bench.guard(echo_app())) as server, Client(server) as client:
        assert isinstance(client.next(), AcceptConnection)
        assert bench.outcome() == "ok"  # the probe has voted while the socket is open
        bench.clock.advance(1_000.0)
        client.send(TextMessage("hello"))
        answer = client.next()
        assert isinstance(answer, TextMessage)
        assert answer.data == "hello"
        client.send(CloseConnection(1000))
        assert isinstance(client.next(), CloseConnection)
    assert bench.outcome() == "ok"
    assert bench.clock.pending_timers == 0


def test_a_refused_handshake_is_answered_by_http_where_the_server_can() -> None:
    bench = Bench(burst=1, rate_per_s=0.1)
    with serving(bench.guard(echo_app())) as server:
        with Client(server) as client:
            assert isinstance(client.next(), AcceptConnection)
        with Client(server) as client:
            status, headers, body = client.refused()
    assert status == 429
    assert headers["content-type"] == "application/problem+json"
    assert headers["ratelimit-policy"] == '"api";q=1;w=10'
    assert 10 <= int(headers["retry-after"]) <= 12
    assert json.loads(body)["reason"] == "quota"


def test_an_open_breaker_refuses_the_handshake() -> None:
    bench = Bench()
    bench.open_breaker()
    with serving(bench.guard(echo_app())) as server, Client(server) as client:
        status, headers, body = client.refused()
    assert (status, json.loads(body)["reason"]) == (503, "open")
    assert 30 <= int(headers["retry-after"]) <= 36


def test_a_refused_handshake_is_closed_before_accept_where_the_server_cannot_answer() -> None:
    bench = Bench()
    bench.open_breaker()

    async def scenario() -> None:
        talk = await Conversation(bench.guard(failing(AssertionError("called"))), kind="websocket").run()
        assert [message["type"] for message in talk.sent] == ["websocket.close"]
        assert talk.sent[0]["code"] == 1013
        assert talk.incoming.empty()  # the server's connect was taken

    run(scenario())


def test_a_refused_handshake_is_answered_in_the_extension_s_own_messages() -> None:
    bench = Bench()
    bench.open_breaker()

    async def scenario() -> None:
        talk = await Conversation(bench.guard(echo_app()), kind="websocket", extensions=[DENIAL]).run()
        assert [message["type"] for message in talk.sent] == [f"{DENIAL}.start", f"{DENIAL}.body"]
        assert talk.status == 503

    run(scenario())


async def _accepts(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _accepts_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    raise ValueError("later")


async def _denies(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})


async def _answers_500(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": f"{DENIAL}.start", "status": 500, "headers": []})
    await send({"type": f"{DENIAL}.body"})


async def _answers_404(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": f"{DENIAL}.start", "status": 404, "headers": []})
    await send({"type": f"{DENIAL}.body"})


async def _raises(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("at once")


async def _returns(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def _waits_for_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    assert (await receive())["type"] == "websocket.disconnect"


async def _raises_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await _waits_for_the_end(scope, receive, send)
    raise RuntimeError("cannot accept: the client has gone")


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (_accepts, "ok"),
        (_accepts_and_raises, "ok"),
        (_denies, "ok"),
        (_answers_404, "ok"),
        (_answers_500, "failed"),
        (_raises, "failed"),
        (_returns, "failed"),
        (_waits_for_the_end, "ignored"),
        (_raises_at_the_end, "ignored"),
    ],
)
def test_a_websocket_votes_once_by_how_its_handshake_was_answered(app: Any, expected: str) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        talk = Conversation(bench.guard(app), kind="websocket", extensions=[DENIAL])
        talk.disconnect()
        await asyncio.wait([talk.start().task])
        assert isinstance(talk.task.exception(), (ValueError, RuntimeError, type(None)))

    run(scenario())
    assert bench.outcome() == expected
    assert bench.clock.pending_timers == 0


def test_a_server_that_cancels_a_websocket_leaves_no_permit() -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        talk = Conversation(bench.guard(_waits_for_the_end), kind="websocket").start()
        await turns()
        assert bench.outcome() == "held"
        talk.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.task

    run(scenario())
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("extensions", [[DENIAL], []])
def test_a_refusal_that_leaves_the_handler_is_answered_before_accept_and_closes_after_it(extensions: list[str]) -> None:
    refusal = CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=2.0)

    async def accepts_first(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise refusal

    async def scenario() -> None:
        bench = Bench()
        bench.half_open()
        talk = await Conversation(bench.guard(failing(refusal)), kind="websocket", extensions=extensions).run()
        expected = [f"{DENIAL}.start", f"{DENIAL}.body"] if extensions else ["websocket.close"]
        assert [message["type"] for message in talk.sent] == expected
        assert talk.status == (503 if extensions else None)
        assert bench.outcome() == "ignored"
        talk = await Conversation(bench.guard(accepts_first), kind="websocket", extensions=extensions).run()
        assert [message["type"] for message in talk.sent] == ["websocket.accept", "websocket.close"]

    run(scenario())


@pytest.mark.parametrize("message", [{"type": "websocket.close"}, {"type": f"{DENIAL}.start", "status": 200, "headers": []}])
def test_a_refusal_after_the_application_has_answered_is_raised_again(message: Any) -> None:
    refusal = CircuitOpen("payments: open", policy="payments", reason="open")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)
        raise refusal

    talk = Conversation(Bench().guard(app), kind="websocket", extensions=[DENIAL])
    with pytest.raises(CircuitOpen) as caught:
        run(talk.run())
    assert caught.value is refusal
    assert len(talk.sent) == 1


def test_a_refusal_after_the_client_has_gone_is_raised_again() -> None:
    refusal = CircuitOpen("payments: open", policy="payments", reason="open")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _accepts(scope, receive, send)
        raise refusal

    talk = Conversation(Bench().guard(app), kind="websocket", extensions=[DENIAL])
    talk.disconnect()
    with pytest.raises(CircuitOpen):
        run(talk.run())
    assert [message["type"] for message in talk.sent] == ["websocket.accept"]


def test_a_websocket_has_a_deadline_where_that_was_asked_for() -> None:
    bench, seen = Bench(streams=True), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        deadline = current_deadline(bench.clock)
        seen.append(None if deadline is None else deadline.remaining_s())
        await asyncio.Event().wait()

    async def scenario() -> None:
        talk = Conversation(bench.guard(app), kind="websocket", extensions=[DENIAL]).start()
        await turns()
        bench.clock.advance(5.0)
        await talk.task
        assert [message["type"] for message in talk.sent] == ["websocket.accept", "websocket.close"]

    run(scenario())
    assert seen == [5.0]
    assert bench.clock.pending_timers == 0


def test_a_client_that_hangs_up_frees_everything_over_a_real_server() -> None:
    bench, left = Bench(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _accepts(scope, receive, send)
        left.set()

    with serving(bench.guard(with_lifespan(app))) as server:
        with Client(server) as client:
            assert isinstance(client.next(), AcceptConnection)
        assert left.wait(TIMEOUT_S)
    assert bench.breaker.decisions()["admitted"] == 1
    assert bench.clock.pending_timers == 0
