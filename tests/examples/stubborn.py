"""A server that does not end when it is asked to."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


@asynccontextmanager
async def deaf(app: Starlette) -> AsyncIterator[None]:
    """Ignore SIGTERM from now on; the server has set its own handler by now."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield


def create_app() -> Starlette:
    """Answer that it is up, and stay so."""
    return Starlette(routes=[Route("/healthz", lambda request: PlainTextResponse("up"))], lifespan=deaf)
