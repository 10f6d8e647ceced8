"""gRPC as a back end of batches, over a real server, in tasks and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, Pipeline, Retry
from resilience.batch import BatchCaller, Kind, Results
from resilience.integrations.grpc.batch import GrpcBackend
from tests.integrations.grpc.client.peer import HANG, SERVICE, UNAVAILABLE, Fails, Peer

METHOD = f"/{SERVICE}/unary_unary"
Ask = Callable[..., Results[Any]]


def in_tasks(peer: Peer, requests: Any, pipeline: Pipeline | None = None, **settings: Any) -> Results[Any]:
    async def run() -> Results[Any]:
        async with grpc.aio.insecure_channel(peer.target) as channel:
            backend = GrpcBackend(channel.unary_unary(METHOD), pipeline, name=METHOD, metadata=[("x-tenant", "blue")])
            found: Results[Any] = await BatchCaller(**settings).acall(backend, requests)
            return found

    return asyncio.run(run())


def in_threads(peer: Peer, requests: Any, pipeline: Pipeline | None = None, **settings: Any) -> Results[Any]:
    with grpc.insecure_channel(peer.target) as channel, BatchCaller(**settings) as caller:
        backend = GrpcBackend(channel.unary_unary(METHOD), pipeline, name=METHOD, metadata=[("x-tenant", "blue")])
        found: Results[Any] = caller.call(backend, requests)
        return found


both = pytest.mark.parametrize("ask", [in_tasks, in_threads], ids=["tasks", "threads"])


@both
def test_values_are_responses(ask: Ask, peer: Peer) -> None:
    results = ask(peer, [b"a", b"b", b"c"])
    assert results.values() == [b"re: a", b"re: b", b"re: c"]
    assert {tried.metadata["x-tenant"] for tried in peer.tries} == {"blue"}


@both
def test_each_code_has_its_kind_and_its_vote(ask: Ask, peer: Peer) -> None:
    breaker = CircuitBreaker(min_calls=100)
    peer.script = [Fails(grpc.StatusCode[name]) for name in ("NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")]
    results = ask(peer, [b"x"] * 5, Pipeline("stock", breaker), concurrency=1)
    kinds = [getattr(result, "kind", None) for result in results]
    assert kinds == [Kind.BUSINESS, Kind.REFUSED, Kind.TRANSPORT, Kind.TIMEOUT, None]
    assert breaker.pool.single.failure_rate(breaker.clock.now_us()) == pytest.approx(2 / 5)


@both
def test_retries_and_time_go_by_grpc(ask: Ask, peer: Peer) -> None:
    peer.script = [UNAVAILABLE]
    results = ask(peer, [b"x"], Pipeline("stock", Deadline(5.0), Retry(backoff_s=0.001)), timeout_s=2.0)
    assert results.values() == [b"re: x"]
    assert [tried.attempt for tried in peer.tries] == [None, "1"]
    assert all(tried.remaining_s <= 2.1 for tried in peer.tries)


@both
@pytest.mark.parametrize("layers", [None, (), (Deadline(0.5),)], ids=["unguarded", "bare", "deadline"])
def test_a_peer_that_hangs_is_late_and_opens_its_breaker(ask: Ask, peer: Peer, layers: Any) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    peer.script = [HANG]
    pipeline = None if layers is None else Pipeline("stock", *layers, breaker)
    results = ask(peer, [b"x"], pipeline, call_timeout_s=0.3, grace_s=2.0)
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [(Kind.TIMEOUT, False)]
    assert (breaker.state is BreakerState.OPEN) == (layers is not None)


@both
def test_a_refusal_of_ours_is_refused(ask: Ask, peer: Peer) -> None:
    breaker = CircuitBreaker()
    breaker.force("open")
    assert [failure.kind for failure in ask(peer, [b"x"], Pipeline("stock", breaker)).errors()] == [Kind.REFUSED]
    assert (peer.tries, breaker.state) == ([], BreakerState.OPEN)


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(TypeError, match="method must be one of a stub, with one request and one response"):
        GrpcBackend(print)
