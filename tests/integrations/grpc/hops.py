"""Services of every kind on real servers in this process, each of which asks the next one when it is asked.

What they are asked and what they answer is bytes; a service that has a next one answers as that did.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio
import httpx
import requests
from opentelemetry import context, propagate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import resilience.integrations.httpx
import resilience.integrations.requests  # noqa: F401  # from now on its errors cross hops
from resilience import Pipeline
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware
from tests.integrations.asgi.server import TIMEOUT_S, serving
from tests.integrations.wsgi.threaded import serving as serving_wsgi

METHOD: Final = "/shop.v1.Orders/Get"
Ask = Callable[[], bytes]
"""Asks the next service, in a thread."""
AskLater = Callable[[], Awaitable[bytes]]
"""The same, in a task."""


def trace_carrier() -> dict[str, str]:
    """The present trace as headers, or as metadata."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


@contextmanager
def traced(carrier: Mapping[str, str]) -> Iterator[None]:
    """Within the trace that a request has brought along, as instrumentation of servers has it."""
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


# --- asking the next one ------------------------------------------------------------------------------------------------------


def rpc(address: str) -> Ask:
    """By gRPC in a thread."""

    def ask() -> bytes:
        with grpc.insecure_channel(address) as channel:
            found: bytes = channel.unary_unary(METHOD)(b"", metadata=tuple(trace_carrier().items()), timeout=TIMEOUT_S)
            return found

    return ask


def aio_rpc(address: str) -> AskLater:
    """By gRPC in a task."""

    async def ask() -> bytes:
        async with grpc.aio.insecure_channel(address) as channel:
            found: bytes = await channel.unary_unary(METHOD)(b"", metadata=tuple(trace_carrier().items()), timeout=TIMEOUT_S)
            return found

    return ask


def with_httpx(address: str) -> Ask:
    """By HTTP in a thread."""

    def ask() -> bytes:
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            return client.get(address, headers=trace_carrier()).raise_for_status().content

    return ask


def with_requests(address: str) -> Ask:
    """The same with the other library."""

    def ask() -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            response = session.get(address, headers=trace_carrier(), timeout=TIMEOUT_S)
            response.raise_for_status()
            return response.content

    return ask


def aio_http(address: str) -> AskLater:
    """By HTTP in a task."""

    async def ask() -> bytes:
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client:
            response = await client.get(address, headers=trace_carrier())
            return response.raise_for_status().content

    return ask


# --- services -----------------------------------------------------------------------------------------------------------------


@contextmanager
def asgi(pipeline: Pipeline, ask: AskLater) -> Iterator[str]:
    """A Starlette application under uvicorn. Yields its URL."""

    async def handler(request: Request) -> Response:
        return PlainTextResponse(await ask())

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline)

    async def in_trace(scope: Any, receive: Any, send: Any) -> None:
        with traced({name.decode(): value.decode() for name, value in scope.get("headers", ())}):
            await app(scope, receive, send)

    with serving(in_trace) as server:
        yield server.url


@contextmanager
def wsgi(pipeline: Pipeline, ask: Ask) -> Iterator[str]:
    """A bare WSGI application under waitress. Yields its URL."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = ask()
        start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))])
        return [body]

    guarded = WsgiMiddleware(app, pipeline=pipeline)

    def in_trace(environ: Any, start_response: Any) -> Any:
        with traced({"traceparent": environ.get("HTTP_TRACEPARENT", "")}):
            return guarded(environ, start_response)

    with serving_wsgi(in_trace) as server:
        yield server.url


class _InTrace(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)

        def behavior(request: Any, context_: Any) -> Any:
            with traced(dict(context_.invocation_metadata())):
                return handler.unary_unary(request, context_)

        return grpc.unary_unary_rpc_method_handler(behavior)


class _AioInTrace(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def behavior(request: Any, context_: Any) -> Any:
            with traced(dict(context_.invocation_metadata())):
                return await handler.unary_unary(request, context_)

        return grpc.unary_unary_rpc_method_handler(behavior)


def _generic(behavior: Any) -> Any:
    return grpc.method_handlers_generic_handler("shop.v1.Orders", {"Get": grpc.unary_unary_rpc_method_handler(behavior)})


@contextmanager
def grpc_threads(pipeline: Pipeline, ask: Callable[..., bytes], *, told: bool = False) -> Iterator[str]:
    """A gRPC server of threads. Yields its address. `told`: what it asks is given the context."""

    def behavior(request: bytes, context_: Any) -> bytes:
        return ask(context_) if told else ask()

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[_InTrace(), ServerInterceptor(pipeline=pipeline)])
        server.add_generic_rpc_handlers((_generic(behavior),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait(TIMEOUT_S)


@contextmanager
def grpc_tasks(pipeline: Pipeline, ask: Callable[..., Awaitable[bytes]], *, told: bool = False) -> Iterator[str]:
    """An asyncio gRPC server in a thread of its own. Yields its address. `told`: what it asks is given the context."""
    ready, ports = threading.Event(), []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def behavior(request: bytes, context_: Any) -> bytes:
        return await (ask(context_) if told else ask())

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[_AioInTrace(), AioServerInterceptor(pipeline=pipeline)])
        server.add_generic_rpc_handlers((_generic(behavior),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await done.wait()
        await server.stop(None)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="grpc-aio")
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S), "the gRPC server does not listen"
        yield f"127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "the gRPC server does not stop"
