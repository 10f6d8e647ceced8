"""The deadline of an outgoing request: what its peer is told of it, and that it ends whatever takes longer."""

from __future__ import annotations

import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import Flavour, Session
from tests.integrations.outgoing.peer import Answer, Handler, Peer, says, says_nothing, stalls

ENVOY = "x-envoy-expected-rq-timeout-ms"
SOON_S = 0.08
"""A deadline that is met in real time."""
EVENTS_S = 0.16
"""One that leaves time to begin."""


def patient(default_s: float = SOON_S, *, streams: bool = False) -> tuple[Pipeline, Deadline, CircuitBreaker]:
    """A deadline that is met soon, and a breaker that opens with the first failure."""
    deadline, breaker = Deadline(default_s, streams=streams), CircuitBreaker(consecutive_failures=1)
    return Pipeline("payments", deadline, breaker), deadline, breaker


# --- what the peer is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "value"),
    [(ENVOY, "1214"), ("connect-timeout-ms", "1214"), ("grpc-timeout", "1214m")],
    ids=["envoy", "connect", "grpc"],
)
def test_what_is_left_less_the_reserve_is_passed_on_rounded_down(
    flavour: Flavour, peer: Peer, clock: ManualClock, header: str, value: str
) -> None:
    deadline = Deadline(1.234_999, reserve_s=0.02, write=header, clock=clock)
    flavour.send(Pipeline("payments", deadline), "GET", peer.url)
    assert peer.values(header) == [value]


def test_each_try_is_told_what_is_left_then(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503, retry_after="2"))
    flavour.send(Pipeline("payments", Deadline(5.0, clock=clock), Retry(clock=clock)), "GET", peer.url)
    assert peer.values(ENVOY) == ["5000", "3000"]


def test_a_deadline_for_each_try(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503, retry_after="2"))
    pipeline = Pipeline("payments", Deadline(3.0, clock=clock), Retry(clock=clock), Deadline(1.5, reserve_s=0.5, clock=clock))
    flavour.send(pipeline, "GET", peer.url)
    assert peer.values(ENVOY) == ["1000", "500"]


def test_without_a_deadline_nothing_is_said(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    flavour.send(Pipeline("payments", Retry(clock=clock)), "GET", peer.url)
    assert peer.values(ENVOY) == [None]


@pytest.mark.parametrize(("own", "said"), [("300", "300"), ("9000", "5000"), ("soon", "5000")])
def test_who_asks_for_less_is_not_given_more(flavour: Flavour, peer: Peer, clock: ManualClock, own: str, said: str) -> None:
    flavour.send(Pipeline("payments", Deadline(5.0, clock=clock)), "GET", peer.url, headers={ENVOY: own})
    assert peer.values(ENVOY) == [said]


def test_an_enclosing_deadline_is_passed_on_also_by_a_pipeline_without_one(
    flavour: Flavour, peer: Peer, clock: ManualClock
) -> None:
    around = Pipeline("api", Deadline(2.0, clock=clock))
    around.call(lambda: flavour.send(Pipeline("payments", CircuitBreaker(clock=clock)), "GET", peer.url))
    around.call(lambda: flavour.send(Pipeline("payments", Deadline(9.0, reserve_s=0.5, clock=clock)), "GET", peer.url))
    assert peer.values(ENVOY) == ["2000", "1500"]


@pytest.mark.parametrize("left_s", [0.02, 0.0201])
def test_with_nothing_left_it_is_not_sent_and_the_breaker_does_not_count_it(
    flavour: Flavour, peer: Peer, clock: ManualClock, left_s: float
) -> None:
    deadline, breaker = Deadline(reserve_s=0.02, clock=clock, name="out"), CircuitBreaker(consecutive_failures=1, clock=clock)
    pipeline = Pipeline("payments", deadline, Retry(clock=clock), breaker)
    around = Pipeline("api", Deadline(left_s, clock=clock))
    with pytest.raises(DeadlineExceeded) as caught:
        around.call(lambda: flavour.send(pipeline, "GET", peer.url))
    assert (caught.value.policy, caught.value.reason) == ("out", "expired_on_arrival")
    assert str(caught.value) == f"out: {left_s * 1000:.3g} ms are left, too little beside the reserve of 20 ms: not sent"
    assert (peer.seen, breaker.state, deadline.state.expired, clock.slept_s) == ([], BreakerState.CLOSED, 1, [])


@pytest.mark.parametrize(("wait_s", "said"), [(0.799, ["800", "1"]), (0.7995, ["800"]), (0.8, ["800"]), (1.2, ["800"])])
def test_a_try_that_would_not_be_sent_is_not_waited_for(
    flavour: Flavour, peer: Peer, clock: ManualClock, wait_s: float, said: list[str]
) -> None:
    deadline, retry = Deadline(1.0, reserve_s=0.2, clock=clock), Retry(backoff_s=wait_s, clock=clock)
    peer.will(says(503), says(200))
    answer = flavour.send(Pipeline("payments", deadline, retry), "GET", peer.url)
    assert (answer.status_code, peer.values(ENVOY)) == (200 if len(said) > 1 else 503, said)
    assert clock.slept_s == ([wait_s] if len(said) > 1 else [])
    assert (deadline.state.expired, retry.decisions()["rejected"]) == (0, 2 - len(said))


# --- when it passes -------------------------------------------------------------------------------------------------------------


def test_a_peer_that_says_nothing_is_given_up_at_the_deadline(flavour: Flavour, peer: Peer) -> None:
    pipeline, deadline, breaker = patient()
    peer.will(says_nothing)
    with pytest.raises(DeadlineExceeded) as caught:
        flavour.send(pipeline, "GET", peer.url)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.policy, caught.value.reason) == ("deadline", "expired")
    assert (breaker.state, deadline.state.expired) == (BreakerState.OPEN, 1)
    assert peer.hung_up.wait(20)


def drips(handler: Handler) -> None:
    """A body that never stops for long, and never ends."""
    handler.head(200, {"content-length": "1000000"})
    while not handler.peer.over.wait(0.02):
        handler.wfile.write(b".")
        handler.wfile.flush()


def drips_chunks(handler: Handler) -> None:
    """The same in chunks, as of a peer that does not know how much there will be."""
    handler.head(200, {"transfer-encoding": "chunked"})
    while not handler.peer.over.wait(0.02):
        handler.wfile.write(b"1\r\n.\r\n")
        handler.wfile.flush()


@pytest.mark.parametrize("answer", [stalls(), drips, drips_chunks], ids=["stalls", "drips", "drips chunks"])
def test_a_body_that_takes_too_long_is_given_up_at_the_deadline(flavour: Flavour, peer: Peer, answer: Answer) -> None:
    pipeline, deadline, breaker = patient()
    peer.will(answer)
    with pytest.raises(DeadlineExceeded):
        flavour.send(pipeline, "GET", peer.url)
    assert (breaker.state, deadline.state.expired) == (BreakerState.OPEN, 1)
    assert len(peer.seen) == 1


def test_reading_on_after_the_deadline_ends_at_once(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock))
    peer.will(stalls())

    async def scenario(session: Session) -> bool:
        opened = await session.open("GET", peer.url)
        assert await opened.part() == b"part"
        clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            await opened.part()
        return peer.hung_up.wait(20)

    assert flavour.run(scenario, pipeline=pipeline)


def test_the_deadline_of_each_try_is_worth_another(flavour: Flavour, peer: Peer) -> None:
    peer.will(says_nothing)
    pipeline = Pipeline("payments", Deadline(20.0), Retry(10, backoff_s=0.0), Deadline(SOON_S))
    assert flavour.send(pipeline, "GET", peer.url).status_code == 200
    assert len(peer.seen) >= 2


def test_the_deadline_of_the_whole_call_is_not(flavour: Flavour, peer: Peer) -> None:
    peer.will(says_nothing, says_nothing)
    with pytest.raises(DeadlineExceeded):
        flavour.send(Pipeline("payments", Deadline(SOON_S), Retry(backoff_s=0.0)), "GET", peer.url)
    assert len(peer.seen) == 1


def test_an_enclosing_deadline_ends_it_too(flavour: Flavour, peer: Peer) -> None:
    peer.will(says_nothing)
    around = Pipeline("api", Deadline(SOON_S))
    with pytest.raises(DeadlineExceeded) as caught:
        around.call(lambda: flavour.send(Pipeline("payments"), "GET", peer.url))
    assert str(caught.value) == "the time for the outgoing request ran out"


def test_a_timeout_of_the_clients_own_stays_its_own(flavour: Flavour, peer: Peer) -> None:
    peer.will(says_nothing, stalls())
    pipeline = Pipeline("payments", Deadline(20.0))
    with pytest.raises(flavour.timeouts):
        flavour.send(pipeline, "GET", peer.url, timeout=0.05)
    with pytest.raises((*flavour.timeouts, *flavour.connection_errors)):
        flavour.send(pipeline, "GET", peer.url, timeout=0.05)


# --- streams --------------------------------------------------------------------------------------------------------------------


def events(handler: Handler) -> None:
    """An event now, and one when the deadline of a test has long passed."""
    handler.head(200, {"content-type": "text/event-stream; charset=utf-8", "content-length": "20"})
    handler.wfile.write(b"data: one\n")
    handler.wfile.flush()
    handler.peer.over.wait(1.5 * EVENTS_S)
    handler.wfile.write(b"data: two\n")


def test_an_event_stream_outlives_the_deadline(flavour: Flavour, peer: Peer) -> None:
    pipeline, deadline, breaker = patient(default_s=EVENTS_S)
    peer.will(events)
    assert flavour.send(pipeline, "GET", peer.url).content == b"data: one\ndata: two\n"
    assert (breaker.state, deadline.state.expired) == (BreakerState.CLOSED, 0)


def test_an_event_stream_is_bound_by_it_where_that_is_asked_for(flavour: Flavour, peer: Peer) -> None:
    pipeline, deadline, breaker = patient(default_s=EVENTS_S, streams=True)
    peer.will(events)
    with pytest.raises(DeadlineExceeded):
        flavour.send(pipeline, "GET", peer.url)
    assert (breaker.state, deadline.state.expired) == (BreakerState.CLOSED, 1)  # its vote was its start
