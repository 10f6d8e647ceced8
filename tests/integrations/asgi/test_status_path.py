"""The status at a path: to those who have the token, whatever the limits say, and to nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

import resilience
from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Toolkit
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import answering, failing, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.server import serving

PATH = "/-/resilience"
TOKEN = "a-token-of-the-operator"
BEARER = f"Bearer {TOKEN}"
CONFIG = """\
version: 1
limiters:
  api: {rate: 1/h, burst: 1}
  spare: {rate: 5/s}
pipelines:
  api: [{limiter: api}]
routes:
  - {match: {path: "/**"}, pipeline: api}
"""


@pytest.fixture
def toolkit(tmp_path: Path) -> Iterator[Toolkit]:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    with resilience.load(path) as loaded:
        yield loaded


def guard(config: Any, app: Any = None, **options: Any) -> ResilienceMiddleware:
    """The middleware with a status path, around an application that must not be asked for it."""
    app = failing(AssertionError("the application was called")) if app is None else app
    return ResilienceMiddleware(app, config, **{"status_path": PATH, "status_token": TOKEN, **options})


def ask(app: Any, path: str = PATH, method: str = "GET", *, headers: list[tuple[bytes, bytes]] | None = None) -> Conversation:
    """One request for the status, with the token unless `headers` are given."""
    talk = Conversation(app, path, method=method)
    talk.scope["headers"] += [(b"authorization", BEARER.encode())] if headers is None else headers
    return run(talk.run())


# --- who is let in ----------------------------------------------------------------------------------------------------------


def test_with_the_token_it_is_the_status_of_the_toolkit(toolkit: Toolkit) -> None:
    talk = ask(guard(toolkit))
    assert talk.status == 200
    assert (talk.header("content-type"), talk.header("cache-control")) == ("application/json", "no-store")
    assert talk.header("content-length") == str(len(talk.body))
    shown, own = json.loads(talk.body), toolkit.status()
    for status in (shown, own):
        assert status.pop("age_s") >= 0
    assert shown == json.loads(json.dumps(own))
    assert set(shown["limiters"]) == {"api", "spare"}


UNAUTHORIZED = {
    "no header": [],
    "empty": [b""],
    "a wrong token": [b"Bearer another-token-of-same"],
    "a part of the token": [f"Bearer {TOKEN[:-1]}".encode()],
    "more than the token": [f"Bearer {TOKEN}x".encode()],
    "the scheme alone": [b"Bearer"],
    "the token alone": [TOKEN.encode()],
    "no space": [f"Bearer{TOKEN}".encode()],
    "another scheme": [f"Basic {TOKEN}".encode()],
    "a tab": [f"Bearer\t{TOKEN}".encode()],
    "the token twice in one": [f"{BEARER}, {BEARER}".encode()],
    "two headers": [BEARER.encode(), BEARER.encode()],
    "two headers, one of them wrong": [b"Bearer wrong", BEARER.encode()],
    "no text": [b"Bearer \xff\xfe\x00"],
    "no text at all": [b"\xff\xfe\x80\x81"],
    "UTF-8": ["Bearer ä-tökên-of-the-operator".encode()],
    "very long": [b"Bearer " + b"x" * 60_000],
}


@pytest.mark.parametrize("case", UNAUTHORIZED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_without_it_there_is_one_answer_whatever_is_wrong(toolkit: Toolkit, case: str, method: str) -> None:
    talk = ask(guard(toolkit), method=method, headers=[(b"authorization", value) for value in UNAUTHORIZED[case]])
    assert talk.status == 401
    assert talk.header("www-authenticate") == 'Bearer realm="resilience"'
    assert talk.header("cache-control") == "no-store"
    assert talk.header("content-type") == "application/problem+json"
    body = b"" if method == "HEAD" else b'{\n  "type": "about:blank",\n  "title": "Unauthorized",\n  "status": 401\n}\n'
    assert talk.body == body


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"Authorization", b"x"]), st.binary(max_size=40)), max_size=3))
def test_no_header_makes_an_error(headers: list[tuple[bytes, bytes]]) -> None:
    app = guard(None, pipeline=Pipeline("api"))
    assert ask(app, headers=headers).status == 401


@pytest.mark.parametrize("name", [b"authorization", b"Authorization"])
@pytest.mark.parametrize("value", [BEARER, f"bearer {TOKEN}", f"BEARER   {TOKEN}", f"Bearer {TOKEN} "])
def test_spelling_of_header_and_scheme_is_free(toolkit: Toolkit, name: bytes, value: str) -> None:
    assert ask(guard(toolkit), headers=[(name, value.encode())]).status == 200


def test_head_is_get_without_the_body(toolkit: Toolkit) -> None:
    app = guard(None, pipeline=Pipeline("api", Deadline(5.0, name="api")))
    get, head = ask(app), ask(app, method="HEAD")
    assert (head.status, head.body, head.is_complete) == (200, b"", True)
    assert head.headers == get.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "BREW"])
def test_another_method_is_told_what_is_allowed(toolkit: Toolkit, method: str) -> None:
    talk = ask(guard(toolkit), method=method)
    assert (talk.status, talk.header("allow"), talk.header("cache-control")) == (405, "GET, HEAD", "no-store")
    assert json.loads(talk.body) == {"type": "about:blank", "title": "Method Not Allowed", "status": 405}


# --- where it is ------------------------------------------------------------------------------------------------------------


def test_it_is_off_by_default(toolkit: Toolkit) -> None:
    app = ResilienceMiddleware(answering(body=b"mine"), toolkit)
    assert ask(app).body == b"mine"


@pytest.mark.parametrize("path", [f"{PATH}/", f"{PATH}/x", "/-/Resilience", "//-/resilience", "/", "/x"])
def test_other_paths_are_the_application_s(toolkit: Toolkit, path: str) -> None:
    assert ask(guard(toolkit, answering(body=b"mine")), path).body == b"mine"


@pytest.mark.parametrize(
    ("path", "root_path", "is_status"),
    [
        ("/api/-/resilience", "/api", True),  # as servers and mounts hand it over
        ("/-/resilience", "/api", True),  # as FastAPI(root_path=...) does behind a proxy that has taken it off
        ("/api/-/resilience", "/api/", True),
        ("/api/-/resilience", "", False),
        ("/apis/-/resilience", "/api", False),
    ],
)
def test_it_is_within_the_application(toolkit: Toolkit, path: str, root_path: str, is_status: bool) -> None:
    talk = Conversation(guard(toolkit, answering(body=b"mine")), path, headers=[("authorization", BEARER)])
    talk.scope["root_path"] = root_path
    run(talk.run())
    assert (talk.body != b"mine") == is_status


@pytest.mark.parametrize("headers", [[], [("authorization", BEARER)]])
@pytest.mark.parametrize("root_path", ["", "/api"])
def test_a_websocket_of_that_path_does_not_reach_the_application(
    toolkit: Toolkit, headers: list[tuple[str, str]], root_path: str
) -> None:
    before = toolkit.status()["limiters"]["api"]
    talks = [
        Conversation(guard(toolkit), f"{root_path}{PATH}", kind="websocket", headers=headers, extensions=extensions)
        for extensions in ((), ("websocket.http.response",))
    ]
    for talk in talks:
        talk.scope["root_path"] = root_path
        run(talk.run())
        assert talk.incoming.empty()
    closed, denied = talks
    assert closed.sent == [{"type": "websocket.close", "code": 1008, "reason": "no websocket here"}]
    assert (denied.status, denied.header("content-type"), denied.is_complete) == (404, "application/problem+json", True)
    assert denied.sent[0]["type"] == "websocket.http.response.start"
    assert json.loads(denied.body) == {"type": "about:blank", "title": "Not Found", "status": 404}
    assert toolkit.status()["limiters"]["api"] == before


def test_other_websockets_are_the_application_s(toolkit: Toolkit) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    talk = run(Conversation(guard(toolkit, app), f"{PATH}/x", kind="websocket").run())
    assert [message["type"] for message in talk.sent] == ["websocket.accept"]


# --- what it shows, and what it costs ---------------------------------------------------------------------------------------


def test_it_answers_while_every_limit_is_used_up_and_is_not_counted(toolkit: Toolkit) -> None:
    app = guard(toolkit, answering())
    assert [ask(app, "/x").status for _ in range(3)] == [200, 429, 429]
    before = toolkit.status()["limiters"]["api"]
    shown = [ask(app), ask(app), ask(app, headers=[]), ask(app, method="POST")]
    assert [talk.status for talk in shown] == [200, 200, 401, 405]
    assert [talk.header("retry-after") for talk in shown] == [None] * 4
    assert toolkit.status()["limiters"]["api"] == before
    assert (before["admitted"], before["rejected"], before["remaining"]) == (1, 2, 0)
    assert json.loads(shown[0].body)["limiters"]["api"] == before


def test_a_bad_file_shows_with_line_and_column_and_the_old_limits(toolkit: Toolkit) -> None:
    app = guard(toolkit)
    Path(toolkit.path).write_text(CONFIG.replace("rate: 1/h", "rate: 1/d"), encoding="utf-8")
    with pytest.raises(resilience.ConfigError):
        toolkit.reload()
    shown = json.loads(ask(app).body)
    assert shown["last_error"].startswith(f"{toolkit.path}:3:15: limiters.api.rate: must be a rate")
    assert shown["limiters"]["api"]["configured_rate_per_s"] == pytest.approx(1 / 3600)


def test_a_file_given_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    app = guard(path)
    try:
        assert json.loads(ask(app).body)["path"] == str(path)
    finally:
        app.close()


def test_one_pipeline_made_in_code_shows_its_policies_and_signals() -> None:
    health = HealthSignal(name="shop")
    pipeline = Pipeline(
        "api",
        Deadline(5.0, name="api"),
        RateLimiter(5.0, key="client_address", health=health, name="api"),
        RateLimiter(5.0, name="api"),
        CircuitBreaker(health=health, name="orders"),
    )
    shown = json.loads(ask(guard(None, pipeline=pipeline)).body)
    assert (shown["pipeline"], list(shown["health"]), list(shown["deadlines"])) == ("api", ["shop"], ["api"])
    assert (list(shown["limiters"]), list(shown["breakers"]), shown["retries"]) == (["api", "api'"], ["orders"], {})


def test_a_file_that_cannot_be_used_leaves_nothing_to_show(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = guard(tmp_path / "missing.yaml")
    with caplog.at_level(logging.ERROR, "resilience"):
        assert ask(app).status == 503
    assert TOKEN not in caplog.text


# --- what the constructor takes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "token", "message"),
    [
        (PATH, None, "status_path needs a status_token, or anybody could read it; make one with: python -c"),
        (None, TOKEN, "status_token needs a status_path, such as /-/resilience, at which the status is served"),
        (PATH, "", "status_token: must have at least 16 characters; make one with: python -c"),
        (PATH, "hunter2", "status_token: must have at least 16 characters"),
        (PATH, TOKEN[:15], "status_token: must have at least 16 characters"),
        (PATH, f"{TOKEN}\n", "status_token: must be printable ASCII without spaces, or no header can carry it; one that was read"),
        (PATH, f"two {TOKEN}", "status_token: must be printable ASCII"),
        (PATH, "tökên-of-the-operator", "status_token: must be printable ASCII"),
        ("", TOKEN, "status_path: must be a path such as /-/resilience, without query and fragment, got ''"),
        ("status", TOKEN, "status_path: must be a path"),
        ("/status?x", TOKEN, "status_path: must be a path"),
        ("/status#x", TOKEN, "status_path: must be a path"),
        ("/status\n", TOKEN, "status_path: must be a path"),
    ],
)
def test_it_refuses_what_would_not_be_safe(tmp_path: Path, path: str | None, token: str | None, message: str) -> None:
    file = tmp_path / "resilience.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        ResilienceMiddleware(answering(), file, status_path=path, status_token=token)
    assert str(caught.value).startswith(message)
    assert not token or token.strip() not in str(caught.value)


def test_a_token_of_the_shortest_length_will_do(toolkit: Toolkit) -> None:
    app = guard(toolkit, status_token=TOKEN[:16])
    assert ask(app, headers=[(b"authorization", f"Bearer {TOKEN[:16]}".encode())]).status == 200


def test_the_token_is_nowhere_to_be_seen(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        app = guard(toolkit)
        talks = [ask(app), ask(app, headers=[]), ask(app, method="POST")]
    seen = [repr(app), repr(vars(app)), caplog.text, *(repr(talk.sent) for talk in talks)]
    page = vars(app)["_page"]
    seen += [repr(page), str(page), *(repr(getattr(page, name)) for name in type(page).__slots__)]
    assert repr(page) == "StatusPage('/-/resilience')"
    assert not [text for text in seen if TOKEN in text]


# --- over real servers ------------------------------------------------------------------------------------------------------


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


def starlette(toolkit: Toolkit) -> Any:
    app = Starlette(routes=[Route("/{path:path}", hello, methods=["GET", "POST"])])
    app.add_middleware(ResilienceMiddleware, config=toolkit, status_path=PATH, status_token=TOKEN)
    return app


def mounted(toolkit: Toolkit) -> Any:
    return Starlette(routes=[Mount("/api", starlette(toolkit))])


def bare(toolkit: Toolkit) -> Any:
    return with_lifespan(guard(toolkit, with_lifespan(answering())))


@pytest.mark.parametrize(("make", "path"), [(starlette, PATH), (mounted, f"/api{PATH}"), (bare, PATH)])
def test_over_a_real_server(toolkit: Toolkit, make: Callable[[Toolkit], Any], path: str) -> None:
    with serving(make(toolkit)) as server, server.client() as client:
        token = {"authorization": BEARER}
        page = client.get(f"{path}?pretty", headers=token)
        assert (page.status_code, page.json()["version"]) == (200, 1)
        head = client.head(path, headers=token)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 100
        assert client.get(path).status_code == 401
        assert client.get(path, headers=[("authorization", BEARER), ("authorization", BEARER)]).status_code == 401
        assert client.post(path, headers=token, content=b"x" * 100_000).status_code == 405
        assert client.get(path, headers=token).status_code == 200  # the connection is as good as before


def test_raw_bytes_in_the_header_are_no_error_of_the_server(toolkit: Toolkit) -> None:
    with serving(starlette(toolkit)) as server, server.socket() as connection:
        connection.sendall(
            f"GET {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: ".encode() + b"Bearer \xff\xfe\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_many_ask_at_once_while_the_file_is_read_anew(toolkit: Toolkit) -> None:
    app = guard(toolkit)

    async def scenario() -> list[Conversation]:
        talks = [Conversation(app, PATH, headers=[("authorization", BEARER)]).start() for _ in range(50)]
        toolkit.reload()
        await asyncio.gather(*(talk.task for talk in talks))
        return talks

    versions = {json.loads(talk.body)["version"] for talk in run(scenario())}
    assert versions == {2}
