"""How refusals are answered can be set: statuses and bodies, in the file and in code, for ASGI and WSGI alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import resilience
from resilience import CircuitOpen, DeadlineExceeded, Pipeline, RateLimited, RateLimiter, RefusalSettings, Rejected
from resilience.edges import Answer
from resilience.integrations import asgi, wsgi
from resilience.integrations.asgi import quart_refusal
from resilience.integrations.wsgi import flask_refusal
from tests.integrations.asgi import conversation as asgi_talk
from tests.integrations.asgi.apps import failing as asgi_failing
from tests.integrations.bench import Layers
from tests.integrations.wsgi import conversation as wsgi_talk
from tests.integrations.wsgi.apps import failing as wsgi_failing

SETTINGS = RefusalSettings(quota_status=420, open_status=502, deadline_status=408)
FILE = """\
version: 1
limiters: {one: {rate: 1/h, burst: 1}}
pipelines: {one: [{limiter: one}]}
routes: [{match: {path: "/**"}, pipeline: one}]
"""


class Response(NamedTuple):
    """What a client gets."""

    status: int | None
    headers: dict[str, str]
    body: bytes


class Room:
    """One kind of server: makes a middleware around an application that raises, or answers 200, and asks it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def guard(self, error: BaseException | None = None, **options: Any) -> Any:
        """The middleware."""
        if self.name == "asgi":
            return asgi.ResilienceMiddleware(asgi_failing(error) if error else _asgi_hello, **options)
        return wsgi.ResilienceMiddleware(wsgi_failing(error) if error else _wsgi_hello, **options)

    def handling(self, error: Rejected, **options: Any) -> Any:
        """The middleware around a framework that answers every exception itself, by the one line that we have for it."""
        if self.name == "asgi":

            async def app(scope: Any, receive: Any, send: Any) -> None:
                body, status, headers = await quart_refusal(error)
                encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": status, "headers": encoded})
                await send({"type": "http.response.body", "body": body})

            return asgi.ResilienceMiddleware(app, **options)

        def wsgi_app(environ: Any, start_response: Any) -> Any:
            body, status, headers = flask_refusal(error)
            start_response(f"{status} Refused", [*headers.items()])
            return [body]

        return wsgi.ResilienceMiddleware(wsgi_app, **options)

    def ask(self, app: Any, method: str = "GET", **headers: str) -> Response:
        """One request."""
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if self.name == "asgi":
            answered = asgi_talk.run(asgi_talk.Conversation(app, method=method, headers=given).run())
            return Response(answered.status, dict(answered.headers), answered.body)
        # wsgiref.validate wants a content type also where there is no content.
        talk = wsgi_talk.Conversation(app, method=method, headers=given, validated=False).run()
        assert talk.head is not None
        return Response(talk.status, dict(talk.head[1]), talk.content)


async def _asgi_hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def _wsgi_hello(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"hello"]


@pytest.fixture(params=["asgi", "wsgi"])
def room(request: pytest.FixtureRequest) -> Room:
    return Room(request.param)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "resilience.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def over_the_limit(bench: Layers) -> dict[str, str]:
    """The bucket is empty."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())
    return {}


def breaker_open(bench: Layers) -> dict[str, str]:
    """The breaker is held open."""
    bench.breaker.force("open")
    return {}


def out_of_time(bench: Layers) -> dict[str, str]:
    """The client brings no time."""
    return {"grpc_timeout": "0S"}


@pytest.mark.parametrize(
    ("before", "status", "as_usual"), [(over_the_limit, 420, 429), (breaker_open, 502, 503), (out_of_time, 408, 504)]
)
def test_statuses_of_own_refusals(room: Room, before: Callable[[Layers], dict[str, str]], status: int, as_usual: int) -> None:
    for settings, expected in ((SETTINGS, status), (RefusalSettings(), as_usual), (None, as_usual)):
        bench = Layers()
        headers = before(bench)
        found = room.ask(room.guard(pipeline=bench.pipeline, refusals=settings), **headers)
        assert (found.status, json.loads(found.body)["status"]) == (expected, expected)


REFUSALS: list[tuple[Rejected, int]] = [
    (RateLimited("payments: over", policy="payments"), 429),
    (RateLimited("payments: over", policy="payments", status=503), 503),  # the limiter's own
    (CircuitOpen("payments: open", policy="payments", reason="open"), 502),
    (DeadlineExceeded("payments: late", policy="payments", reason="expired"), 408),
    (Rejected("a guard of somebody else's", policy="payments"), 502),
]


@pytest.mark.parametrize(("error", "status"), REFUSALS, ids=repr)
@pytest.mark.parametrize("by", ["the middleware", "the framework"])
def test_statuses_of_refusals_that_leave_the_handler(room: Room, error: Rejected, status: int, by: str) -> None:
    make = room.guard if by == "the middleware" else room.handling
    found = room.ask(make(error, pipeline=Pipeline("api"), refusals=SETTINGS))
    assert (found.status, json.loads(found.body)["status"]) == (status, status)


@pytest.mark.parametrize("by", ["the guard", "the middleware", "the framework"])
def test_without_a_body(room: Room, by: str) -> None:
    settings = RefusalSettings(body="none")
    error = CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=3.0)
    bench = Layers()
    if by == "the guard":
        over_the_limit(bench)
        app = room.guard(pipeline=bench.pipeline, refusals=settings)
    else:
        app = (room.guard if by == "the middleware" else room.handling)(error, pipeline=bench.pipeline, refusals=settings)
    found = room.ask(app)
    assert (found.status, found.body) == (429 if by == "the guard" else 503, b"")
    assert found.headers["content-length"] == "0"
    assert "content-type" not in found.headers
    assert "retry-after" in found.headers
    assert ("ratelimit" in found.headers) == (by == "the guard")


def test_a_websocket_is_denied_by_the_same_settings() -> None:
    bench = Layers()
    breaker_open(bench)
    app = Room("asgi").guard(pipeline=bench.pipeline, refusals=SETTINGS, answer=envelope)
    talk = asgi_talk.Conversation(app, kind="websocket", extensions=["websocket.http.response"])
    asgi_talk.run(talk.run())
    assert (talk.status, json.loads(talk.body)["error"]["code"]) == (502, "forced")


# --- in the file ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(room: Room, config: Path) -> Iterator[Any]:
    """The middleware, given the file, with its bucket empty."""
    app = room.guard(config=config)
    assert room.ask(app).status == 200
    yield app
    app.close()


def test_the_file_says_it_and_changes_while_it_runs(room: Room, config: Path, guarded: Any) -> None:
    with resilience.load(config) as toolkit:
        for text, status, content_type in (
            ("", 429, "application/problem+json"),
            ("refusals: {quota_status: 503}\n", 503, "application/problem+json"),
            ("refusals: {quota_status: 420, body: none}\n", 420, None),
            ("refusals: {}\n", 429, "application/problem+json"),
        ):
            config.write_text(FILE + text, encoding="utf-8")
            toolkit.reload()
            found = room.ask(guarded)
            assert (found.status, found.headers.get("content-type")) == (status, content_type)


@pytest.mark.parametrize("make", [lambda path: path, resilience.load], ids=["path", "toolkit"])
def test_beside_a_file_there_are_no_settings_in_code(room: Room, config: Path, make: Callable[[Path], Any]) -> None:
    given = make(config)
    with pytest.raises(TypeError, match="refusals= goes with pipeline=; a configuration file has a section called refusals"):
        room.guard(config=given, refusals=SETTINGS)
    if given is not config:
        given.close()


# --- a function that has the last word ------------------------------------------------------------------------------------------


def envelope(refusal: Rejected, answer: Answer) -> Answer:
    """Errors as this service writes them."""
    error = {"code": refusal.reason, "policy": refusal.policy, "status": answer.status}
    return answer.with_body("application/json", json.dumps({"error": error}).encode())


def test_a_body_of_the_service_s_own(room: Room, config: Path) -> None:
    app = room.guard(config=config, answer=envelope)
    room.ask(app)
    found = room.ask(app)
    assert found.status == 429
    assert json.loads(found.body) == {"error": {"code": "quota", "policy": "one", "status": 429}}
    assert found.headers["content-type"] == "application/json"
    assert found.headers["content-length"] == str(len(found.body))
    assert {"retry-after", "ratelimit", "ratelimit-policy"} <= found.headers.keys()
    app.close()


@pytest.mark.parametrize("by", ["the middleware", "the framework"])
def test_so_for_refusals_that_leave_the_handler(room: Room, by: str) -> None:
    error = CircuitOpen("payments: open", policy="payments", reason="open")
    make = room.guard if by == "the middleware" else room.handling
    found = room.ask(make(error, pipeline=Pipeline("api"), answer=envelope, refusals=SETTINGS))
    assert (found.status, json.loads(found.body)["error"]["code"]) == (502, "open")


def test_whatever_it_makes_the_length_fits_the_body(room: Room) -> None:
    def careless(refusal: Rejected, answer: Answer) -> Answer:
        return Answer(418, (("X-Team", "payments"), ("Content-Length", "1"), ("Content-Type", "text/plain")), b"short and stout")

    found = room.ask(room.guard(CircuitOpen(policy="payments"), pipeline=Pipeline("api"), answer=careless))
    assert found == Response(418, {"content-type": "text/plain", "x-team": "payments", "content-length": "15"}, b"short and stout")


def _raises(refusal: Rejected, answer: Answer) -> Answer:
    raise LookupError("no template")


@pytest.mark.parametrize(("change", "told"), [(_raises, "failed"), (lambda refusal, answer: {"status": 200}, "makes no Answer")])
def test_one_that_fails_changes_nothing_and_is_told(room: Room, change: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    limiter = RateLimiter(1e-6, 1)
    app = room.guard(pipeline=Pipeline("api", limiter), answer=change)
    room.ask(app)
    with caplog.at_level(logging.ERROR):
        found = room.ask(app)
    assert (found.status, found.headers["content-type"]) == (429, "application/problem+json")
    assert told in caplog.text


def test_the_answer_to_a_head_request_has_no_body_over_wsgi() -> None:
    room = Room("wsgi")
    found = room.ask(room.guard(CircuitOpen(policy="payments"), pipeline=Pipeline("api"), answer=envelope), method="HEAD")
    assert (found.status, found.body) == (503, b"")
    assert int(found.headers["content-length"]) > 0
