"""The middleware in the applications of other people's frameworks, each over a real server."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience import CircuitBreaker, Pipeline, RateLimiter, RefusalSettings, Rejected, current_call, current_deadline
from resilience.integrations.wsgi import ResilienceMiddleware, flask_refusal, pyramid_refusal
from tests.integrations import django_site
from tests.integrations.django_site import refuse
from tests.integrations.wsgi.apps import Bench, answering
from tests.integrations.wsgi.threaded import serving


def told_by_flask() -> Iterator[str]:
    """What a streamed body sees: the request of Flask's context, and the current call."""
    from flask import request

    for _ in range(2):
        call = current_call()
        yield f"{request.path} {None if call is None else call.pipeline} "


def _refused() -> str:
    refuse()
    return "never"


def flask(pipeline: Pipeline, **options: Any) -> Any:
    from flask import Flask, send_file, stream_with_context

    app = Flask(__name__)
    app.add_url_rule("/hello", view_func=lambda: "hello", endpoint="hello")
    app.add_url_rule("/refused", view_func=_refused, endpoint="refused")
    app.add_url_rule("/streamed", view_func=lambda: stream_with_context(told_by_flask()), endpoint="streamed")
    app.add_url_rule("/file", view_func=lambda: send_file(django_site.__file__), endpoint="file")
    app.register_error_handler(Rejected, flask_refusal)
    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, pipeline=pipeline, **options)  # type: ignore[method-assign]  # as Flask documents it
    return app


def django(pipeline: Pipeline, **options: Any) -> Any:
    from django.core.handlers.wsgi import WSGIHandler
    from django.test.utils import override_settings

    django_site.set_up()
    with override_settings(MIDDLEWARE=["resilience.integrations.wsgi.django_refusals"]):
        return ResilienceMiddleware(WSGIHandler(), pipeline=pipeline, **options)


def _pyramid(pipeline: Pipeline, set_up: Callable[[Any], None], options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for what it and WebOb import
        from pyramid.config import Configurator
        from pyramid.response import FileResponse, Response

    def hello(request: Any) -> Any:
        return Response("hello")

    def refused(request: Any) -> None:
        refuse()

    def streamed(request: Any) -> Any:
        def parts() -> Iterator[bytes]:
            for _ in range(2):
                call = current_call()
                yield f"{None if call is None else call.pipeline} ".encode()

        return Response(app_iter=parts())

    def file(request: Any) -> Any:
        return FileResponse(django_site.__file__, request, content_type="text/plain")

    with Configurator() as config:
        for view in (hello, refused, streamed, file):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        set_up(config)
        return ResilienceMiddleware(config.make_wsgi_app(), pipeline=pipeline, **options)


def pyramid(pipeline: Pipeline, **options: Any) -> Any:
    """It lets a refusal pass."""
    return _pyramid(pipeline, lambda config: None, options)


def pyramid_with_a_view(pipeline: Pipeline, **options: Any) -> Any:
    """A view of its own answers every exception; ours goes before it."""

    def sorry(error: Exception, request: Any) -> Any:
        request.response.status_int = 500
        return request.response

    def set_up(config: Any) -> None:
        config.add_exception_view(sorry, context=Exception)
        config.add_exception_view(pyramid_refusal, context=Rejected)

    return _pyramid(pipeline, set_up, options)


def bare(pipeline: Pipeline, **options: Any) -> Any:
    return ResilienceMiddleware(answering(), pipeline=pipeline, **options)


FRAMEWORKS = [flask, django, pyramid, pyramid_with_a_view]


@pytest.mark.parametrize("make", [*FRAMEWORKS, bare])
def test_it_admits_and_refuses_in_front_of(make: Callable[..., Any]) -> None:
    limiter = RateLimiter(1 / 60, 2, fields="always", name="api")
    with serving(make(Pipeline("api", limiter))) as server:
        admitted, also, refused = (server.get("/hello") for _ in range(3))
    assert (admitted.status_code, admitted.text) == (200, "hello")
    assert admitted.headers["ratelimit"] == '"api";r=1;t=60'
    assert also.headers["ratelimit"] == '"api";r=0;t=60'
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "quota"
    assert 60 <= int(refused.headers["retry-after"]) <= 72


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_a_refusal_that_leaves_a_handler_is_answered_and_ignored_by_the_breaker_around_it(make: Callable[..., Any]) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, min_calls=1)
    with serving(make(Pipeline("api", breaker))) as server:
        refused = server.get("/refused")
    assert refused.status_code == 503
    assert refused.headers.get_list("content-type") == ["application/problem+json"]
    assert refused.headers["content-length"] == str(len(refused.content))
    assert refused.json()["reason"] == "open"
    assert int(refused.headers["retry-after"]) >= 3
    assert breaker.pool.single.admitted == 1, "it went through the breaker"
    assert breaker.state.value == "closed"
    assert breaker.pool.single.is_idle(breaker.clock.now_us()), "it counts neither as a failure nor as a success"


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_a_refusal_that_leaves_a_handler_is_answered_as_it_is_set(make: Callable[..., Any]) -> None:
    settings = RefusalSettings(open_status=502, body="none")
    with serving(make(Pipeline("api"), refusals=settings)) as server:
        refused = server.get("/refused")
    assert (refused.status_code, refused.content, refused.headers.get_list("content-length")) == (502, b"", ["0"])
    assert int(refused.headers["retry-after"]) >= 3


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_a_streamed_body_is_made_within_the_call(make: Callable[..., Any]) -> None:
    bench = Bench()
    bench.half_open()
    with serving(make(bench.pipeline)) as server:
        streamed = server.get("/streamed")
    assert streamed.text == ("/streamed api " if make is flask else "api ") * 2
    assert bench.outcome() == "ok"


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_a_file_is_sent_whole(make: Callable[..., Any]) -> None:
    bench = Bench()
    bench.half_open()
    with serving(make(bench.pipeline)) as server:
        assert server.get("/file").content == Path(django_site.__file__).read_bytes()
    assert bench.outcome() == "ok"


def test_flask_s_own_client_and_its_errors() -> None:
    bench = Bench()
    app = flask(bench.pipeline)
    app.add_url_rule("/broken", view_func=lambda: 1 / 0, endpoint="broken")
    client = app.test_client()
    assert client.get("/hello").text == "hello"
    with client.get("/nowhere") as nowhere:  # Flask's client closes a response only when it is told, or when it was read
        assert nowhere.status_code == 404
    assert bench.breaker.status()["failure_rate"] == 0.0
    with client:
        assert client.get("/streamed").text == "/streamed api /streamed api "
    assert client.get("/broken").text
    assert bench.breaker.status()["failure_rate"] > 0.0


def test_the_body_of_a_refused_request_leaves_flask_with_no_context() -> None:
    """`stream_with_context` keeps Flask's context until the body is closed, also where a refusal takes the body's place."""
    from flask import Flask, has_request_context, stream_with_context

    app = Flask(__name__)

    def parts() -> Iterator[str]:
        refuse()
        yield "never"

    app.add_url_rule("/", view_func=lambda: stream_with_context(parts()), endpoint="streamed")
    bench = Bench()
    bench.half_open()
    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, pipeline=bench.pipeline)  # type: ignore[method-assign]  # as Flask documents it
    response = app.test_client().get("/")
    assert (response.status_code, json.loads(response.data)["reason"]) == (503, "open")
    assert not has_request_context()
    assert bench.outcome() == "ignored"


def test_a_handler_can_ask_for_its_time_and_for_the_health() -> None:
    from flask import Flask

    bench, app = Bench(), Flask(__name__)

    @app.get("/")
    def order() -> dict[str, object]:
        call, deadline = current_call(), current_deadline(bench.clock)
        assert call is not None
        assert deadline is not None
        return {"left_s": deadline.remaining_s(), "factor": call.health_factor, "pipeline": call.pipeline}

    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, pipeline=bench.pipeline)  # type: ignore[method-assign]  # as Flask documents it
    with app.test_client() as client:
        assert client.get("/", headers={"grpc-timeout": "2S"}).json == {"left_s": 2.0, "factor": 1.0, "pipeline": "api"}
        bench.half_open()
        assert client.get("/").json == {"left_s": 5.0, "factor": 0.3, "pipeline": "api"}
