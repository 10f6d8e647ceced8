"""A configuration that cannot be used: the server does not start, or, where it cannot be told so, nobody is served unguarded."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from resilience import Deadline, Pipeline, Retry, load
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import answering
from tests.integrations.asgi.conversation import Conversation, Message, run
from tests.integrations.asgi.server import TIMEOUT_S, serving

ROOT = Path(__file__).resolve().parents[3]
GOOD = """\
version: 1
limiters:
  api: {rate: 1/m, burst: 2}
pipelines:
  api: [{limiter: api}]
routes:
  - {match: {path: /healthz}, pipeline: none}
  - {match: {path: "/orders/**"}, pipeline: api}
"""
BAD = GOOD.replace("rate: 1/m", "rate: 1/fortnight")
PROGRAM = """\
import sys
import uvicorn
from resilience.integrations.asgi import ResilienceMiddleware
from starlette.applications import Starlette

app = Starlette()
app.add_middleware(ResilienceMiddleware, config=sys.argv[1])
uvicorn.run(app, port=0, lifespan=sys.argv[2])
"""


async def hello(request: Request) -> Response:
    """Say hello."""
    return PlainTextResponse("hello")


def service(config: Path) -> Starlette:
    """A service guarded by the file at `config`."""
    app = Starlette(routes=[Route("/{path:path}", hello)])
    app.add_middleware(ResilienceMiddleware, config=config)
    return app


@pytest.mark.parametrize("lifespan", ["on", "auto"])
@pytest.mark.parametrize("kind", ["bad", "missing"])
def test_uvicorn_does_not_start_and_says_why(kind: str, lifespan: str, tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    if kind == "bad":
        config.write_text(BAD, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(config), lifespan],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 3  # uvicorn's status for a failed start
    wanted = f"{config}:3:15: limiters.api.rate: " if kind == "bad" else f"{config}: cannot be read: No such file"
    assert wanted in done.stderr
    assert "Application startup failed" in done.stderr
    assert "Uvicorn running" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["bad", "missing"])
def test_without_lifespan_every_request_is_answered_503_and_the_error_is_logged(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "resilience.yaml"
    if kind == "bad":
        config.write_text(BAD, encoding="utf-8")
    with serving(service(config), lifespan="off") as server, caplog.at_level(logging.ERROR, "resilience"):
        responses = [server.get(path) for path in ("/orders", "/healthz", "/elsewhere")]
    assert [response.status_code for response in responses] == [503, 503, 503]
    for response in responses:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == 503
        assert str(tmp_path) not in response.text  # what is wrong is nothing for the client to know
    logged = [record.getMessage() for record in caplog.records if record.name == "resilience"]
    assert logged
    assert all(str(config) in message for message in logged)


def test_a_websocket_is_closed_where_the_configuration_cannot_be_used(tmp_path: Path) -> None:
    app = ResilienceMiddleware(answering(), config=tmp_path / "missing.yaml")

    async def scenario() -> None:
        talk = await Conversation(app, kind="websocket").run()
        assert [message["type"] for message in talk.sent] == ["websocket.close"]
        assert talk.incoming.empty()

    run(scenario())


def test_a_websocket_is_answered_503_too_where_the_server_can(tmp_path: Path) -> None:
    app = ResilienceMiddleware(answering(), config=tmp_path / "missing.yaml")

    async def scenario() -> None:
        talk = await Conversation(app, kind="websocket", extensions=["websocket.http.response"]).run()
        assert [message["type"] for message in talk.sent] == ["websocket.http.response.start", "websocket.http.response.body"]
        assert talk.sent[0]["status"] == 503
        assert talk.incoming.empty()

    run(scenario())


def test_the_server_is_told_by_the_lifespan_protocol(tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    config.write_text(BAD, encoding="utf-8")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(ResilienceMiddleware(answering(), config=config)({"type": "lifespan"}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"].startswith(f"{config}:3:15: limiters.api.rate: ")


def test_a_good_file_guards_the_paths_that_it_names(tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    config.write_text(GOOD, encoding="utf-8")
    with serving(service(config)) as server:
        assert [server.get("/orders/1").status_code for _ in range(3)] == [200, 200, 429]
        assert [server.get("/healthz").status_code for _ in range(3)] == [200, 200, 200]
        assert [server.get("/elsewhere").status_code for _ in range(3)] == [200, 200, 200]
        with load(config) as toolkit:
            assert toolkit.status()["limiters"]["api"]["admitted"] == 2  # the file has one toolkit in this process


@pytest.mark.parametrize(
    ("path", "root_path", "statuses"),
    [
        ("/api/orders/1", "/api", [200, 200, 429]),  # as uvicorn does with --root-path, and Starlette with a mount
        ("/orders/1", "/api", [200, 200, 429]),  # as FastAPI(root_path=...) does behind a proxy that has taken it off
        ("/api/orders/1", "/api/", [200, 200, 429]),
        ("/api/orders/1", "", [200, 200, 200]),
        ("/apiorders/1", "/api", [200, 200, 200]),
        ("/api", "/api", [200, 200, 200]),
    ],
)
def test_routes_go_by_the_path_within_the_application(tmp_path: Path, path: str, root_path: str, statuses: list[int]) -> None:
    config = tmp_path / "resilience.yaml"
    config.write_text(GOOD, encoding="utf-8")
    with load(config) as toolkit:
        app = ResilienceMiddleware(answering(), config=toolkit)

        async def scenario() -> None:
            seen = []
            for _ in range(3):
                talk = Conversation(app, path)
                talk.scope["root_path"] = root_path
                seen.append((await talk.run()).status)
            assert seen == statuses

        run(scenario())


def test_a_toolkit_can_be_given_instead_of_a_path(tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    config.write_text(GOOD, encoding="utf-8")
    with load(config) as toolkit:
        app = ResilienceMiddleware(answering(), config=toolkit)

        async def scenario() -> None:
            statuses = [(await Conversation(app, "/orders").run()).status for _ in range(3)]
            assert statuses == [200, 200, 429]

        run(scenario())
        app.close()
        assert toolkit.pipeline("api").current is toolkit.resolve("api")


def test_a_middleware_that_is_closed_gives_its_file_up(tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    config.write_text(GOOD, encoding="utf-8")
    app = ResilienceMiddleware(answering(), config=config)
    with load(config) as first:
        assert first.status()["limiters"]["api"]["admitted"] == 0
        app.close()
        app.close()  # it gives up what it has itself, once
        with load(config) as same:
            assert same is first
    with load(config) as second:
        assert second is not first


def test_a_retry_cannot_guard_a_server(tmp_path: Path) -> None:
    pipeline = Pipeline("api", Deadline(1.0), Retry())
    app = ResilienceMiddleware(answering(), pipeline=pipeline)

    async def scenario() -> None:
        talk = await Conversation(app).run()
        assert (talk.status, json.loads(talk.body)["status"]) == (503, 503)

    run(scenario())


def test_exactly_one_source_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="either config="):
        ResilienceMiddleware(answering())
    with pytest.raises(TypeError, match="either config="):
        ResilienceMiddleware(answering(), config=tmp_path / "a.yaml", pipeline=Pipeline("api"))


def test_what_is_neither_http_nor_websocket_passes_through() -> None:
    seen: list[str] = []

    async def app(scope: Message, receive: object, send: object) -> None:
        seen.append(scope["type"])

    guarded = ResilienceMiddleware(app, pipeline=Pipeline("api"))
    asyncio.run(guarded({"type": "lifespan"}, None, None))
    asyncio.run(guarded({"type": "of the future"}, None, None))
    assert seen == ["lifespan", "of the future"]
