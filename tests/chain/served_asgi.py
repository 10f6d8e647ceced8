"""A service in Starlette that asks the next one by httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import resilience
from resilience import Rejected
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.httpx import AsyncResilienceTransport
from tests.chain import served


def create_app() -> Starlette:
    """The application."""
    toolkit = resilience.load(served.CONFIG)
    seen = served.Seen(toolkit)
    # Idle connections are dropped before the server drops them, so that no request is sent into one that is being closed.
    inner = httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits(max_connections=100, keepalive_expiry=2.0))
    transport = AsyncResilienceTransport(inner, pipeline=toolkit.pipeline("next")) if served.NEXT else inner
    client = httpx.AsyncClient(base_url=served.NEXT, transport=transport, timeout=None)

    async def ask_next(request: Request, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            answer = await client.request(request.method, request.url.path, headers=headers, content=await request.body())
        except Rejected:
            if served.DEGRADES:
                return served.DEGRADED
            raise
        except httpx.TransportError:
            return served.passed_on(*served.UNREACHABLE)
        return served.passed_on(answer.status_code, answer.content)

    async def hop(request: Request) -> Response:
        headers = seen.note(request.headers.get)
        status, body = await ask_next(request, headers) if served.NEXT else served.ALONE
        return Response(body, status)

    async def what_was_seen(request: Request) -> Response:
        return JSONResponse(seen.document())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield
        toolkit.close()

    routes = [Route(served.SEEN, what_was_seen), Route("/{path:path}", hop, methods=served.METHODS)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(ResilienceMiddleware, config=toolkit)
    return app
