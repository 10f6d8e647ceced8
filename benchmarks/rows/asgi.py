"""The whole stack on an ASGI request, in process, not sampled: beside the fused floor, SlowAPI and what people stitch by hand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import guards, stitched
from benchmarks.fused_floor import FusedAsgi
from benchmarks.harness import Size, Subject, Table, Take, awaited, checked, measure
from resilience.integrations.asgi import ResilienceMiddleware

SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/orders/7",
    "raw_path": b"/orders/7",
    "query_string": b"",
    "root_path": "",
    "headers": [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"bench"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip"),
        (b"connection", b"keep-alive"),
    ],
    "client": (guards.CLIENT, 51_234),
    "server": ("127.0.0.1", 8000),
}
RAW, FLOOR, OURS = "raw application", "fused floor", "resilience: four layers"
LEAN, USUAL = "limits + circuitbreaker + backoff + asyncio.timeout", "limits + aiobreaker + tenacity + asyncio.timeout"
STARLETTE, STARLETTE_OURS, SLOWAPI = "Starlette", "Starlette, resilience: four layers", "Starlette, SlowAPI: one limiter"


FOLDERS: Final[list[Any]] = []
"""Those of configuration files that are followed: they are removed with the process."""


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


class PassThrough:
    """The least that a middleware can be."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


def from_file(text: str = guards.FILE) -> ResilienceMiddleware:
    """The middleware by a configuration file with routes."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "resilience.yaml"
    path.write_text(text, encoding="utf-8")
    app = ResilienceMiddleware(raw_app, config=path)
    FOLDERS.append(folder)
    return app


def starlette_app(*middleware: Any) -> Any:
    """A Starlette application with one route."""
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.responses import PlainTextResponse  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    async def order(request: Any) -> Any:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/orders/{number}", order)], middleware=list(middleware))


def starlette_guarded() -> Any:
    from starlette.middleware import Middleware  # noqa: PLC0415

    return starlette_app(Middleware(ResilienceMiddleware, pipeline=guards.inbound()))


def starlette_slowapi() -> Any:
    from slowapi import Limiter  # noqa: PLC0415
    from slowapi.middleware import SlowAPIASGIMiddleware  # noqa: PLC0415
    from slowapi.util import get_remote_address  # noqa: PLC0415
    from starlette.middleware import Middleware  # noqa: PLC0415

    app = starlette_app(Middleware(SlowAPIASGIMiddleware))
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=[f"{stitched.UNREACHED}/second"])
    return app


APPS: Final[dict[str, Callable[[], Any]]] = {
    RAW: lambda: raw_app,
    "one pass-through middleware": lambda: PassThrough(raw_app),
    FLOOR: lambda: FusedAsgi(raw_app),
    OURS: lambda: ResilienceMiddleware(raw_app, pipeline=guards.inbound()),
    "resilience: four layers, from a file": from_file,
    f"{LEAN}, no retry": lambda: stitched.Asgi(raw_app, partial(stitched.lean, retries=False)),
    LEAN: lambda: stitched.Asgi(raw_app, stitched.lean),
    USUAL: lambda: stitched.Asgi(raw_app, stitched.usual),
    STARLETTE: starlette_app,
    STARLETTE_OURS: starlette_guarded,
    SLOWAPI: starlette_slowapi,
}


def requests_to(app: Any, loop: asyncio.AbstractEventLoop, status: int = 200) -> Take:
    """Requests one after the other, each with a scope of its own, that are answered with `status`."""
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    loop.run_until_complete(app(SCOPE.copy(), receive, keep))
    checked(sent[0]["status"], status)
    return awaited(loop, lambda: app(SCOPE.copy(), receive, send))


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    with guards.not_sampled():
        table = measure([Subject(name, partial(prepared, make, loop)) for name, make in APPS.items()], size)
    loop.close()
    table.ratio("four layers / fused floor", OURS, FLOOR, without=RAW)
    table.ratio("four layers from a file / fused floor", "resilience: four layers, from a file", FLOOR, without=RAW)
    table.ratio("four layers / leanest stitching", OURS, LEAN, without=RAW)
    table.ratio("four layers / usual stitching", OURS, USUAL, without=RAW)
    table.ratio("four layers / SlowAPI", STARLETTE_OURS, SLOWAPI, without=STARLETTE)
    return table


def prepared(make: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> Take:
    return requests_to(make(), loop)
