"""Where an integration finds the pipeline of a request."""

from __future__ import annotations

from pathlib import Path

import pytest

import resilience
from resilience import CircuitBreaker, ConfigError, Deadline, Pipeline, RateLimiter, Retry
from resilience.edges import Guarded, open_source

CONFIG = """\
version: 1
deadlines:
  api: {default: 5s, read: [grpc-timeout], streams: true}
limiters:
  shown: {rate: 10/s, fields: always}
  quiet: {rate: 10/s}
breakers:
  slow: {slow_call: 1s}
pipelines:
  api: [{deadline: api}, {limiter: shown}, {limiter: quiet}]
  slow: [{breaker: slow}]
routes:
  - {match: {path: /healthz}, pipeline: none}
  - {match: {path: /slow, methods: [POST]}, pipeline: slow}
  - {match: {path: "/orders/**"}, pipeline: api}
  - {match: {grpc: "/shop.v1.Admin/*"}, pipeline: none}
  - {match: {grpc: "/*/Get"}, pipeline: api}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of these tests."""
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_what_is_known_before_any_request_is_worked_out_once(config: Path) -> None:
    source, close = open_source(config, None)
    api, slow = source.find("GET", "/orders/1"), source.find("POST", "/slow")
    assert api is not None
    assert slow is not None
    assert api is source.find("POST", "/orders/2")
    assert api.inbound_headers == {b"grpc-timeout", b"x-retry-attempt"}
    assert api.streams_have_deadline
    assert [limiter.name for limiter in api.quota_limiters] == ["shown"]
    assert (api.times_start, slow.times_start) == (False, True)
    assert (slow.deadline, slow.inbound_headers, slow.streams_have_deadline) == (None, frozenset({b"x-retry-attempt"}), False)
    close()


def test_grpc_methods_have_routes_of_their_own(config: Path) -> None:
    source, close = open_source(config, None)
    assert source.find_grpc("/shop.v1.Orders/Get") is source.find("GET", "/orders/1")
    for method in ("/shop.v1.Admin/Get", "/shop.v1.Orders/Put", "/orders/1"):
        assert source.find_grpc(method) is None
    close()


def test_methods_are_remembered_up_to_a_bound_and_until_a_reload(config: Path) -> None:
    with resilience.load(config) as toolkit:
        source, _ = open_source(toolkit, None)
        guarded = source.find_grpc("/shop.v1.Orders/Get")
        for number in range(3_000):
            assert source.find_grpc(f"/made{number}.Up/Get") is guarded
            assert source.find_grpc(f"/made{number}.Up/{'x' * 300}") is None
        remembered = source._by_method[1]  # type: ignore[attr-defined]  # how much it is shows in no answer
        assert 0 < len(remembered) <= 1_024
        assert max(map(len, remembered)) <= 256
        config.write_text(CONFIG.replace('"/*/Get"', '"/*/Put"'), encoding="utf-8")
        toolkit.reload()
        assert source.find_grpc("/shop.v1.Orders/Get") is None
        assert source.find_grpc("/shop.v1.Orders/Put") is not None


@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("GET", "/slow"), ("GET", "/"), ("GET", "/elsewhere")])
def test_what_no_route_guards_is_not_guarded(config: Path, method: str, path: str) -> None:
    source, close = open_source(config, None)
    assert source.find(method, path) is None
    close()


def test_routes_follow_a_reload_and_what_was_known_is_forgotten(config: Path) -> None:
    with resilience.load(config) as toolkit:
        source, _ = open_source(toolkit, None)
        before = source.find("GET", "/orders/1")
        config.write_text(
            CONFIG.replace("fields: always", "fields: never").replace('"/orders/**"', '"/bills/**"'), encoding="utf-8"
        )
        toolkit.reload()
        assert source.find("GET", "/orders/1") is None
        after = source.find("GET", "/bills/1")
        assert before is not None
        assert after is not None
        assert after is not before
        assert after.quota_limiters == ()
        assert after is source.find("GET", "/bills/2")


def test_what_paths_have_been_asked_for_is_remembered_in_bounds(config: Path) -> None:
    """Whoever asks for all paths there are must not fill the memory, nor find another pipeline than the first time."""
    with resilience.load(config) as toolkit:
        source, _ = open_source(toolkit, None)
        api = source.find("GET", "/orders/1")
        for number in range(5_000):
            assert source.find("GET", f"/orders/{number}") is api
            assert source.find("GET", f"/elsewhere/{number}") is None
        assert source.find("GET", "/orders/" + "x" * 10_000) is api
        assert [source.find(method, "/slow") is None for method in ("GET", "POST", "GET", "POST")] == [True, False, True, False]
        _, found = source._found  # type: ignore[attr-defined]
        assert 0 < len(found) <= 1_024
        assert max(len(method) + len(path) for method, path in found) <= 128


def test_a_pipeline_made_in_code_guards_every_request() -> None:
    pipeline = Pipeline("api", Deadline(1.0), RateLimiter(1.0), CircuitBreaker(slow_call_s=1.0))
    source, close = open_source(None, pipeline)
    found = source.find("GET", "/")
    assert isinstance(found, Guarded)
    assert found is source.find("DELETE", "/anything")
    assert found.pipeline is pipeline
    assert found.times_start
    close()


def test_a_retry_cannot_guard_requests() -> None:
    with pytest.raises(ConfigError, match="pipeline 'api': has a retry, and a server's request cannot be run again"):
        open_source(None, Pipeline("api", Retry()))


def test_closing_gives_up_the_file_but_not_a_toolkit_of_the_caller_s(config: Path) -> None:
    _, close = open_source(config, None)
    with resilience.load(config) as toolkit:
        _, leave = open_source(toolkit, None)
        leave()
        close()
        with resilience.load(config) as same:
            assert same is toolkit
    with resilience.load(config) as fresh:
        assert fresh is not toolkit


def test_neither_or_both_is_a_mistake_of_the_program(config: Path) -> None:
    with pytest.raises(TypeError):
        open_source(None, None)
    with pytest.raises(TypeError):
        open_source(config, Pipeline("api"))


@pytest.mark.parametrize("routes", ["", "routes: []\n"])
def test_a_file_without_routes_guards_nothing_and_that_is_said(routes: str, config: Path, caplog: pytest.LogCaptureFixture) -> None:
    config.write_text(f"version: 1\n{routes}", encoding="utf-8")
    source, close = open_source(config, None)
    assert source.find("GET", "/") is None
    assert f"{config}: has no routes, so no request is guarded" in caplog.text
    close()


def test_a_file_that_cannot_be_used_says_where(config: Path) -> None:
    config.write_text(CONFIG.replace("5s", "5 parsecs"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"resilience\.yaml:3:18: deadlines\.api\.default: "):
        open_source(config, None)
