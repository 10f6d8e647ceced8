"""The middleware in the applications of other people's frameworks, each over a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilience import CircuitBreaker, Pipeline, RateLimiter, RefusalSettings, Rejected
from resilience.integrations.asgi import ResilienceMiddleware, litestar_refusal, quart_refusal
from tests.integrations.asgi.server import serving
from tests.integrations.django_site import refuse, set_up


def starlette(pipeline: Pipeline, **options: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def refused(request: Request) -> None:
        refuse()

    app = Starlette(routes=[Route("/hello", hello), Route("/refused", refused)])
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline, **options)
    return app


def fastapi(pipeline: Pipeline, **options: Any) -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, pipeline=pipeline, **options)

    @app.get("/hello")
    def hello() -> PlainTextResponse:
        return PlainTextResponse("hello")

    @app.get("/refused")
    def refused() -> None:
        refuse()

    return app


def quart(pipeline: Pipeline, **options: Any) -> Any:
    from quart import Quart

    app = Quart(__name__)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/refused")
    async def refused() -> str:
        refuse()
        return "never"

    app.register_error_handler(Rejected, quart_refusal)
    app.asgi_app = ResilienceMiddleware(app.asgi_app, pipeline=pipeline, **options)  # type: ignore[method-assign]  # as Quart documents it
    return app


def litestar(pipeline: Pipeline, **options: Any) -> Any:
    from litestar import Litestar, get
    from litestar.middleware import DefineMiddleware

    @get("/hello", sync_to_thread=False)
    def hello() -> str:
        return "hello"

    @get("/refused", sync_to_thread=False)
    def refused() -> None:
        refuse()

    return Litestar(
        [hello, refused],
        logging_config=None,
        middleware=[DefineMiddleware(ResilienceMiddleware, pipeline=pipeline, **options)],
        exception_handlers={Rejected: litestar_refusal},
    )


def litestar_from_outside(pipeline: Pipeline, **options: Any) -> Any:
    from litestar import Litestar, get

    @get("/hello", sync_to_thread=True)
    def hello() -> str:
        return "hello"

    @get("/refused", sync_to_thread=True)
    def refused() -> None:
        refuse()

    app = Litestar([hello, refused], logging_config=None, exception_handlers={Rejected: litestar_refusal})
    return ResilienceMiddleware(app, pipeline=pipeline, **options)


def django(pipeline: Pipeline, **options: Any) -> Any:
    from django.core.handlers.asgi import ASGIHandler

    set_up()
    return ResilienceMiddleware(ASGIHandler(), pipeline=pipeline, **options)


def bare(pipeline: Pipeline, **options: Any) -> Any:
    from tests.integrations.asgi.apps import answering

    return ResilienceMiddleware(answering(), pipeline=pipeline, **options)


@pytest.mark.parametrize("make", [starlette, fastapi, quart, litestar, litestar_from_outside, django, bare])
def test_it_admits_and_refuses_in_front_of(make: Callable[..., Any]) -> None:
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


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (starlette, "/refused"),
        (fastapi, "/refused"),
        (quart, "/refused"),
        (litestar, "/refused"),
        (litestar_from_outside, "/refused"),
        (django, "/refused"),
        (django, "/refused-later"),
    ],
)
def test_a_refusal_that_leaves_a_handler_is_answered_and_ignored_by_the_breaker_around_it(
    make: Callable[..., Any], path: str
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, min_calls=1)
    with serving(make(Pipeline("api", breaker)), lifespan="auto") as server:
        refused = server.get(path)
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "open"
    assert int(refused.headers["retry-after"]) >= 3
    assert breaker.pool.single.admitted == 1, "it went through the breaker"
    assert breaker.state.value == "closed"
    assert breaker.pool.single.is_idle(breaker.clock.now_us()), "it counts neither as a failure nor as a success"


@pytest.mark.parametrize("make", [starlette, fastapi, quart, litestar, litestar_from_outside, django])
def test_a_refusal_that_leaves_a_handler_is_answered_as_it_is_set(make: Callable[..., Any]) -> None:
    settings = RefusalSettings(open_status=502, body="none")
    with serving(make(Pipeline("api"), refusals=settings), lifespan="auto") as server:
        refused = server.get("/refused")
    assert (refused.status_code, refused.content, refused.headers.get_list("content-length")) == (502, b"", ["0"])
    assert int(refused.headers["retry-after"]) >= 3
