"""The first of two services: works for a while and asks the second. On gRPC servers of both kinds, under ASGI and under WSGI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
import grpc.aio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from resilience import Deadline, Pipeline
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware
from tests.integrations.asgi.server import Running
from tests.integrations.asgi.server import serving as serving_asgi
from tests.integrations.grpc.deadline.second import AT_ONCE, METHOD, SERVICE, asking, asking_in_tasks
from tests.integrations.wsgi.threaded import serving as serving_wsgi
from tests.loops import in_a_loop

IN: Final = Pipeline("in", Deadline())
Ask = Callable[[float], str]
"""Asks it, as a client that knows nothing of us and waits so many seconds. Returns how that ended: "OK", gRPC's code, or HTTP's."""


class Work:
    """What it does before it asks the second: takes `duration_s`. `in_hand` are the requests that it is busy with."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self.in_hand: set[object] = set()

    @contextmanager
    def counted(self) -> Iterator[float]:
        """One request; yields how long to work for it."""
        request = object()
        self.in_hand.add(request)
        try:
            yield self.duration_s
        finally:
            self.in_hand.remove(request)


@contextmanager
def grpc_threads(work: Work, address: str) -> Iterator[Ask]:
    """On a gRPC server of threads."""
    with asking(address) as ask_second, ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(request: bytes, context: Any) -> bytes:
            with work.counted() as duration_s:
                time.sleep(duration_s)
                ask_second()
            return b""

        server = grpc.server(pool, handlers=[_handlers(ask)], interceptors=[ServerInterceptor(pipeline=IN)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc_client(port) as client:
                yield client
        finally:
            server.stop(5).wait()


@contextmanager
def grpc_tasks(work: Work, address: str) -> Iterator[Ask]:
    """On a gRPC server of asyncio."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        async with asking_in_tasks(address) as ask_second:

            async def ask(request: bytes, context: Any) -> bytes:
                with work.counted() as duration_s:
                    await asyncio.sleep(duration_s)
                    await ask_second()
                return b""

            server = grpc.aio.server(handlers=[_handlers(ask)], interceptors=[AioServerInterceptor(pipeline=IN)])
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                yield port
            finally:
                await server.stop(5)

    with in_a_loop(serving()) as port, grpc_client(port) as client:
        yield client


@contextmanager
def asgi(work: Work, address: str) -> Iterator[Ask]:
    """Under uvicorn, in tasks."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with asking_in_tasks(address) as ask_second:
            yield {"ask_second": ask_second}

    async def ask(request: Request) -> Response:
        with work.counted() as duration_s:
            await asyncio.sleep(duration_s)
            await request.state.ask_second()
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", ask)], lifespan=lifespan)
    app.add_middleware(ResilienceMiddleware, pipeline=IN)
    with serving_asgi(app) as server:
        yield http_client(server)


@contextmanager
def wsgi(work: Work, address: str) -> Iterator[Ask]:
    """Under waitress, in threads."""
    with asking(address) as ask_second:

        def app(environ: Any, start_response: Any) -> list[bytes]:
            with work.counted() as duration_s:
                time.sleep(duration_s)
                ask_second()
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]

        with serving_wsgi(WsgiMiddleware(app, pipeline=IN), threads=AT_ONCE) as server:
            yield http_client(server)


KINDS: Final = {"gRPC threads": grpc_threads, "gRPC tasks": grpc_tasks, "ASGI": asgi, "WSGI": wsgi}


def _handlers(behavior: Any) -> Any:
    return grpc.method_handlers_generic_handler(SERVICE, {"Ask": grpc.unary_unary_rpc_method_handler(behavior)})


@contextmanager
def grpc_client(port: int) -> Iterator[Ask]:
    """A client that sets a timeout of gRPC."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)

        def ask(timeout_s: float) -> str:
            try:
                call(b"", timeout=timeout_s)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        yield ask


def http_client(server: Running) -> Ask:
    """A client that says in `grpc-timeout` how long it waits, and waits for the answer."""

    def ask(timeout_s: float) -> str:
        status = server.get("/", grpc_timeout=f"{timeout_s * 1000:.0f}m").status_code
        return {200: "OK", 504: "DEADLINE_EXCEEDED"}.get(status, str(status))

    return ask
