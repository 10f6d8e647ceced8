"""The middleware: finds the pipeline of each request and hands it to an exchange of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from resilience import ConfigError, Pipeline, RefusalSettings, Toolkit
from resilience.edges import Answer, ChangeAnswer, RouteSource, open_source
from resilience.integrations.asgi.exchange import HttpExchange
from resilience.integrations.asgi.request import own_path, send_answer
from resilience.integrations.asgi.status import StatusPage, deny_websocket
from resilience.integrations.asgi.types import App, Receive, Scope, Send
from resilience.integrations.asgi.websocket import DENIAL, WebsocketExchange

log = logging.getLogger("resilience")


class ResilienceMiddleware:
    """Guards an ASGI application: `app.add_middleware(ResilienceMiddleware, config="resilience.yaml")`.

    Put it inside OpenTelemetry's middleware, outside everything that does work.

    Args:
        app: the application.
        config: the path of a configuration file, or a `Toolkit`. Its routes say which pipeline guards which request, by the path
            within the application: without what the server or a mount put before it (`root_path`).
        pipeline: one pipeline made in code that guards every request instead.
        refusals: how refusals are answered, with `pipeline`: statuses, and whether with a problem document; a file has a section of
            that name.
        answer: has the last word on each answer to a refusal: a function of the `Rejected` and the `resilience.edges.Answer` that
            returns an `Answer`, such as `answer.with_body("application/json", body)`.
        status_path: the path within the application at which the status is served as JSON, such as "/-/resilience"; default
            nowhere. It shows what `Toolkit.status` returns; with `pipeline`, the policies of that pipeline and their signals. It is
            not guarded and not counted, so it answers also while every limit is used up; the application sees no request and no
            websocket for it.
        status_token: what `Authorization: Bearer ...` must carry to read it: at least 16 characters. Any other request gets 401.

    Raises:
        TypeError: neither or both of `config` and `pipeline` are given, or `refusals` without `pipeline`.
        ValueError: `status_path` without `status_token` or the other way round, or one of them is not as it must be.

    A file that cannot be used stops the start: the server is told by `lifespan.startup.failed`. A server without lifespan gets 503
    for every request, and the error is logged.
    """

    def __init__(
        self,
        app: App,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Pipeline | None = None,
        refusals: RefusalSettings | None = None,
        answer: ChangeAnswer | None = None,
        status_path: str | None = None,
        status_token: str | None = None,
    ) -> None:
        self.app = app
        self._page = StatusPage.of(status_path, status_token)
        self._source: RouteSource | None = None
        self._close: Callable[[], None] | None = None
        self._error: ConfigError | None = None
        # Starlette makes middleware in its first call, where servers swallow an exception: it is kept, and told at lifespan.
        try:
            self._source, self._close = open_source(config, pipeline, refusals, answer)
        except ConfigError as error:
            self._error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        source = self._source
        if source is None:
            await self._refuse_to_serve(kind, scope, receive, send)
        elif kind == "http":
            path = own_path(scope) if scope.get("root_path") else scope["path"]
            if self._page is not None and path == self._page.path:
                await self._page.answer(scope, send, source.status)
                return
            guarded = source.find(scope["method"], path)
            if guarded is None:
                await self.app(scope, receive, send)
            else:
                await HttpExchange(guarded, scope, receive, send).run(self.app)
        elif kind == "websocket":
            path = own_path(scope)
            if self._page is not None and path == self._page.path:
                await deny_websocket(scope, receive, send)
                return
            guarded = source.find("GET", path)
            if guarded is None:
                await self.app(scope, receive, send)
            else:
                await WebsocketExchange(guarded, scope, receive, send).run(self.app)
        else:
            await self.app(scope, receive, send)

    def close(self) -> None:
        """Give up the configuration file, once. For applications that are taken down while the process lives on."""
        if self._close is not None:
            self._close()
            self._close = None

    async def _refuse_to_serve(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._error)})
            return
        log.error("every request is answered 503, since the configuration cannot be used:\n%s", self._error)
        prefix = "http"
        if kind == "websocket":
            await receive()
            if DENIAL not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1011, "reason": "configuration error"})
                return
            prefix = "websocket.http"
        body = b'{"type": "about:blank", "title": "Service Unavailable", "status": 503}'
        headers = (("content-type", "application/problem+json"), ("content-length", str(len(body))))
        await send_answer(send, Answer(503, headers, body), prefix)
