"""The trace id in answers to refusals: that of the trace which an operator will look for, and none where there is no trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiOpenTelemetryMiddleware

from resilience import CircuitBreaker, CircuitOpen, Pipeline, tracing
from resilience.edges import Fault, register_translator
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware
from tests.integrations.asgi import apps as asgi
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.bench import Layers
from tests.integrations.wsgi import apps as wsgi
from tests.integrations.wsgi.conversation import Conversation as WsgiConversation
from tests.telemetry.recording import SAMPLED, TRACE_ID, UNSAMPLED, Recording
from tests.telemetry.test_request_spans import empty_bucket, nothing, open_breaker

OTHER_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
REFUSALS = [
    pytest.param(empty_bucket, [], 429, id="over the limit"),
    pytest.param(open_breaker, [], 503, id="breaker open"),
    pytest.param(nothing, [("x-envoy-expected-rq-timeout-ms", "0")], 504, id="expired"),
]
Ask = Callable[[Layers, Any, list[tuple[str, str]]], tuple[int | None, dict[str, Any]]]
"""Asks a service whose handler raises; returns the status and the problem document."""


class PeerError(Exception):
    """An error of a client library, which carries what is read off it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("inner")
        self.fault = fault


def read(error: object) -> Fault | None:
    """What is read off it."""
    return error.fault if isinstance(error, PeerError) else None


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client library whose errors are known here."""
    monkeypatch.setattr("resilience.edges.faults._translators", [])
    register_translator(read)


def ask_asgi(bench: Layers, error: Any, headers: list[tuple[str, str]], *, otel: bool = False) -> tuple[int | None, dict[str, Any]]:
    app = ResilienceMiddleware(asgi.failing(error), pipeline=bench.pipeline)
    talk = run(Conversation(OpenTelemetryMiddleware(app) if otel else app, "/orders", headers=headers).run())
    return talk.status, json.loads(talk.body)


def ask_wsgi(bench: Layers, error: Any, headers: list[tuple[str, str]], *, otel: bool = False) -> tuple[int | None, dict[str, Any]]:
    app = WsgiMiddleware(wsgi.failing(error), pipeline=bench.pipeline)
    guarded = WsgiOpenTelemetryMiddleware(app) if otel else app
    talk = WsgiConversation(guarded, "/orders", headers=headers, validated=False).run()
    return talk.status, json.loads(talk.content)


def ask_wsgi_for_a_stream(
    bench: Layers, error: Any, headers: list[tuple[str, str]], *, otel: bool = False
) -> tuple[int | None, dict[str, Any]]:
    app = WsgiMiddleware(wsgi.answering(body=wsgi.Parts(error)), pipeline=bench.pipeline)
    guarded = WsgiOpenTelemetryMiddleware(app) if otel else app
    talk = WsgiConversation(guarded, "/orders", headers=headers, validated=False).run()
    return talk.status, json.loads(talk.content)


def _ended(error: Any) -> tuple[int, dict[str, Any]]:
    from resilience.integrations.grpc.faults import read_rpc_error

    fault = read_rpc_error(error)
    assert fault is not None
    return fault.status, {"trace_id": fault.trace_id} if fault.trace_id else {}


def ask_grpc(bench: Layers, error: Any, headers: list[tuple[str, str]], *, streams: bool = False) -> tuple[int, dict[str, Any]]:
    def behavior(request: bytes, context: Any) -> Any:
        raise error

    def stream(request: bytes, context: Any) -> Any:
        raise error
        yield b""

    handler = grpc.unary_stream_rpc_method_handler(stream) if streams else grpc.unary_unary_rpc_method_handler(behavior)
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=[ServerInterceptor(pipeline=bench.pipeline)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Do": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                one, many = channel.unary_unary("/t.T/Do"), channel.unary_stream("/t.T/Do")
                with pytest.raises(grpc.RpcError) as raised:
                    list(many(b"", metadata=headers)) if streams else one(b"", metadata=headers)
        finally:
            server.stop(None).wait()
    return _ended(raised.value)


def ask_grpc_for_a_stream(bench: Layers, error: Any, headers: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
    return ask_grpc(bench, error, headers, streams=True)


def ask_grpc_aio(bench: Layers, error: Any, headers: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
    async def behavior(request: bytes, context: Any) -> Any:
        raise error

    async def scenario() -> Any:
        server = grpc.aio.server(interceptors=[AioServerInterceptor(pipeline=bench.pipeline)])
        methods = {"Do": grpc.unary_unary_rpc_method_handler(behavior)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as raised:
                await channel.unary_unary("/t.T/Do")(b"", metadata=headers)
        await server.stop(None)
        return raised.value

    return _ended(asyncio.run(scenario()))


HTTP = [ask_asgi, ask_wsgi, ask_wsgi_for_a_stream]
ALL: list[Any] = [*HTTP, ask_grpc, ask_grpc_for_a_stream, ask_grpc_aio]
NO_ERROR = AssertionError("the handler was reached")


@pytest.mark.parametrize(("before", "headers", "status"), REFUSALS)
@pytest.mark.parametrize("ask", ALL)
def test_a_refusal_tells_the_trace_of_the_call_s_own_span(
    ask: Ask, before: Any, headers: list[tuple[str, str]], status: int, recorded: Recording
) -> None:
    bench = Layers()
    before(bench)
    recorded.clear()
    found, document = ask(bench, NO_ERROR, [("traceparent", SAMPLED), *headers])
    assert (found, document["trace_id"]) == (status, TRACE_ID)
    assert {f"{span.context.trace_id:032x}" for span in recorded.spans if span.context} == {TRACE_ID}


@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED])
@pytest.mark.parametrize(("before", "headers", "status"), REFUSALS)
@pytest.mark.parametrize("ask", HTTP)
def test_a_refusal_tells_the_trace_of_the_server_span_sampled_or_not(
    ask: Any, before: Any, headers: list[tuple[str, str]], status: int, traceparent: str, recorded: Recording
) -> None:
    bench = Layers()
    before(bench)
    recorded.clear()
    found, document = ask(bench, NO_ERROR, [("traceparent", traceparent), *headers], otel=True)
    assert (found, document["trace_id"]) == (status, TRACE_ID)
    assert bool(recorded.spans) == (traceparent == SAMPLED)


def test_a_trace_that_begins_here_is_told_too(recorded: Recording) -> None:
    bench = Layers()
    open_breaker(bench)  # type: ignore[arg-type]
    recorded.clear()
    _, document = ask_asgi(bench, NO_ERROR, [])
    (root,) = [span for span in recorded.spans if span.parent is None]
    assert root.context is not None
    assert document["trace_id"] == f"{root.context.trace_id:032x}"


@pytest.mark.parametrize("ask", ALL)
def test_without_a_trace_none_is_told(ask: Ask, sdk: Any) -> None:
    bench = Layers()
    empty_bucket(bench)  # type: ignore[arg-type]
    status, document = ask(bench, NO_ERROR, [])
    assert status == 429
    assert "trace_id" not in document


@pytest.mark.parametrize("ask", ALL)
@pytest.mark.parametrize("told", ["", OTHER_TRACE_ID])
def test_what_crosses_tells_the_first_trace_and_else_this_one(ask: Ask, told: str, recorded: Recording) -> None:
    error = PeerError(Fault(503, 14, "open", 2.0, told))
    status, document = ask(Layers(), error, [("traceparent", SAMPLED)])
    assert (status, document["trace_id"]) == (503, told or TRACE_ID)


def test_a_refusal_of_a_call_that_is_recorded_knows_its_trace(recorded: Recording) -> None:
    breaker = CircuitBreaker(name="payments")
    breaker.force("open")
    with trace.get_tracer("of the handler").start_as_current_span("work") as span, pytest.raises(CircuitOpen) as raised:
        Pipeline("payments", breaker).call(lambda: None)
    assert raised.value.trace_id == f"{span.get_span_context().trace_id:032x}"


def test_a_deadline_that_runs_out_at_work_tells_the_trace(recorded: Recording) -> None:
    bench = asgi.Bench()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        talk = Conversation(bench.guard(waits), "/orders", headers=[("traceparent", SAMPLED)]).start()
        await turns()
        bench.clock.advance(5.0)
        await talk.task
        assert (talk.status, json.loads(talk.body)["trace_id"]) == (504, TRACE_ID)

    run(scenario())


def test_the_seam_answers_nothing_until_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "trace_id", tracing._no_trace)
    assert tracing.trace_id() == ""
    tracing.install_trace_id(lambda: OTHER_TRACE_ID)
    bench = Layers()
    empty_bucket(bench)  # type: ignore[arg-type]
    assert ask_asgi(bench, NO_ERROR, [])[1]["trace_id"] == OTHER_TRACE_ID
