"""Small applications to be guarded."""

from __future__ import annotations

from typing import Any

from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.bench import Layers


def answering(status: int = 200, body: bytes = b"hello") -> Any:
    """An application that answers every request at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    return app


def failing(error: BaseException) -> Any:
    """An application that raises before it answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app


def with_lifespan(app: Any) -> Any:
    """The same application for servers that insist on lifespan."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    return served


class Bench(Layers):
    """The layers, and an application behind them."""

    def guard(self, app: Any) -> Any:
        """The middleware around `app`."""
        return ResilienceMiddleware(app, pipeline=self.pipeline)
