"""A stock proxy between a client and our servers: what we say of a call arrives as it left, and so does what we are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from resilience import Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.integrations.grpc import ClientInterceptor
from resilience.integrations.grpc.aio import client_interceptors
from resilience.testing import ManualClock
from tests.integrations.grpc.proxy.behind import INITIAL, SERVICE, TRAILING
from tests.integrations.grpc.proxy.conftest import ROUTE_TIMEOUT_S, Stand
from tests.integrations.grpc.server.served import Seen, seen

pytestmark = pytest.mark.may_leak("threads")  # those of the servers
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
TEXT = 'a "text" of 100 %, with Ümläuts, 漢字 and\nmore than one line'
PUSHBACK = "grpc-retry-pushback-ms"
WAIT_S = 20.0
ROUNDED_UP = 1.03
"""gRPC's core may send a timeout so much longer than it was given: that of an earlier call on the same connection."""


@contextmanager
def through(port: int, *interceptors: Any) -> Iterator[grpc.Channel]:
    """A channel to the proxy."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield grpc.intercept_channel(channel, *interceptors)


def call(channel: grpc.Channel, method: str, request: bytes = b"", **options: Any) -> Any:
    """The future of a call, or its stream."""
    multi = getattr(channel, arity_of(method))(f"/{SERVICE}/{method}")
    options.setdefault("timeout", WAIT_S)
    return multi(request, **options) if method == "Stream" else multi.future(request, **options)


def arity_of(method: str) -> str:
    """The kind of a method."""
    return "unary_stream" if method == "Stream" else "unary_unary"


def saw(channel: grpc.Channel, method: str, request: bytes = b"", **options: Any) -> Seen:
    """What a client sees of a call."""
    return seen(arity_of(method), call(channel, method, request, **options))


class Wire(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Notes the pushback of every try."""

    def __init__(self) -> None:
        self.pushbacks_ms: list[int] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """One try."""
        tried = continuation(client_call_details, request)
        self.pushbacks_ms.append(int(dict(tried.trailing_metadata())[PUSHBACK]))
        return tried


def contained(pairs: Any, within: Any) -> bool:
    """Whether all metadata is there, in the same order; the proxy and the core add some."""
    keys = {key for key, _ in pairs}
    return [tuple(pair) for pair in within if pair[0] in keys] == list(pairs)


def test_an_answer_arrives_with_its_metadata(stand: Stand) -> None:
    with through(stand.port) as channel:
        answered = call(channel, "Echo", b"as it was sent")
        assert answered.result() == b"as it was sent"
        assert contained(INITIAL, answered.initial_metadata())
        assert contained(TRAILING, answered.trailing_metadata())


@pytest.mark.parametrize("method", ["Abort", "Stream"])
def test_every_status_arrives_with_its_text_and_its_metadata(method: str, stand: Stand) -> None:
    with through(stand.port) as channel:
        for code in CODES:
            begun = call(channel, method, f"{code} {TEXT}".encode())
            ended = seen(arity_of(method), begun)
            assert (ended.code, ended.details, ended.messages) == (code, TEXT, 3 if method == "Stream" else 0)
            assert contained(TRAILING, begun.trailing_metadata())


@pytest.mark.parametrize(
    ("method", "code", "reason", "policy", "most_s"),
    [
        ("Limited", "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "tight", 60.0),
        ("Cut", "RESOURCE_EXHAUSTED", "REDUCED_CAPACITY", "cut", 60.0 / 0.3),
        ("Refused", "UNAVAILABLE", "CIRCUIT_OPEN", "broken", 600.0),
    ],
)
def test_a_refusal_arrives_with_its_pushback_and_its_details(
    method: str, code: str, reason: str, policy: str, most_s: float, stand: Stand
) -> None:
    for each in ("Refused", method):  # its breaker opens, and the one token is taken
        saw(stand.direct, each)
    with through(stand.port) as channel:
        refused, direct = saw(channel, method), saw(stand.direct, method)
    assert (refused.code, refused.reason, refused.policy) == (code, reason, policy)
    assert refused.details.partition("; retry in ")[0] == direct.details.partition("; retry in ")[0] != refused.details
    assert refused.retry_delay_s is not None
    assert refused.trailers[PUSHBACK] == str(round(refused.retry_delay_s * 1000))
    assert 0.5 * most_s < refused.retry_delay_s <= most_s


def test_our_client_obeys_a_pushback_that_has_come_through(stand: Stand) -> None:
    clock, wire = ManualClock(), Wire()
    pipeline = Pipeline("out", Retry(attempts=3, backoff_s=0.001, max_advice_s=120.0, clock=clock))
    saw(stand.direct, "Limited")
    with through(stand.port, ClientInterceptor(pipeline=pipeline), wire) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/Limited")(b"")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert clock.slept_s == [pushback_ms / 1000 for pushback_ms in wire.pushbacks_ms[:2]]
    assert len(wire.pushbacks_ms) == 3
    assert all(1_000 < pushback_ms <= 60_000 for pushback_ms in wire.pushbacks_ms)


# --- deadlines -------------------------------------------------------------------------------------------------------------------


def times(channel: grpc.Channel, **options: Any) -> tuple[float | None, float | None]:
    """What the handler knew of its time: by gRPC, and by us."""
    by_grpc, ours = json.loads(call(channel, "Time", **options).result())
    return None if by_grpc is None or by_grpc > 1e9 else by_grpc, ours


def test_a_client_s_deadline_arrives(stand: Stand) -> None:
    with through(stand.port) as channel:
        by_grpc, ours = times(channel, timeout=5.0)
    assert by_grpc is not None
    assert ours is not None
    assert 0 < ours <= by_grpc + 0.001 <= 5.0 * ROUNDED_UP


def test_the_time_that_a_route_of_the_proxy_gives_is_a_deadline(stand: Stand) -> None:
    """Envoy tells it in x-envoy-expected-rq-timeout-ms; the earlier of both holds."""
    with through(stand.timed_port) as channel:
        by_grpc, ours = times(channel, timeout=None)
        assert by_grpc is None
        assert ours is not None
        assert 0 < ours <= ROUTE_TIMEOUT_S
        by_grpc, ours = times(channel, timeout=5.0)
        assert ours is not None
        assert 0 < ours <= ROUTE_TIMEOUT_S
        by_grpc, ours = times(channel, timeout=0.7)
        assert ours is not None
        assert by_grpc is not None
        assert 0 < ours <= 0.7 * ROUNDED_UP
    with through(stand.port) as channel:
        assert times(channel, timeout=None) == (None, None)


def test_a_call_that_hangs_behind_the_proxy_ends_at_its_deadline_on_both_sides(stand: Stand) -> None:
    stand.behind.ended.clear()
    with through(stand.port) as channel:
        assert saw(channel, "Hang", timeout=0.3).code == "DEADLINE_EXCEEDED"
        assert stand.behind.ended.wait(WAIT_S)


def test_a_deadline_of_our_client_s_pipeline_arrives(stand: Stand) -> None:
    with through(stand.port, ClientInterceptor(pipeline=Pipeline("out", Deadline(3.0)))) as channel:
        by_grpc, ours = times(channel, timeout=None)
    assert by_grpc is not None
    assert ours is not None
    assert 0 < ours <= by_grpc + 0.001 <= 3.0


def test_our_client_in_a_task_sees_the_same(stand: Stand) -> None:
    async def ask() -> tuple[list[Any], BaseException]:
        pipelines = {f"/{SERVICE}/Time": Pipeline("out", Deadline(3.0)), f"/{SERVICE}/Hang": Pipeline("out", Deadline(0.3))}
        interceptors = client_interceptors(pipeline=lambda method, target: pipelines[method])
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stand.port}", interceptors=interceptors) as channel:
            told = json.loads(await channel.unary_unary(f"/{SERVICE}/Time")(b""))
            with pytest.raises(DeadlineExceeded) as caught:
                await channel.unary_unary(f"/{SERVICE}/Hang")(b"")
            return told, caught.value

    told, error = asyncio.run(ask())
    assert all(0 < left_s <= 3.0 for left_s in told)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
