"""One room serves httpx and httpx2, in threads and in tasks. What the tests of all clients leave out is told here in short."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import httpx2
import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.integrations.httpx import AsyncResilienceTransport, ResilienceTransport
from resilience.testing import ManualClock
from tests.integrations.asgi.server import serving
from tests.integrations.outgoing.clients import OTHERS, Flavour, Session, how
from tests.integrations.outgoing.peer import Peer, breaks_off, hangs_up, says, says_nothing, stalls

each_other = pytest.mark.parametrize("flavour", OTHERS, ids=str)


@each_other
def test_a_story_of_three_tries(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503, retry_after="2"), hangs_up)
    breaker = CircuitBreaker(clock=clock)
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock), Retry(backoff_s=0.5, clock=clock), breaker)
    answered = flavour.send(pipeline, "POST", peer.url, body=b"10 EUR", headers={"Idempotency-Key": "7"})
    assert (answered.status_code, answered.content) == (200, b"done")
    assert peer.bodies == [b"10 EUR"] * 3
    assert peer.values("x-envoy-expected-rq-timeout-ms") == ["5000", "3000", "2500"]
    assert peer.values("x-retry-attempt") == [None, "1", "2"]
    assert clock.slept_s == [2.0, 0.5]


@each_other
@pytest.mark.parametrize("answer", [says_nothing, stalls()], ids=["no head", "half a body"])
def test_a_story_of_a_deadline(flavour: Flavour, peer: Peer, answer: Any) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    peer.will(answer)

    async def scenario(session: Session) -> Any:
        return await how(session.send("GET", peer.url))

    assert flavour.run(scenario, pipeline=Pipeline("payments", Deadline(0.08), breaker), places=1) is DeadlineExceeded
    assert breaker.state is BreakerState.OPEN


@each_other
def test_a_story_of_a_stream(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    peer.will(says(200, b"0123456789"), breaks_off)

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert await opened.part() == b"0123456789"
        assert await opened.part() is None
        opened = await session.open("GET", peer.url)
        await opened.part()
        with pytest.raises(flavour.connection_errors):
            await opened.part()
        await opened.close()

    flavour.run(scenario, pipeline=Pipeline("payments", breaker))
    assert breaker.state is BreakerState.OPEN


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A websocket that says what it is told."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def test_a_websocket_votes_when_it_is_accepted_and_outlives_the_deadline(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=1.0, clock=clock)
    with pytest.raises(ZeroDivisionError):
        Pipeline("broken", breaker).call(lambda: 1 / 0)
    clock.advance(1.0)
    transport = ResilienceTransport(pipeline=Pipeline("feed", Deadline(5.0, clock=clock), Retry(clock=clock), breaker))
    with (
        serving(echo, lifespan="off") as server,
        httpx2.Client(transport=transport, trust_env=False) as client,
        client.websocket(f"ws://127.0.0.1:{server.port}/") as websocket,
    ):
        assert breaker.state is BreakerState.CLOSED
        clock.advance(60.0)
        websocket.send_text("still there?")
        assert websocket.receive_text() == "still there?"


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_transports_are_what_both_libraries_take_for_one(library: Any) -> None:
    assert isinstance(ResilienceTransport(pipeline=Pipeline("payments")), library.BaseTransport)
    assert isinstance(AsyncResilienceTransport(pipeline=Pipeline("payments")), library.AsyncBaseTransport)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_without_a_transport_of_its_own_it_takes_that_of_the_clients_library(library: Any, peer: Peer) -> None:
    with library.Client(transport=ResilienceTransport(pipeline=Pipeline("payments")), trust_env=False) as client:
        answered = client.get(peer.url)
    assert answered.text == "done"
    (agent,) = peer.values("user-agent")
    assert agent is not None
    assert agent.startswith(f"python-{library.__name__}/")


MISSING = """
import sys
for name in {missing}:
    sys.modules[name] = None
from resilience.integrations.httpx.library import LIBRARIES
print(*[library.__name__ for library in LIBRARIES])
"""


@pytest.mark.parametrize(("missing", "found"), [(["httpx"], "httpx2"), (["httpx2"], "httpx")])
def test_either_library_will_do(missing: list[str], found: str) -> None:
    code = MISSING.format(missing=missing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == found


def test_with_neither_it_says_what_to_install() -> None:
    code = MISSING.format(missing=["httpx", "httpx2"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert (
        "ImportError: resilience.integrations.httpx needs httpx or httpx2: pip install 'resilience-middleware[httpx]'"
        in done.stderr
    )
