"""The middleware in the applications of other people's frameworks, each over a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilience import Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.server import serving


def starlette(pipeline: Pipeline) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/hello", hello)])
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline)
    return app


def fastapi(pipeline: Pipeline) -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline)

    @app.get("/hello")
    def hello() -> PlainTextResponse:
        return PlainTextResponse("hello")

    return app


def quart(pipeline: Pipeline) -> Any:
    from quart import Quart

    app = Quart(__name__)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    app.asgi_app = ResilienceMiddleware(app.asgi_app, pipeline=pipeline)  # type: ignore[method-assign]  # as Quart documents it
    return app


def litestar(pipeline: Pipeline) -> Any:
    from litestar import Litestar, get
    from litestar.middleware import DefineMiddleware

    @get("/hello", sync_to_thread=False)
    def hello() -> str:
        return "hello"

    return Litestar([hello], logging_config=None, middleware=[DefineMiddleware(ResilienceMiddleware, pipeline=pipeline)])


def litestar_from_outside(pipeline: Pipeline) -> Any:
    from litestar import Litestar, get

    @get("/hello", sync_to_thread=True)
    def hello() -> str:
        return "hello"

    return ResilienceMiddleware(Litestar([hello], logging_config=None), pipeline=pipeline)


def django(pipeline: Pipeline) -> Any:
    from django.conf import settings
    from django.core.handlers.asgi import ASGIHandler
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def hello(request: HttpRequest) -> HttpResponse:
        return HttpResponse("hello")

    class Urls:
        urlpatterns = (path("hello", hello),)

    if not settings.configured:
        import django as package

        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for a test", ROOT_URLCONF=Urls, USE_TZ=True)
        package.setup(set_prefix=False)
    return ResilienceMiddleware(ASGIHandler(), pipeline=pipeline)


def bare(pipeline: Pipeline) -> Any:
    from tests.integrations.asgi.apps import answering

    return ResilienceMiddleware(answering(), pipeline=pipeline)


@pytest.mark.parametrize("make", [starlette, fastapi, quart, litestar, litestar_from_outside, django, bare])
def test_it_admits_and_refuses_in_front_of(make: Callable[[Pipeline], Any]) -> None:
    limiter = RateLimiter(1 / 60, 2, fields="always", name="api")
    with serving(make(Pipeline("api", limiter)), lifespan="auto") as server:
        admitted, also, refused = (server.get("/hello") for _ in range(3))
    assert (admitted.status_code, admitted.text) == (200, "hello")
    assert admitted.headers["ratelimit"] == '"api";r=1;t=60'
    assert also.headers["ratelimit"] == '"api";r=0;t=60'
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "quota"
    assert 60 <= int(refused.headers["retry-after"]) <= 72
