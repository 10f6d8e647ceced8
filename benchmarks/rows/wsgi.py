"""The whole stack on a WSGI request, in process, not sampled: beside the fused floor and flask-limiter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Final

from benchmarks import guards, stitched
from benchmarks.fused_floor import FusedWsgi
from benchmarks.harness import Size, Subject, Table, Take, called, measure
from resilience.integrations.wsgi import ResilienceMiddleware

ENVIRON: Final[dict[str, Any]] = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/orders/7",
    "QUERY_STRING": "",
    "RAW_URI": "/orders/7",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": guards.CLIENT,
    "REMOTE_PORT": "51234",
    "HTTP_HOST": "localhost:8000",
    "HTTP_USER_AGENT": "bench",
    "HTTP_ACCEPT": "*/*",
    "HTTP_ACCEPT_ENCODING": "gzip",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.input": BytesIO(),
    "wsgi.errors": None,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}
RAW, FLOOR, OURS = "raw application", "fused floor", "resilience: four layers"
FLASK, FLASK_OURS, FLASK_LIMITER = "Flask", "Flask, resilience: four layers", "Flask, flask-limiter: one limiter"


def raw_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def pass_through(environ: Any, start_response: Any) -> Any:
    return raw_app(environ, start_response)


def flask_app() -> Any:
    """A Flask application with one route."""
    from flask import Flask  # noqa: PLC0415

    app = Flask("bench")

    @app.get("/orders/<number>")
    def order(number: str) -> str:
        return "ok"

    return app


def flask_guarded() -> Any:
    app = flask_app()
    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, pipeline=guards.inbound())
    return app


def flask_limiter() -> Any:
    from flask_limiter import Limiter  # noqa: PLC0415
    from flask_limiter.util import get_remote_address  # noqa: PLC0415

    app = flask_app()
    Limiter(get_remote_address, app=app, default_limits=[f"{stitched.UNREACHED}/second"], storage_uri="memory://")
    return app


APPS: Final[dict[str, Callable[[], Any]]] = {
    RAW: lambda: raw_app,
    "one pass-through middleware": lambda: pass_through,
    FLOOR: lambda: FusedWsgi(raw_app),
    OURS: lambda: ResilienceMiddleware(raw_app, pipeline=guards.inbound()),
    FLASK: flask_app,
    FLASK_OURS: flask_guarded,
    FLASK_LIMITER: flask_limiter,
}


def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    return None


def served(app: Any) -> None:
    """What a server does with one request."""
    body = app(ENVIRON.copy(), start_response)
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()


def prepared(make: Callable[[], Any]) -> Take:
    return called(partial(served, make()))


def run(size: Size) -> Table:
    with guards.not_sampled():
        table = measure([Subject(name, partial(prepared, make)) for name, make in APPS.items()], size)
    table.ratio("four layers / fused floor", OURS, FLOOR, without=RAW)
    table.ratio("four layers / flask-limiter", FLASK_OURS, FLASK_LIMITER, without=FLASK)
    return table
