"""Refusals as gRPC's own errors, and what each end of a call tells the breaker, against a real server."""

from __future__ import annotations

import asyncio
import gc
import pickle
from typing import Any

import grpc
import pytest

from resilience import CircuitBreaker, CircuitOpen, HealthSignal, Pipeline, RateLimited, RateLimiter
from resilience.integrations.grpc import ClientInterceptor
from resilience.integrations.grpc.aio import client_interceptors
from resilience.testing import ManualClock
from tests.integrations.grpc.client.clients import Client, Driven
from tests.integrations.grpc.client.peer import HANG, KINDS, SERVICE, Fails, Peer

CODES = grpc.StatusCode
ALL = 10_000
FAILED = {"UNAVAILABLE", "INTERNAL", "DATA_LOSS", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED"}


def watching() -> CircuitBreaker:
    """A breaker that never opens, to see what it was told."""
    return CircuitBreaker(min_calls=ALL, window_calls=ALL)


def forced_open(name: str) -> CircuitBreaker:
    """A breaker that an operator holds open."""
    breaker = CircuitBreaker(name=name)
    breaker.force("open")
    return breaker


@pytest.mark.parametrize("kind", KINDS)
def test_a_limiter_s_refusal_is_an_error_of_grpc(kind: str, drive: Driven, peer: Peer) -> None:
    pipeline = Pipeline("p", RateLimiter(rate_per_s=0.001, burst=1, name="out"))

    async def two_calls(client: Client) -> None:
        await client.call(kind)
        await client.call(kind)

    with pytest.raises(RateLimited, match="out: over the limit") as caught:
        drive(pipeline, two_calls)
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is CODES.RESOURCE_EXHAUSTED
    assert caught.value.details() == str(caught.value)
    assert caught.value.retry_after_s == pytest.approx(1000, rel=0.01)
    assert list(caught.value.trailing_metadata()) == []
    assert len(peer.tries) == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.policy, again.code()) == ("out", CODES.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_breaker_s_refusal_is_an_error_of_grpc(kind: str, drive: Driven, peer: Peer) -> None:
    pipeline = Pipeline("p", forced_open("out"))
    with pytest.raises(CircuitOpen) as caught:
        drive(pipeline, lambda client: client.call(kind))
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is CODES.UNAVAILABLE
    assert peer.tries == []


@pytest.mark.parametrize("code", [code for code in CODES if code is not CODES.OK], ids=lambda code: code.name)
def test_what_each_status_says_of_the_peer(code: grpc.StatusCode, drive: Driven, peer: Peer) -> None:
    breaker = watching()
    peer.script = [Fails(code)]
    with pytest.raises(grpc.RpcError):
        drive(Pipeline("p", breaker), lambda client: client.call("unary_unary"))
    drive(Pipeline("p", breaker), lambda client: client.call("unary_unary"))
    expected = 0.5 if code.name in FAILED else 0.0
    assert breaker.status()["failure_rate"] == expected


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_stream_votes_with_its_first_message(kind: str, drive: Driven, peer: Peer) -> None:
    breaker = watching()
    peer.script = [Fails(CODES.UNAVAILABLE, after=1)]
    with pytest.raises(grpc.RpcError):
        drive(Pipeline("p", breaker), lambda client: client.call(kind))
    assert breaker.status()["failure_rate"] == 0.0
    peer.script = [Fails(CODES.UNAVAILABLE)]
    with pytest.raises(grpc.RpcError):
        drive(Pipeline("p", breaker), lambda client: client.call(kind))
    assert breaker.status()["failure_rate"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_its_caller_cancels_says_nothing(kind: str, drive: Driven, peer: Peer) -> None:
    breaker = watching()
    peer.script = [HANG]

    async def cancel(client: Client) -> None:
        begun = client.begin(kind)
        assert await asyncio.to_thread(peer.arrived.acquire, timeout=10)
        begun.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.RpcError, grpc.FutureCancelledError)):
            await _outcome(begun, kind)

    drive(Pipeline("p", breaker), cancel)
    assert breaker.status()["failure_rate"] == 0.0
    assert breaker.status()["admitted"] == 1


async def _outcome(begun: Any, kind: str) -> None:
    if hasattr(begun, "__await__"):
        await begun
    elif hasattr(begun, "__aiter__"):
        async for _ in begun:
            pass
    elif kind.endswith("stream"):
        list(begun)
    else:
        await asyncio.to_thread(begun.result, 10)


def test_a_request_that_cannot_be_serialized_says_nothing(peer: Peer) -> None:
    breaker = watching()
    channel = grpc.intercept_channel(
        grpc.insecure_channel(peer.target), ClientInterceptor(pipeline=Pipeline("p", breaker), target="peer")
    )
    with channel, pytest.raises(grpc.RpcError, match="serializing"):
        channel.unary_unary(f"/{SERVICE}/unary_unary", request_serializer=_unable)(b"a")
    assert (breaker.status()["admitted"], breaker.status()["failure_rate"]) == (1, 0.0)


def _unable(request: bytes) -> bytes:
    raise ValueError("no such message")


@pytest.mark.parametrize(("key", "opened"), [("host", 1), ("method", 1), (None, 0)])
def test_breakers_by_target_and_by_method(key: str | None, opened: int, drive: Driven, peer: Peer) -> None:
    breaker = CircuitBreaker(min_calls=2, window_calls=10, key=key)
    peer.script = [Fails(CODES.UNAVAILABLE)] * 2

    async def calls(client: Client) -> None:
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                await client.call("unary_unary")
        if key == "method":
            await client.call("stream_unary")
        with pytest.raises(CircuitOpen):
            await client.call("unary_unary")

    drive(Pipeline("p", breaker), calls)
    assert breaker.status()["keys"] == opened * (2 if key == "method" else 1)


def test_the_pipeline_is_chosen_by_method_and_target(drive: Driven, peer: Peer) -> None:
    asked: list[tuple[str, str]] = []

    def choose(method: str, target: str) -> Pipeline | None:
        asked.append((method, target))
        return Pipeline("closed", forced_open("out")) if method.endswith("unary_unary") else None

    async def calls(client: Client) -> None:
        await client.call("unary_stream")
        with pytest.raises(CircuitOpen):
            await client.call("unary_unary")

    drive(choose, calls)
    assert asked == [(f"/{SERVICE}/unary_stream", "peer"), (f"/{SERVICE}/unary_unary", "peer")]


def test_an_incident_behind_a_channel_cuts_the_limiter_in_front(drive: Driven, peer: Peer) -> None:
    health = HealthSignal()
    limiter = RateLimiter(rate_per_s=100.0, health=health)
    pipeline = Pipeline("p", limiter, CircuitBreaker(min_calls=1, window_calls=10, health=health))
    peer.script = [Fails(CODES.UNAVAILABLE)]
    with pytest.raises(grpc.RpcError):
        drive(pipeline, lambda client: client.call("unary_unary"))
    assert limiter.rate_per_s == pytest.approx(30.0)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_is_dropped_gives_its_permit_back(kind: str, read: int, drive: Driven, peer: Peer) -> None:
    pipeline = Pipeline("p", watching())

    async def drop(client: Client) -> None:
        begun = client.begin(kind, [b"a", b"b"])
        for _ in range(read):
            await begun.read() if hasattr(begun, "read") else next(begun)
        del begun
        await client.call("unary_unary")
        gc.collect()  # grpc.aio's own calls refer to each other
        await client.call("unary_unary")

    drive(pipeline, drop)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
def test_a_probe_that_is_cancelled_before_anybody_has_asked_for_its_response_gives_its_place_to_another(
    kind: str, drive: Driven, peer: Peer
) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(min_calls=1, window_calls=10, open_for_s=1.0, probes=1, clock=clock)
    peer.script = [Fails(CODES.UNAVAILABLE), HANG]

    async def probes(client: Client) -> None:
        with pytest.raises(grpc.RpcError):
            await client.call("unary_unary")
        clock.advance(2.0)
        begun = client.begin(kind)
        assert await asyncio.to_thread(peer.arrived.acquire, timeout=10)
        assert await asyncio.to_thread(peer.arrived.acquire, timeout=10)
        begun.cancel()
        if isinstance(begun, grpc.Future) and kind == "stream_unary":  # ends in a thread of grpc
            with pytest.raises(grpc.FutureCancelledError):
                begun.result(10)
        await client.call("unary_unary")

    drive(Pipeline("p", breaker), probes)
    assert breaker.status()["state"] == "closed"


def test_thousand_calls_in_flight_when_their_channel_closes_leave_nothing(peer: Peer) -> None:
    breaker = watching()
    pipeline = Pipeline("p", breaker)
    channel = grpc.intercept_channel(grpc.insecure_channel(peer.target), ClientInterceptor(pipeline=pipeline))
    method = channel.unary_unary(f"/{SERVICE}/unary_unary")
    peer.script = [HANG] * 1000
    futures = [method.future(b"a") for _ in range(1000)]
    channel.close()
    ends = {type(future.exception(10)) if not future.cancelled() else None for future in futures}
    assert len(ends) == 1
    assert breaker.status()["failure_rate"] == 0.0


def test_thousand_tasks_in_flight_when_their_channel_closes_leave_nothing(peer: Peer) -> None:
    breaker = watching()

    async def run() -> None:
        interceptors = client_interceptors(pipeline=Pipeline("p", breaker))
        channel = grpc.aio.insecure_channel(peer.target, interceptors=interceptors)
        method = channel.unary_unary(f"/{SERVICE}/unary_unary")
        peer.script = [HANG] * 1000
        calls = [asyncio.ensure_future(_awaited(method(b"a"))) for _ in range(1000)]
        await asyncio.sleep(0.05)
        await channel.close()
        assert set(await asyncio.gather(*calls)) <= {"CancelledError", "AioRpcError", "UsageError"}

    asyncio.run(run())
    assert breaker.status()["failure_rate"] == 0.0


async def _awaited(call: Any) -> str:
    try:
        await call
    except (asyncio.CancelledError, Exception) as error:
        return type(error).__name__
    return "ok"


@pytest.mark.parametrize("make", [ClientInterceptor, client_interceptors])
def test_a_pipeline_must_be_given(make: Any) -> None:
    with pytest.raises(TypeError, match="pipeline="):
        make(pipeline=None)
    with pytest.raises(TypeError, match="config="):
        make(pipeline="payments")
