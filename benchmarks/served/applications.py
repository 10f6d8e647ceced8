"""What gunicorn and uvicorn are told to serve, by name: `benchmarks.served.applications:wsgi_raw`."""

from __future__ import annotations

from typing import Any

from benchmarks import guards
from benchmarks.fused_floor import FusedAsgi, FusedWsgi
from benchmarks.rows import asgi, wsgi
from resilience.integrations.asgi import ResilienceMiddleware as AsgiMiddleware
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware

asgi_raw = asgi.raw_app
wsgi_raw = wsgi.raw_app


def asgi_floor() -> Any:
    return FusedAsgi(asgi.raw_app)


def asgi_resilience() -> Any:
    return AsgiMiddleware(asgi.raw_app, pipeline=guards.inbound())


def asgi_starlette() -> Any:
    return asgi.starlette_app()


def asgi_slowapi() -> Any:
    return asgi.starlette_slowapi()


def wsgi_floor() -> Any:
    return FusedWsgi(wsgi.raw_app)


def wsgi_resilience() -> Any:
    return WsgiMiddleware(wsgi.raw_app, pipeline=guards.inbound())


def wsgi_flask() -> Any:
    return wsgi.flask_app()


def wsgi_limiter() -> Any:
    return wsgi.flask_limiter()
