"""What a refused client gets: the statuses, headers and problem documents of RFC 9457, and the RateLimit fields."""

from __future__ import annotations

import json
from typing import Any

import http_sf
import pytest

from resilience import Pipeline, RateLimiter
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.wsgi.apps import Bench, answering
from tests.integrations.wsgi.conversation import Conversation

TYPES = "https://iana.org/assignments/http-problem-types#"


def problem(talk: Conversation) -> dict[str, Any]:
    """The problem document of a refusal, which must be whole."""
    assert talk.header("content-type") == "application/problem+json"
    assert talk.header("content-length") == str(len(talk.content))
    document = json.loads(talk.content)
    assert document["status"] == talk.status
    assert isinstance(document, dict)
    return document


def field(talk: Conversation, name: str) -> list[tuple[str, dict[str, int]]]:
    """A field's members with their parameters, as a parser of structured fields (RFC 9651) reads them."""
    value = talk.header(name)
    assert value is not None
    members: Any = http_sf.parse(value.encode(), tltype="list")
    return [(member, dict(parameters)) for member, parameters in members]


def retry_after(talk: Conversation) -> int:
    """Whole seconds."""
    value = talk.header("retry-after")
    assert value is not None
    return int(value)


def refused(bench: Bench, **options: Any) -> Conversation:
    """A request whose application is not called."""
    called: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        called.append(environ)
        return answering()(environ, start_response)

    talk = Conversation(bench.guard(app), **options).run()
    assert called == []
    assert talk.starts == 1
    return talk


def test_a_request_that_is_admitted_reaches_the_handler_and_is_not_changed() -> None:
    talk = Conversation(Bench().guard(answering("201 Created"))).run()
    assert talk.head == ("201 Created", [("content-type", "text/plain")])
    assert talk.content == b"hello"


def test_over_the_quota_is_429_with_the_rate_limit_fields() -> None:
    bench = Bench(rate_per_s=0.1, burst=20)
    bench.limiter.state.take(None, 20, bench.clock.now_us())
    bench.clock.advance(3.5)
    talk = refused(bench)
    document = problem(talk)
    assert talk.status == 429
    assert document["type"] == f"{TYPES}quota-exceeded"
    assert document["violated-policies"] == ["api"]
    assert field(talk, "ratelimit-policy") == [("api", {"q": 20, "w": 200})]
    assert field(talk, "ratelimit") == [("api", {"r": 0, "t": 7})]  # the next token is due in 6.5 s
    assert 7 <= retry_after(talk) <= 9


def test_over_the_reduced_limit_is_429_of_another_type_and_a_lower_q() -> None:
    bench = Bench(rate_per_s=10.0, burst=20)
    bench.open_breaker()
    bench.limiter.state.take(None, 6, bench.clock.now_us())
    talk = refused(bench)
    assert talk.status == 429
    assert problem(talk)["type"] == f"{TYPES}temporary-reduced-capacity"
    assert field(talk, "ratelimit-policy") == [("api", {"q": 6, "w": 2})]
    assert field(talk, "ratelimit") == [("api", {"r": 0, "t": 1})]


def test_the_reduced_limit_can_answer_503() -> None:
    bench = Bench(rate_per_s=10.0, burst=20, status=503)
    bench.open_breaker()
    bench.limiter.state.take(None, 6, bench.clock.now_us())
    talk = refused(bench)
    assert talk.head is not None
    assert talk.head[0] == "503 Service Unavailable"
    assert problem(talk)["type"] == f"{TYPES}temporary-reduced-capacity"


def test_an_open_breaker_is_503_with_the_time_it_stays_open() -> None:
    bench = Bench()
    bench.open_breaker()
    bench.clock.advance(9.5)
    talk = refused(bench)
    document = problem(talk)
    assert (talk.status, document["type"], document["reason"]) == (503, "about:blank", "open")
    assert 21 <= retry_after(talk) <= 25  # 20.5 s rounded up, and up to a fifth more
    assert talk.header("ratelimit") is None


def test_an_expired_deadline_is_504_and_the_handler_is_not_called() -> None:
    talk = refused(Bench(), headers=[("grpc-timeout", "0m")])
    document = problem(talk)
    assert (talk.status, document["type"], document["title"]) == (504, "about:blank", "Gateway Timeout")
    assert document["reason"] == "expired_on_arrival"
    assert talk.header("retry-after") is None


def test_a_head_request_is_refused_without_a_body() -> None:
    bench = Bench()
    bench.open_breaker()
    talk = refused(bench, method="HEAD")
    assert (talk.status, talk.content) == (503, b"")
    assert int(talk.header("content-length") or 0) > 100  # of the body that GET would get


@pytest.mark.parametrize(
    ("fields", "admitted", "refusal"), [("always", True, True), ("refused", False, True), ("never", False, False)]
)
def test_when_the_fields_are_sent(fields: str, admitted: bool, refusal: bool) -> None:
    bench = Bench(rate_per_s=0.1, burst=1, fields=fields)
    for sent in (admitted, refusal):
        talk = Conversation(bench.guard(answering())).run()
        assert (talk.header("ratelimit") is not None) == sent
        assert (talk.header("ratelimit-policy") is not None) == sent
        if sent:
            assert field(talk, "ratelimit") == [("api", {"r": 0, "t": 10})]
    assert talk.status == 429


def test_the_fields_of_several_limiters_are_one_list() -> None:
    clock = ManualClock()
    limiters = (
        RateLimiter(10.0, 20, key="client_address", fields="always", name='per "client"', clock=clock),
        RateLimiter(100.0, 200, fields="always", name="api", clock=clock),
    )
    talk = Conversation(ResilienceMiddleware(answering(), pipeline=Pipeline("api", *limiters))).run()
    assert field(talk, "ratelimit-policy") == [('per "client"', {"q": 20, "w": 2}), ("api", {"q": 200, "w": 2})]
    assert field(talk, "ratelimit") == [('per "client"', {"r": 19, "t": 1}), ("api", {"r": 199, "t": 1})]


def test_the_fields_tell_what_is_left_when_the_response_begins() -> None:
    bench = Bench(rate_per_s=1.0, burst=10, fields="always")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-type", "text/plain")])
        bench.limiter.state.take(None, 5, bench.clock.now_us())  # others, meanwhile
        yield b"hello"

    assert field(Conversation(bench.guard(app)).run(), "ratelimit") == [("api", {"r": 4, "t": 1})]
