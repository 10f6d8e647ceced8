"""Any request is passed on or refused in good form: no exception of ours, no 500, no field that cannot be read."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.telemetry import spans
from resilience.testing import ManualClock, nothing_leaks

Headers = list[tuple[bytes, bytes]]

READ = [b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms", b"connect-timeout-ms", b"x-retry-attempt", b"x-forwarded-for"]
READ += [b"forwarded", b"x-api-key", b"host", b"traceparent", b"tracestate", b"baggage", b"content-type", b"accept"]
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VALUE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"1S", b"0m", b"99999999H", b"100", b"10.2.2.2, 6.6.6.6", b'for="[2001:db8::1]:4', b"2", TRACEPARENT, b"a=b"]),
    st.builds(lambda part, count: (part * count)[:10_240], st.binary(min_size=1, max_size=4), st.integers(1, 10_240)),
)
NAME = st.one_of(st.sampled_from(READ), st.binary(max_size=12).map(bytes.lower))
HEADERS: st.SearchStrategy[Headers] = st.lists(st.tuples(NAME, VALUE), max_size=8)
PEER = st.sampled_from(
    [None, ("10.1.1.1", 50_000), ("203.0.113.7", 0), ("2001:db8::1", 1), ("", 0), ("unix:", None), ("x" * 200, 1)]
)
SCOPE = st.fixed_dictionaries(
    {
        "method": st.one_of(st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]), st.text(max_size=8)),
        "path": st.one_of(st.just("/"), st.text(max_size=20)),
        "headers": HEADERS,
        "client": PEER,
    }
)
NAMES = st.one_of(
    st.sampled_from(['"', "\\", 'a\\"b', "zahlungen-ü", "\r\nset-cookie: x", "\x00", "\ud800", "支払い", ""]), st.text(max_size=20)
)


@pytest.fixture(autouse=True)
def _keeps_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Names drawn at random are no text that a report of tests can carry."""
    caplog.set_level(logging.CRITICAL, "resilience")


class Guard:
    """A service behind one of each layer, tuned so that all of them refuse now and then."""

    def __init__(self, name: str, rate_per_s: float, burst: int, key: str, status: int) -> None:
        self.name = name
        self.clock = clock = ManualClock()
        health = HealthSignal(clock=clock)
        self.pipeline = Pipeline(
            name,
            Deadline(5.0, 60.0, name=name, clock=clock),
            RateLimiter(rate_per_s, burst, key=key, trusted_proxies=("10.0.0.0/8",), fields="always", name=name, clock=clock),
            RateLimiter(rate_per_s, burst, fields="always", name=name, health=health, status=status, clock=clock),
            CircuitBreaker(min_calls=4, key="host", name=name, health=health, clock=clock),
        )
        self.app = ResilienceMiddleware(self.service, pipeline=self.pipeline)
        self.passed = 0

    async def service(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, 503 every other time."""
        self.passed += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 503 if self.passed % 2 else 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body"})

    async def ask(self, scope: dict[str, Any], kind: str = "http") -> list[dict[str, Any]]:
        """The answer to one request, message by message."""
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        extensions: dict[str, Any] = {"websocket.http.response": {}} if kind == "websocket" else {}
        await self.app({"type": kind, "http_version": "1.1", "extensions": extensions, **scope}, receive, send)
        return sent


GUARD = st.builds(
    Guard,
    name=NAMES,
    rate_per_s=st.floats(1e-9, 1e9),
    burst=st.one_of(st.integers(1, 5), st.integers(1, 1_000_000_000)),
    key=st.sampled_from(["client_address", "forwarded_address", "header:x-api-key", "host", "method"]),
    status=st.sampled_from([429, 503]),
)


def check(guard: Guard, sent: list[dict[str, Any]], passed: bool) -> None:
    """It was answered by the service or refused by us, and either is well formed."""
    start = sent[0]
    headers: dict[bytes, bytes] = dict(start.get("headers", ()))
    assert len(headers) == len(start.get("headers", ())), "no header is sent twice"
    for name, value in headers.items():
        assert name.isascii()
        assert name.islower()
        assert value.decode("ascii").isprintable(), "nothing that could end the line"
    if b"ratelimit" in headers:
        check_fields(guard.name, headers[b"ratelimit-policy"], headers[b"ratelimit"])
    if passed:
        assert headers.get(b"x-own") == b"1" or start["type"] == "websocket.accept"
        return
    assert start["status"] in (429, 503, 504)
    body = sent[1]["body"]
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["status"] == start["status"]
    if start["status"] == 429:
        assert b"ratelimit" in headers
    if b"retry-after" in headers and b"ratelimit" in headers:
        times: Any = http_sf.parse(headers[b"ratelimit"], tltype="list")
        assert int(headers[b"retry-after"]) >= min(parameters["t"] for _, parameters in times)


def check_fields(name: str, policy_field: bytes, limit_field: bytes) -> None:
    """Both are lists of strings with whole numbers, as RFC 9651 has them, and name the same policies."""
    policies: Any = http_sf.parse(policy_field, tltype="list")
    limits: Any = http_sf.parse(limit_field, tltype="list")
    shown = "".join(char if " " <= char <= "~" else "?" for char in name)
    assert {str(policy) for policy, _ in policies} == {shown}
    assert [policy for policy, _ in policies] == [policy for policy, _ in limits]
    for (_, quota), (_, left) in zip(policies, limits, strict=True):
        assert list(quota) == ["q", "w"]
        assert list(left) == ["r", "t"]
        assert all(type(number) is int for number in (*quota.values(), *left.values()))
        assert quota["q"] >= 1
        assert quota["w"] >= 1
        assert 0 <= left["r"] <= quota["q"]
        assert left["t"] >= 1


def serve(guard: Guard, requests: list[dict[str, Any]], kind: str) -> None:
    """Each request in turn, a moment after the other; none leaves anything behind."""

    async def scenario() -> None:
        for scope in requests:
            before = guard.passed
            sent = await guard.ask(scope, kind)
            check(guard, sent, guard.passed > before)
            guard.clock.advance(0.5)

    with nothing_leaks():
        asyncio.run(scenario())
    assert guard.clock.pending_timers == 0


ABSURD: list[dict[str, Any]] = [
    {"method": "GET", "path": "/", "client": None, "headers": [(name, value)]}
    for name in READ
    for value in (b"", b"\xff" * 10_240, b"9" * 10_240, b"\x00", b",", b'"')
]


@settings(max_examples=150)
@given(GUARD, st.lists(SCOPE, min_size=1, max_size=6), st.sampled_from(["http", "http", "websocket"]))
@example(Guard('"\\ü\r\n', 1e-9, 1, "client_address", 503), ABSURD, "http")
@example(Guard("api", 1e9, 1_000_000_000, "header:x-api-key", 429), ABSURD, "http")
@example(Guard("api", 1.0, 3, "forwarded_address", 429), ABSURD, "websocket")
def test_any_requests_are_passed_on_or_refused_in_good_form(guard: Guard, requests: list[dict[str, Any]], kind: str) -> None:
    serve(guard, requests, kind)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls are recorded, under the trace context that they bring along."""
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("resilience"))
    monkeypatch.setattr(spans, "_has_sdk", True)
    yield
    provider.shutdown()


@pytest.mark.usefixtures("traced")
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GUARD, st.lists(SCOPE, min_size=1, max_size=4), st.sampled_from(["http", "websocket"]))
@example(Guard("\ud800", 1.0, 3, "host", 503), ABSURD, "http")
def test_any_requests_that_are_recorded_are_too(guard: Guard, requests: list[dict[str, Any]], kind: str) -> None:
    serve(guard, requests, kind)


@settings(max_examples=50)
@given(st.lists(HEADERS, min_size=30, max_size=30), st.sampled_from(["203.0.113.7", "2001:db8::1"]))
def test_no_headers_free_a_client_of_its_limit(rotated: list[Headers], client: str) -> None:
    guard = Guard("api", 1e-9, 5, "client_address", 429)

    async def scenario() -> list[int]:
        statuses = []
        for headers in rotated:
            mine = [(name, value) for name, value in headers if b"timeout" not in name]
            for peer in (client, "10.1.1.1"):  # directly, and through a proxy that is trusted and adds what it knows
                added = [(b"x-forwarded-for", client.encode())] if peer == "10.1.1.1" else []
                scope = {"method": "GET", "path": "/", "client": (peer, 1), "headers": [*mine, *added]}
                statuses.append((await guard.ask(scope))[0]["status"])
        return statuses

    asyncio.run(scenario())
    assert guard.passed <= 5
