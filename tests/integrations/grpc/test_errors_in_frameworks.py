"""An error of a gRPC call in handlers of frameworks that answer every exception themselves, after the start, in websockets."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from resilience import Pipeline
from resilience.integrations.asgi import ResilienceMiddleware, litestar_refusal, quart_refusal
from resilience.integrations.asgi.handlers import django_refusals
from resilience.integrations.grpc import http_answer
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware
from resilience.integrations.wsgi import flask_refusal, pyramid_refusal
from tests.integrations import django_site
from tests.integrations.asgi.apps import Bench, failing
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.server import Running
from tests.integrations.asgi.server import serving as serving_asgi
from tests.integrations.bench import Layers
from tests.integrations.wsgi.apps import Bench as WsgiBench
from tests.integrations.wsgi.conversation import Conversation as WsgiConversation
from tests.integrations.wsgi.threaded import serving as serving_wsgi

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def peer_error(code: str, reason: str = "") -> grpc.RpcError:
    """What a service of ours, or of somebody else, has answered with."""
    wrapped = AnyMessage()
    wrapped.Pack(ErrorInfo(reason=reason, domain="resilience", metadata={"trace_id": TRACE_ID}))
    status = Status(code=grpc.StatusCode[code].value[0], details=[wrapped])
    trailing = (("grpc-status-details-bin", status.SerializeToString()), ("grpc-retry-pushback-ms", "2500"))
    return grpc.aio.AioRpcError(
        grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(*trailing if reason else ()), "inner-text", "ipv4:10.0.0.7:1"
    )


CASES = [
    pytest.param("UNAVAILABLE", "CIRCUIT_OPEN", 503, "ignored", id="breaker"),
    pytest.param("RESOURCE_EXHAUSTED", "REDUCED_CAPACITY", 429, "ignored", id="limiter"),
    pytest.param("UNAVAILABLE", "", 503, "failed", id="down"),
    pytest.param("NOT_FOUND", "", 500, "failed", id="business"),
]


def flask(pipeline: Pipeline, error: BaseException) -> AbstractContextManager[Running]:
    from flask import Flask

    def order() -> str:
        raise error

    app = Flask(__name__)
    app.add_url_rule("/order", view_func=order)
    app.register_error_handler(grpc.RpcError, flask_refusal)
    app.wsgi_app = WsgiMiddleware(app.wsgi_app, pipeline=pipeline)  # type: ignore[method-assign]  # as Flask documents it
    return serving_wsgi(app)


def pyramid(pipeline: Pipeline, error: BaseException) -> AbstractContextManager[Running]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for what it and WebOb import
        from pyramid.config import Configurator

    def order(request: Any) -> Any:
        raise error

    with Configurator() as config:
        config.add_route("order", "/order")
        config.add_view(order, route_name="order")
        config.add_exception_view(pyramid_refusal, context=grpc.RpcError)
        return serving_wsgi(WsgiMiddleware(config.make_wsgi_app(), pipeline=pipeline))


def quart(pipeline: Pipeline, error: BaseException) -> AbstractContextManager[Running]:
    from quart import Quart

    app = Quart(__name__)

    @app.get("/order")
    async def order() -> str:
        raise error

    app.register_error_handler(grpc.RpcError, quart_refusal)
    app.asgi_app = ResilienceMiddleware(app.asgi_app, pipeline=pipeline)  # type: ignore[method-assign]  # as Quart documents it
    return serving_asgi(app)


def litestar(pipeline: Pipeline, error: BaseException) -> AbstractContextManager[Running]:
    from litestar import Litestar, get

    @get("/order", sync_to_thread=False)
    def order() -> None:
        raise error

    app = Litestar([order], logging_config=None, exception_handlers={grpc.RpcError: litestar_refusal})
    return serving_asgi(ResilienceMiddleware(app, pipeline=pipeline))


@pytest.mark.parametrize(("code", "reason", "status", "counted"), CASES)
@pytest.mark.parametrize("make", [flask, pyramid, quart, litestar])
def test_the_one_line_of_a_framework_lets_it_cross(
    make: Callable[[Pipeline, BaseException], AbstractContextManager[Running]], code: str, reason: str, status: int, counted: str
) -> None:
    layers = Layers()
    layers.half_open()
    with make(layers.pipeline, peer_error(code, reason)) as server:
        response = server.get("/order")
    assert response.status_code == status
    assert layers.outcome() == counted
    assert not any(word in response.text for word in ("inner", "10.0.0.7", "Traceback"))
    if reason:
        assert response.json()["trace_id"] == TRACE_ID
        assert 3 <= int(response.headers["retry-after"]) <= 4


def test_the_middleware_of_django_lets_it_cross() -> None:
    django_site.set_up()
    refusals: Any = django_refusals(lambda request: None)
    assert refusals.process_exception(None, peer_error("NOT_FOUND")) is None
    assert refusals.process_exception(None, ValueError("mine")) is None
    response = refusals.process_exception(None, peer_error("UNAVAILABLE", "CIRCUIT_OPEN"))
    assert (response.status_code, json.loads(response.content)["trace_id"]) == (503, TRACE_ID)


@pytest.mark.parametrize(("code", "reason", "counted"), [("UNAVAILABLE", "CIRCUIT_OPEN", "ignored"), ("UNAVAILABLE", "", "failed")])
@pytest.mark.parametrize("grouped", [False, True])
def test_out_of_a_group_it_crosses_like_one_alone(code: str, reason: str, counted: str, grouped: bool) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        error: BaseException = peer_error(code, reason)
        error = ExceptionGroup("tasks", [error, peer_error(code, reason)]) if grouped else error
        talk = await Conversation(bench.guard(failing(error))).run()
        assert talk.status == 503

    run(scenario())
    assert bench.outcome() == counted


def test_after_the_response_has_started_it_is_raised_again_and_has_failed() -> None:
    bench, wsgi_bench, error = Bench(), WsgiBench(), peer_error("UNAVAILABLE", "CIRCUIT_OPEN")
    bench.half_open()
    wsgi_bench.half_open()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    async def scenario() -> None:
        with pytest.raises(grpc.RpcError) as raised:
            await Conversation(bench.guard(app)).run()
        assert raised.value is error

    def wsgi_app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-type", "text/plain")])
        yield b"half"
        raise error

    run(scenario())
    with pytest.raises(grpc.RpcError) as raised:
        WsgiConversation(wsgi_bench.guard(wsgi_app, validated=False), validated=False).run()
    assert raised.value is error
    assert (bench.outcome(), wsgi_bench.outcome()) == ("failed", "failed")


@pytest.mark.parametrize(("code", "reason", "counted"), [("UNAVAILABLE", "CIRCUIT_OPEN", "ignored"), ("UNAVAILABLE", "", "failed")])
def test_a_websocket_s_handshake_is_answered_so(code: str, reason: str, counted: str) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        app = bench.guard(failing(peer_error(code, reason)))
        talk = await Conversation(app, kind="websocket", extensions=["websocket.http.response"]).run()
        assert [message["type"] for message in talk.sent] == ["websocket.http.response.start", "websocket.http.response.body"]
        assert talk.sent[0]["status"] == 503

    run(scenario())
    assert bench.outcome() == counted


def test_a_handler_that_relays_by_itself_counts_by_what_it_relays() -> None:
    for error, counted in [
        (peer_error("UNAVAILABLE", "CIRCUIT_OPEN"), "ignored"),
        (peer_error("UNAVAILABLE"), "failed"),
        (peer_error("NOT_FOUND"), "ok"),
        (peer_error("INTERNAL"), "failed"),
    ]:
        bench = Bench()
        bench.half_open()

        async def app(scope: Any, receive: Any, send: Any, error: Any = error) -> None:
            answer = http_answer(error)
            await send({"type": "http.response.start", "status": answer.status, "headers": []})
            await send({"type": "http.response.body", "body": answer.body})

        async def scenario(guarded: Any) -> None:
            await asyncio.wait_for(Conversation(guarded).run(), 5.0)

        run(scenario(bench.guard(app)))
        assert bench.outcome() == counted
