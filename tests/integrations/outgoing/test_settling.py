"""When an outgoing request is over: its permits are held until the body of its response has ended, whoever ends it."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, CircuitOpen, Deadline, Pipeline, RateLimited, RateLimiter, Retry
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import Flavour, Opened, Session, how
from tests.integrations.outgoing.peer import Answer, Handler, Peer, breaks_off, closed_port, hangs_up, says, stalls

TEN = says(200, b"0123456789")


def half_open(clock: ManualClock) -> CircuitBreaker:
    """A breaker that lets one probe through."""
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=10.0, clock=clock)
    with pytest.raises(OSError):
        Pipeline("broken", breaker).call(_raise)
    clock.advance(10.0)
    return breaker


def state_of(breaker: CircuitBreaker) -> BreakerState:
    """Its state now."""
    return breaker.state


def _raise() -> None:
    raise OSError


async def read_on(opened: Opened) -> None:
    """To the end."""
    while await opened.part():
        pass


async def close(opened: Opened) -> None:
    """Before its end."""
    await opened.close()


@pytest.mark.parametrize("end", [read_on, close])
@pytest.mark.parametrize("retried", [False, True], ids=["", "retry"])
def test_a_probe_is_under_way_until_its_body_has_ended(
    flavour: Flavour, peer: Peer, clock: ManualClock, end: Callable[[Opened], Awaitable[None]], retried: bool
) -> None:
    breaker = half_open(clock)
    layers = [Retry(clock=clock), breaker] if retried else [breaker]
    pipeline = Pipeline("payments", *layers)
    peer.will(TEN)

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert await how(session.send("GET", peer.url)) is CircuitOpen
        await opened.part()
        assert await how(session.send("GET", peer.url)) is CircuitOpen
        await end(opened)
        assert state_of(breaker) is BreakerState.CLOSED
        assert await how(session.send("GET", peer.url)) == 200

    flavour.run(scenario, pipeline=pipeline)


def test_a_response_that_is_dropped_is_settled_by_the_next_request(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    pipeline = Pipeline("payments", breaker := half_open(clock))
    peer.will(TEN)

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert state_of(breaker) is BreakerState.HALF_OPEN
        del opened
        gc.collect()
        assert await how(session.send("GET", peer.url)) == 200
        assert state_of(breaker) is BreakerState.CLOSED

    flavour.run(scenario, pipeline=pipeline)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_answer_without_a_body_ends_with_its_head(flavour: Flavour, peer: Peer, clock: ManualClock, method: str) -> None:
    pipeline = Pipeline("payments", breaker := half_open(clock))
    peer.will(says(204))
    assert flavour.send(pipeline, method, peer.url).status_code == 204
    assert state_of(breaker) is BreakerState.CLOSED


def test_a_failure_is_known_with_the_head(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    peer.will(stalls(status=500))

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert state_of(breaker) is BreakerState.OPEN
        await opened.close()

    flavour.run(scenario, pipeline=Pipeline("payments", breaker))
    assert breaker.decisions()["admitted"] == 1


def test_an_event_stream_votes_at_its_start(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    pipeline = Pipeline("payments", breaker := half_open(clock))
    peer.will(stalls(content_type="text/event-stream"))

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert state_of(breaker) is BreakerState.CLOSED
        await opened.close()

    flavour.run(scenario, pipeline=pipeline)


# --- what counts as a failure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "settings", "state"),
    [
        (says(200), {}, BreakerState.CLOSED),
        (says(404), {}, BreakerState.CLOSED),
        (says(429), {}, BreakerState.CLOSED),
        (says(500), {}, BreakerState.OPEN),
        (says(503), {}, BreakerState.OPEN),
        (hangs_up, {}, BreakerState.OPEN),
        (breaks_off, {}, BreakerState.OPEN),
        (breaks_off, {"failed_statuses": [429]}, BreakerState.OPEN),
        (says(429), {"failed_statuses": [429]}, BreakerState.OPEN),
        (says(500), {"failed_statuses": [429]}, BreakerState.CLOSED),
    ],
)
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_what_counts_as_a_failure(
    flavour: Flavour,
    peer: Peer,
    clock: ManualClock,
    answer: Answer,
    settings: dict[str, list[int]],
    state: BreakerState,
    place: str,
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock, **settings)  # type: ignore[arg-type]
    layers: list[Any] = [breaker, Retry(1, clock=clock)]
    if place == "inside":
        layers.reverse()
    peer.will(answer)
    flavour.send_all(Pipeline("payments", *layers), "GET", peer.url)
    assert state_of(breaker) is state


def test_slow_is_the_time_to_the_head(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    def thinks_first(handler: Handler) -> None:
        clock.advance(2.0)
        says(200)(handler)

    breaker = CircuitBreaker(slow_call_s=1.0, min_calls=1, clock=clock)
    pipeline = Pipeline("payments", Retry(clock=clock), breaker)

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        clock.advance(2.0)
        await read_on(opened)
        await opened.close()
        assert state_of(breaker) is BreakerState.CLOSED
        peer.will(thinks_first)
        await session.send("GET", peer.url)
        assert state_of(breaker) is BreakerState.OPEN

    flavour.run(scenario, pipeline=pipeline)


def test_a_breaker_for_each_host(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(key="host", consecutive_failures=1, clock=clock)
    pipeline = Pipeline("payments", breaker)
    with closed_port() as dead:
        results = flavour.send_all(pipeline, "GET", dead, peer.url, dead, peer.url)
    assert issubclass(results[0], flavour.connection_errors)
    assert results[1:] == [200, CircuitOpen, 200]


# --- what refuses ---------------------------------------------------------------------------------------------------------------


def test_refusals_are_raised_as_themselves(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    pipeline = Pipeline("payments", RateLimiter(1.0, burst=1, clock=clock), Retry(clock=clock))
    assert flavour.send_all(pipeline, "GET", peer.url, peer.url) == [200, RateLimited]
    assert (len(peer.seen), clock.slept_s) == (1, [])


def test_a_limiter_that_waits(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, max_wait_s=2.0, clock=clock)
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock), limiter)
    assert flavour.send_all(pipeline, "GET", peer.url, peer.url) == [200, 200]
    assert clock.slept_s == [1.0]
    assert peer.values("x-envoy-expected-rq-timeout-ms") == ["5000", "4000"]


def test_layers_before_the_retry_are_passed_once_and_those_after_it_by_each_try(
    flavour: Flavour, peer: Peer, clock: ManualClock
) -> None:
    outer, inner = RateLimiter(10.0, clock=clock), RateLimiter(10.0, clock=clock)
    peer.will(says(503), says(503))
    flavour.send(Pipeline("payments", outer, Retry(clock=clock), inner), "GET", peer.url)
    assert (outer.decisions()["admitted"], inner.decisions()["admitted"]) == (1, 3)
