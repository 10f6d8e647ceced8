"""What a refused client gets, over a real server: the statuses, headers and problem documents of RFC 9457."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from tests.integrations.asgi.apps import Bench, answering, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.server import received, serving

TYPES = "https://iana.org/assignments/http-problem-types#"


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a refusal, which must be whole."""
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["content-length"]) == len(response.content)
    document = response.json()
    assert document["status"] == response.status_code
    assert isinstance(document, dict)
    return document


def policy(response: httpx.Response) -> tuple[str, int, int]:
    """Name, q and w of the one policy in RateLimit-Policy."""
    name, q, w = response.headers["ratelimit-policy"].split(";")
    return name, int(q.removeprefix("q=")), int(w.removeprefix("w="))


def limit(response: httpx.Response) -> tuple[str, int, int]:
    """Name, r and t of the one limit in RateLimit."""
    name, r, t = response.headers["ratelimit"].split(";")
    return name, int(r.removeprefix("r=")), int(t.removeprefix("t="))


def test_a_request_that_is_admitted_reaches_the_handler_and_is_not_changed() -> None:
    bench = Bench()
    with serving(bench.guard(with_lifespan(answering(201)))) as server:
        response = server.get("/orders")
    assert (response.status_code, response.text) == (201, "hello")
    assert set(response.headers) == {"content-type", "date", "server", "transfer-encoding"}


def test_over_the_quota_is_429_with_the_rate_limit_fields() -> None:
    bench = Bench(rate_per_s=0.1, burst=20)
    bench.limiter.state.take(None, 20, bench.clock.now_us())
    bench.clock.advance(3.5)
    with serving(bench.guard(with_lifespan(answering()))) as server:
        response = server.get("/orders")
    document = problem(response)
    assert response.status_code == 429
    assert document["type"] == f"{TYPES}quota-exceeded"
    assert document["violated-policies"] == ["api"]
    assert document["reason"] == "quota"
    assert policy(response) == ('"api"', 20, 200)
    assert limit(response) == ('"api"', 0, 7)  # the next token is due in 6.5 s
    assert 7 <= int(response.headers["retry-after"]) <= 9


def test_over_the_reduced_limit_is_429_of_another_type_and_a_lower_q() -> None:
    bench = Bench(rate_per_s=10.0, burst=20)
    bench.open_breaker()
    bench.limiter.state.take(None, 6, bench.clock.now_us())
    with serving(bench.guard(with_lifespan(answering()))) as server:
        response = server.get("/orders")
    document = problem(response)
    assert response.status_code == 429
    assert document["type"] == f"{TYPES}temporary-reduced-capacity"
    assert document["reason"] == "cut"
    assert policy(response) == ('"api"', 6, 2)  # 30 % of 20, at 30 % of 10/s
    assert limit(response) == ('"api"', 0, 1)
    assert int(response.headers["retry-after"]) >= 1


def test_the_reduced_limit_can_answer_503() -> None:
    bench = Bench(rate_per_s=10.0, burst=20, status=503)
    bench.limiter.state.take(None, 20, bench.clock.now_us())
    with serving(bench.guard(with_lifespan(answering()))) as server:
        assert server.get("/orders").status_code == 429  # over the client's own limit it stays 429
        bench.open_breaker()
        response = server.get("/orders")
    assert response.status_code == 503
    assert problem(response)["type"] == f"{TYPES}temporary-reduced-capacity"


def test_an_open_breaker_is_503_with_the_time_it_stays_open() -> None:
    bench = Bench()
    bench.open_breaker()
    bench.clock.advance(9.5)
    with serving(bench.guard(with_lifespan(answering()))) as server:
        response = server.get("/orders")
    document = problem(response)
    assert response.status_code == 503
    assert document["type"] == "about:blank"
    assert document["title"] == "Service Unavailable"
    assert document["reason"] == "open"
    assert 21 <= int(response.headers["retry-after"]) <= 25  # 20.5 s rounded up, and up to a fifth more
    assert "ratelimit" not in response.headers


def test_a_breaker_held_open_gives_no_time() -> None:
    bench = Bench()
    bench.breaker.force("open")
    with serving(bench.guard(with_lifespan(answering()))) as server:
        response = server.get("/orders")
    assert (response.status_code, problem(response)["reason"]) == (503, "forced")
    assert "retry-after" not in response.headers


def test_an_expired_deadline_is_504_and_the_handler_is_not_called() -> None:
    bench, called = Bench(), []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["path"])

    with serving(bench.guard(with_lifespan(handler))) as server:
        response = server.get("/orders", grpc_timeout="0m")
    document = problem(response)
    assert (response.status_code, document["type"], document["title"]) == (504, "about:blank", "Gateway Timeout")
    assert document["reason"] == "expired_on_arrival"
    assert "retry-after" not in response.headers
    assert called == []


def test_a_cost_above_the_burst_gives_no_retry_after() -> None:
    bench = Bench(burst=5, cost=6)
    with serving(bench.guard(with_lifespan(answering()))) as server:
        response = server.get("/orders")
    assert response.status_code == 429
    assert "retry-after" not in response.headers
    assert limit(response) == ('"api"', 5, 1)


def test_a_head_request_is_refused_without_a_body() -> None:
    bench = Bench()
    bench.open_breaker()
    with serving(bench.guard(with_lifespan(answering()))) as server, server.socket("HEAD / HTTP/1.0\nhost: x\n") as raw:
        head, _, body = received(raw).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert body == b""


def test_the_connection_of_a_refused_upload_serves_the_next_request() -> None:
    bench = Bench(burst=1, rate_per_s=0.001)
    with serving(bench.guard(with_lifespan(answering()))) as server, httpx.Client(base_url=server.url) as client:
        statuses = [client.post("/", content=b"x" * 200_000).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]


@pytest.mark.parametrize("wait_s", [0.25, 1.0, 2.000001, 59.0, 60.0, 3600.5])
def test_retry_after_is_whole_seconds_and_never_earlier_than_the_field(wait_s: float) -> None:
    bench = Bench(rate_per_s=1 / wait_s, burst=1)
    bench.limiter.state.take(None, 1, bench.clock.now_us())

    async def scenario() -> None:
        for _ in range(50):
            talk = await Conversation(bench.guard(answering())).run()
            retry_after, field = talk.header("retry-after"), talk.header("ratelimit")
            assert retry_after is not None
            assert field is not None
            t = int(field.rpartition("t=")[2])
            assert math.ceil(wait_s - 1e-6) <= t <= int(retry_after) <= t + max(1, t // 5)

    run(scenario())


def test_retry_after_is_not_earlier_than_the_field_where_the_cost_exceeds_the_reduced_bucket() -> None:
    bench = Bench(rate_per_s=0.1, burst=20, cost=10)
    bench.open_breaker()  # leaves a bucket of 6

    async def scenario() -> None:
        talk = await Conversation(bench.guard(answering())).run()
        assert json.loads(talk.body)["reason"] == "cut"
        retry_after, field = talk.header("retry-after"), talk.header("ratelimit")
        assert retry_after is not None
        assert field is not None
        assert int(retry_after) >= int(field.rpartition("t=")[2])
        assert int(retry_after) >= 60  # one step of recovery

    run(scenario())


def test_a_limiter_that_says_never_sends_no_fields() -> None:
    bench = Bench(rate_per_s=0.1, burst=1, fields="never")
    bench.limiter.state.take(None, 1, bench.clock.now_us())

    async def scenario() -> None:
        talk = await Conversation(bench.guard(answering())).run()
        assert talk.status == 429
        assert talk.header("retry-after") is not None
        assert talk.header("ratelimit") is None
        assert talk.header("ratelimit-policy") is None

    run(scenario())
