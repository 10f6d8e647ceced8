"""The second of two services, and the ways to it from the first: over gRPC and over HTTP, in threads and in tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
import grpc.aio
import httpx
import requests
from requests.adapters import HTTPAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from resilience import Deadline, Pipeline
from resilience.integrations.grpc import ClientInterceptor
from resilience.integrations.grpc.aio import client_interceptors, connect
from resilience.integrations.httpx import AsyncResilienceTransport
from resilience.integrations.requests import ResilienceAdapter
from tests.integrations.asgi.server import serving

SERVICE: Final = "test.v1.Hop"
METHOD: Final = f"/{SERVICE}/Ask"
HEADER: Final = "x-envoy-expected-rq-timeout-ms"
AT_ONCE: Final = 8
OUT: Final = Pipeline("out", Deadline())


class Second:
    """Nothing guards it. It notes how much time each request that reaches it was left."""

    def __init__(self) -> None:
        self.told_s: list[float] = []

    @contextmanager
    def serving(self, protocol: str) -> Iterator[str]:
        """Serve "grpc" or "http" until the block is left. Yields the address, or the URL."""
        with self._over_grpc() if protocol == "grpc" else self._over_http() as address:
            yield address

    @contextmanager
    def _over_grpc(self) -> Iterator[str]:
        def ask(request: bytes, context: Any) -> bytes:
            self.told_s.append(context.time_remaining())
            return b""

        with ThreadPoolExecutor(AT_ONCE) as pool:
            server = grpc.server(pool)
            methods = {"Ask": grpc.unary_unary_rpc_method_handler(ask)}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            try:
                yield f"127.0.0.1:{port}"
            finally:
                server.stop(0).wait()

    @contextmanager
    def _over_http(self) -> Iterator[str]:
        async def ask(request: Request) -> Response:
            self.told_s.append(int(request.headers[HEADER]) / 1000)
            return PlainTextResponse("")

        with serving(Starlette(routes=[Route("/", ask)]), lifespan="off") as server:
            yield server.url


@contextmanager
def asking(address: str) -> Iterator[Callable[[], object]]:
    """The way there from threads: by gRPC, or by requests where `address` is a URL."""
    if not address.startswith("http"):
        with grpc.insecure_channel(address) as channel:
            call = grpc.intercept_channel(channel, ClientInterceptor(pipeline=OUT)).unary_unary(METHOD)
            yield lambda: call(b"")
        return
    with requests.Session() as session:
        session.trust_env = False
        session.mount(address, ResilienceAdapter(HTTPAdapter(pool_maxsize=AT_ONCE), pipeline=OUT))
        yield lambda: session.get(address)


@asynccontextmanager
async def asking_in_tasks(address: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """The way there from tasks: by gRPC, or by httpx."""
    if not address.startswith("http"):
        async with connect(address, interceptors=client_interceptors(pipeline=OUT)) as channel:
            call = channel.unary_unary(METHOD)
            yield lambda: call(b"")
        return
    transport = AsyncResilienceTransport(httpx.AsyncHTTPTransport(verify=False), pipeline=OUT)
    async with httpx.AsyncClient(transport=transport, timeout=None) as client:
        yield lambda: client.get(address)
