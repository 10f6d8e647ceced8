"""How long a call may take, and what its peer is told of that, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from resilience import CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.grpc.client.clients import Client, Driven
from tests.integrations.grpc.client.peer import HANG, UNAVAILABLE, Peer

FOREVER_S = 1e9  # what a server says of a call without a deadline is far beyond


def judged(*layers: Any) -> tuple[Pipeline, CircuitBreaker]:
    """A pipeline with a breaker that never opens, to see what it was told."""
    breaker = CircuitBreaker(min_calls=1000, window_calls=1000)
    return Pipeline("p", *layers, breaker), breaker


def votes(breaker: CircuitBreaker) -> tuple[int, float]:
    """How many calls passed, and the share of those that failed."""
    status = breaker.status()
    return status["admitted"], status["failure_rate"]


def calling(kind: str, **options: Any) -> Callable[[Client], Any]:
    """One call."""
    return lambda client: client.call(kind, **options)


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_the_pipeline_s_time_is_the_call_s_timeout(kind: str, drive: Driven, peer: Peer) -> None:
    drive(Pipeline("p", Deadline(default_s=12.345)), calling(kind))
    assert 11.0 < peer.tries[0].remaining_s <= 12.345


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_stream_has_only_the_time_that_its_caller_gives_it(kind: str, drive: Driven, peer: Peer) -> None:
    drive(Pipeline("p", Deadline(default_s=2.0)), calling(kind))
    drive(Pipeline("p", Deadline(default_s=2.0)), calling(kind, timeout=5.0))
    drive(Pipeline("p", Deadline(default_s=2.0, streams=True)), calling(kind))
    assert peer.tries[0].remaining_s > FOREVER_S
    assert 4.0 < peer.tries[1].remaining_s <= 5.0 * 1.03
    assert 1.0 < peer.tries[2].remaining_s <= 2.0


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_an_enclosing_deadline_binds_every_call_less_the_reserve(kind: str, drive: Driven, peer: Peer) -> None:
    handler = Pipeline("handler", Deadline(default_s=1.0))
    out = Pipeline("out", Deadline(reserve_s=0.4))
    drive(out, lambda client: handler.acall(client.call, kind))
    assert 0.4 < peer.tries[0].remaining_s <= 0.6


def test_the_caller_s_own_timeout_holds_where_it_is_shorter_and_nothing_is_kept_back_of_it(drive: Driven, peer: Peer) -> None:
    drive(Pipeline("p", Deadline(default_s=5.0, reserve_s=0.5)), calling("unary_unary", timeout=0.45))
    assert 0.3 < peer.tries[0].remaining_s <= 0.45
    drive(Pipeline("p"), calling("unary_unary", timeout=3.0))
    assert 2.0 < peer.tries[1].remaining_s <= 3.0 * 1.03


def test_what_arrives_is_never_more_than_is_left(drive: Driven, peer: Peer) -> None:
    """Also on a connection that has carried timeouts a little longer, which gRPC would send again."""
    limits_s = [0.07 + 0.001 * step for step in range(40, 0, -1)]

    async def calls(client: Client) -> None:
        for limit_s in limits_s:
            handler = Pipeline("handler", Deadline(default_s=limit_s))
            await handler.acall(client.call, "unary_unary")

    drive(Pipeline("out"), calls)
    assert all(0 < seen.remaining_s <= limit_s for seen, limit_s in zip(peer.tries, limits_s, strict=True))


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_with_nothing_left_nothing_is_sent(kind: str, drive: Driven, peer: Peer) -> None:
    pipeline, breaker = judged(Deadline(reserve_s=2.0))
    handler = Pipeline("handler", Deadline(default_s=1.0))
    with pytest.raises(DeadlineExceeded, match=r"too little beside the reserve of .* not sent") as caught:
        drive(pipeline, lambda client: handler.acall(client.call, kind))
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert peer.tries == []
    assert votes(breaker) == (1, 0.0)


def test_a_deadline_of_the_pipeline_that_passes_says_so(drive: Driven, peer: Peer) -> None:
    pipeline, breaker = judged(Deadline(default_s=0.1, name="out"))
    peer.script = [HANG]
    with pytest.raises(DeadlineExceeded, match="out: the time for the outgoing call ran out") as caught:
        drive(pipeline, calling("unary_unary"))
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert votes(breaker) == (1, 1.0)


@pytest.mark.parametrize(("timeout_s", "failure_rate"), [(0.1, 0.0), (0.15, 1.0)])
def test_a_short_timeout_of_the_caller_s_is_no_evidence(timeout_s: float, failure_rate: float, drive: Driven, peer: Peer) -> None:
    pipeline, breaker = judged(Deadline(default_s=0.25))
    peer.script = [HANG]
    with pytest.raises(grpc.RpcError) as caught:
        drive(pipeline, calling("unary_unary", timeout=timeout_s))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not isinstance(caught.value, DeadlineExceeded)
    assert votes(breaker) == (1, failure_rate)


def test_the_caller_s_timeout_is_that_of_all_tries_together(drive: Driven, peer: Peer) -> None:
    peer.script = [HANG, HANG, HANG]
    pipeline = Pipeline("p", Retry(attempts=3, backoff_s=0.001, budget=(1000, 1.0)), Deadline(default_s=0.12))
    with pytest.raises(grpc.RpcError):
        drive(pipeline, calling("unary_unary", timeout=0.2))
    assert len(peer.tries) == 2
    assert peer.tries[1].remaining_s < 0.1


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_try_that_has_used_the_time_of_the_call_is_the_last(kind: str, drive: Driven, peer: Peer) -> None:
    """gRPC is told less than is left, for its rounding and the reserve: what remains then is no time for another try."""
    peer.script = [HANG, HANG]
    pipeline = Pipeline("p", Deadline(default_s=0.4, reserve_s=0.1, streams=True, name="out"), Retry(attempts=3, backoff_s=0.001))
    with pytest.raises(DeadlineExceeded, match="out: the time for the outgoing call ran out") as caught:
        drive(pipeline, calling(kind))
    assert caught.value.reason == "expired"
    assert len(peer.tries) == 1


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_try_that_would_not_be_sent_is_not_waited_for(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    """What is left after the wait is the reserve: the server's own error is the end, now."""
    peer.script = [UNAVAILABLE, UNAVAILABLE]
    deadline = Deadline(default_s=10.0, reserve_s=4.0, streams=True, clock=clock)
    with pytest.raises(grpc.RpcError) as caught:
        drive(Pipeline("p", deadline, Retry(backoff_s=6.0, clock=clock)), calling(kind))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (len(peer.tries), clock.slept_s, deadline.state.expired) == (1, [], 0)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_of_the_caller_s_own_time_nothing_is_kept_back(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE]
    pipeline = Pipeline("p", Deadline(reserve_s=4.0, clock=clock), Retry(backoff_s=6.0, clock=clock))
    drive(pipeline, calling(kind, timeout=9.0))
    assert (len(peer.tries), clock.slept_s) == (2, [6.0])
