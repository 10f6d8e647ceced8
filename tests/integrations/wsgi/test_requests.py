"""What is read from the environment: paths for the routes, addresses and headers for the keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience import CircuitBreaker, Deadline, Pipeline, RateLimiter, current_call, tracing
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.integrations.wsgi.request import RequestCall, environ_key, own_path
from resilience.testing import ManualClock, nothing_leaks
from tests.integrations.wsgi.apps import answering
from tests.integrations.wsgi.conversation import Conversation


def as_servers_do(path: str) -> str:
    """PATH_INFO of a path: its bytes as if they were Latin-1 (PEP 3333, "Unicode Issues")."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


@pytest.mark.parametrize(
    ("path_info", "path"),
    [
        ("/orders", "/orders"),
        ("", ""),
        (as_servers_do("/bücher"), "/bücher"),
        (as_servers_do("/支払い/7"), "/支払い/7"),
        ("/orders/a/b", "/orders/a/b"),  # of /orders/a%2Fb: servers decode it, and frameworks route by the same
        ("/%2e%2e", "/%2e%2e"),  # of /%252e%252e
        ("/\xff\xfe", "/\ufffd\ufffd"),
        ("/支払い", "/支払い"),  # of a server that does not know PEP 3333
        ("/\x00", "/\x00"),
    ],
)
def test_the_path_is_text(path_info: str, path: str) -> None:
    assert own_path({"PATH_INFO": path_info}) == path
    assert own_path({}) == ""


FILE = """\
version: 1
limiters: {one: {rate: 1/h, burst: 1}}
pipelines: {one: [{limiter: one}]}
routes:
  - {match: {path: /bücher, methods: [GET]}, pipeline: one}
  - {match: {path: "/orders/**"}, pipeline: one}
  - {match: {path: "/**"}, pipeline: none}
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "resilience.yaml"
    path.write_text(FILE, encoding="utf-8")
    middleware = ResilienceMiddleware(answering(), config=path)
    yield middleware
    middleware.close()


@pytest.mark.parametrize(
    ("request_line", "guarded"),
    [
        ({"path": as_servers_do("/bücher")}, True),
        ({"path": as_servers_do("/bücher"), "method": "POST"}, False),
        ({"path": "/orders"}, True),
        ({"path": "/orders/7"}, True),
        ({"path": "/orders", "environ": {"SCRIPT_NAME": "/shop"}}, True),
        ({"path": "", "environ": {"SCRIPT_NAME": "/orders"}}, False),
        ({"path": "/7", "environ": {"SCRIPT_NAME": "/orders"}}, False),
        ({"path": "/shop/orders"}, False),
    ],
)
def test_routes_go_by_the_path_within_the_application(app: Any, request_line: dict[str, Any], guarded: bool) -> None:
    statuses = [Conversation(app, **request_line).run().status for _ in range(2)]
    assert statuses == ([200, 429] if guarded else [200, 200])


def limited(key: str, **options: Any) -> Any:
    """One request for each key."""
    limiter = RateLimiter(0.001, 1, key=key, clock=ManualClock(), **options)
    return ResilienceMiddleware(answering(), pipeline=Pipeline("api", limiter))


def test_each_address_has_a_limit_of_its_own() -> None:
    app = limited("client_address")
    for client in ("203.0.113.7", "203.0.113.8", "2001:db8::1"):
        assert [Conversation(app, client=client).run().status for _ in range(2)] == [200, 429]
    assert Conversation(app, client="2001:db8::2").run().status == 429  # of the same /64
    assert Conversation(app, client="::ffff:203.0.113.7").run().status == 429


@pytest.mark.parametrize("absent", [{"client": None}, {"client": ""}, {"client": "not an address"}])
def test_requests_of_unknown_address_share_one_limit(absent: dict[str, Any]) -> None:
    app = limited("client_address")
    assert [Conversation(app, **absent).run().status for _ in range(2)] == [200, 429]


def test_behind_a_trusted_proxy_the_rightmost_address_that_is_none_counts() -> None:
    app = limited("client_address", trusted_proxies=("10.0.0.0/8",))

    def ask(client: str, *forwarded: str) -> int | None:
        return Conversation(app, client=client, headers=[("x-forwarded-for", value) for value in forwarded]).run().status

    assert ask("10.0.0.1", "203.0.113.7") == 200
    for lie in range(5):  # whatever the client puts before it
        assert ask("10.0.0.1", f"198.51.100.{lie}, 203.0.113.7", "10.0.0.2") == 429
        assert ask("10.0.0.1", f"198.51.100.{lie}", "203.0.113.7") == 429
    assert ask("203.0.113.7", "198.51.100.1") == 429  # no proxy: what it says does not count
    assert ask("10.0.0.1", "203.0.113.8") == 200


@pytest.mark.parametrize("name", ["x-api-key", "content-type", "Content-Length", "user_agent"])
def test_a_header_is_found_where_servers_put_it(name: str) -> None:
    call = RequestCall({environ_key(name): "a"})
    assert call.headers(name.lower()) == ["a"]
    assert call.headers("x-absent") == []


def test_where_content_type_and_length_are() -> None:
    assert [environ_key(name) for name in ("content-type", "content-length", "x-api-key")] == [
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "HTTP_X_API_KEY",
    ]


def test_a_header_is_a_key_and_one_that_came_twice_is_another() -> None:
    app = limited("header:x-api-key")

    def ask(*values: str) -> int | None:
        return Conversation(app, headers=[("x-api-key", value) for value in values]).run().status

    for values in ((), ("a",), ("b",), ("a", "b")):
        assert [ask(*values), ask(*values)] == [200, 429]


def test_what_a_call_tells_of_itself() -> None:
    call = RequestCall(Conversation(None, method="PUT", headers=[("traceparent", "00-1-2-01"), ("x-a", "1")]).environ)
    assert (call.name, call.host(), call.method(), call.peer()) == ("the request", "127.0.0.1", "PUT", "127.0.0.1")
    assert call.carrier == {"host": "127.0.0.1", "traceparent": "00-1-2-01", "x-a": "1"}


TEXT = st.text(st.characters(max_codepoint=255), max_size=40)
READ = ["GRPC_TIMEOUT", "X_ENVOY_EXPECTED_RQ_TIMEOUT_MS", "CONNECT_TIMEOUT_MS", "X_RETRY_ATTEMPT", "X_FORWARDED_FOR", "TRACEPARENT"]
VALUE = st.one_of(TEXT, st.sampled_from(["1S", "0m", "99999999H", "100", "1, 2", "10.2.2.2, 6.6.6.6", "unknown", "[::1%eth0]:4"]))
HEADERS = st.dictionaries(st.sampled_from([f"HTTP_{name}" for name in READ]), VALUE)
ENVIRON = st.fixed_dictionaries(
    {"PATH_INFO": TEXT, "REQUEST_METHOD": st.one_of(st.sampled_from(["GET", "HEAD"]), TEXT)},
    optional={"REMOTE_ADDR": st.one_of(TEXT, st.sampled_from(["10.1.1.1", "::1", "10.1.1.1:4"])), "SCRIPT_NAME": TEXT},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(ENVIRON, HEADERS), min_size=1, max_size=4))
def test_any_request_is_passed_on_or_refused_in_good_form(requests: list[tuple[dict[str, str], dict[str, str]]]) -> None:
    clock = ManualClock()
    limiter = RateLimiter(0.5, 2, key="client_address", trusted_proxies=("10.0.0.0/8",), fields="always", name="ä\r\n", clock=clock)
    pipeline = Pipeline("api", Deadline(5.0, 60.0, clock=clock), limiter, CircuitBreaker(clock=clock))
    app = ResilienceMiddleware(answering(), pipeline=pipeline)
    with nothing_leaks():
        for environ, headers in requests:
            talk = Conversation(app, validated=False, environ=environ | headers).run()
            assert talk.status in (200, 429, 504)
            if talk.status != 200:
                assert talk.content == b"" if environ["REQUEST_METHOD"] == "HEAD" else json.loads(talk.content)
            if talk.status != 504:
                assert http_sf.parse((talk.header("ratelimit") or "").encode(), tltype="list")


def test_where_nobody_can_say_whether_to_record_it_the_request_fails_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(pipeline: str, call: object) -> None:
        raise LookupError("a propagator of the user's")

    monkeypatch.setattr(tracing, "begin", begin)
    app = limited("client_address")
    with pytest.raises(LookupError, match="a propagator"):
        Conversation(app).run()


@pytest.mark.parametrize(("headers", "attempts"), [([], [0, 0, 0]), ([("x-retry-attempt", "2")], [2, 2, 2])])
def test_a_handler_knows_which_try_it_serves_and_so_do_its_calls(headers: list[tuple[str, str]], attempts: list[int]) -> None:
    told: list[int] = []

    def tell() -> None:
        call = current_call()
        told.append(-1 if call is None else call.attempt)

    def app(environ: Any, start_response: Any) -> Any:
        tell()
        Pipeline("stock", CircuitBreaker()).call(tell)
        tell()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    guarded = ResilienceMiddleware(app, pipeline=Pipeline("api", Deadline(default_s=5.0)))
    assert Conversation(guarded, headers=headers).run().status == 200
    assert told == attempts
