"""Bodies of requests that are made while they are sent: what goes wrong in the making says nothing of the peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import Flavour, Session
from tests.integrations.outgoing.peer import Peer, hangs_up, says


def breaking(flavour: Flavour, error: Exception) -> Any:
    """A body whose making ends with `error`."""

    def parts() -> Iterator[bytes]:
        yield b"part"
        raise error

    async def async_parts() -> AsyncIterator[bytes]:
        yield b"part"
        raise error

    return async_parts() if flavour.is_async else parts()


# The last two are what a body raises that is streamed from somewhere else: from a client that hangs up, or another peer.
@pytest.mark.parametrize("error", [ValueError("a bug"), ConnectionResetError("gone"), httpx.ReadError("of another peer")], ids=repr)
def test_a_body_that_cannot_be_made_shows_nothing_of_the_peer(
    flavour: Flavour, peer: Peer, clock: ManualClock, error: Exception
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock), Retry(clock=clock), breaker)
    raised = (type(error), *flavour.connection_errors)
    with pytest.raises(raised):
        flavour.send(pipeline, "PUT", peer.url, body=breaking(flavour, error))
    assert (breaker.state, clock.slept_s) == (BreakerState.CLOSED, [])


def test_the_peer_s_own_failure_counts_whatever_the_body_is(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    peer.will(hangs_up)
    with pytest.raises(flavour.connection_errors):
        flavour.send(Pipeline("payments", breaker), "PUT", peer.url, body=flavour.generator(b"part ", b"by part"))
    assert (breaker.state, peer.bodies) == (BreakerState.OPEN, [b"part by part"])


def test_a_deadline_that_passes_while_the_body_is_made_shows_nothing_of_the_peer(flavour: Flavour, peer: Peer) -> None:
    clock = ManualClock()
    deadline = Deadline(0.08) if flavour.is_async else Deadline(5.0, clock=clock)
    breaker = CircuitBreaker(consecutive_failures=1, clock=deadline.clock)

    def slow_parts() -> Iterator[bytes]:
        yield b"part"
        clock.advance(5.0)
        yield b"too late"

    async def endless_wait() -> AsyncIterator[bytes]:
        yield b"part"
        await asyncio.Event().wait()

    async def scenario(session: Session) -> None:
        body = endless_wait() if flavour.is_async else slow_parts()
        with pytest.raises(DeadlineExceeded):
            await session.send("PUT", peer.url, body=body)
        assert (await session.send("GET", peer.url)).status_code == 200  # the only place in the pool is free

    flavour.run(scenario, pipeline=Pipeline("payments", deadline, breaker), places=1)
    assert (breaker.state, deadline.state.expired) == (BreakerState.CLOSED, 1)


def test_a_body_that_is_made_is_sent_as_it_is(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503))
    parts = [b"0123456789" * 10_000, b"", b"end"]
    answered = flavour.send(Pipeline("payments", Deadline(5.0, clock=clock)), "POST", peer.url, body=flavour.generator(*parts))
    assert answered.status_code == 503
    assert peer.bodies == [b"".join(parts)]
