"""How long a thread waits for parts of a body: httpcore asks once a body, and time goes on while it is read."""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest

from resilience import Deadline, DeadlineExceeded, Pipeline
from resilience.integrations.httpx import ResilienceTransport
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import FLAVOURS, OTHERS, Flavour, Session
from tests.integrations.outgoing.peer import Handler, Peer, says

IN_THREADS: Final = [flavour for flavour in (*FLAVOURS, *OTHERS) if type(flavour) is Flavour]
in_threads = pytest.mark.parametrize("flavour", IN_THREADS, ids=str)


def pauses(handler: Handler) -> None:
    """A part of a body, and the rest in a second, unless the client hangs up before."""
    handler.head(200, {"content-length": "10"})
    handler.wfile.write(b"part")
    handler.wfile.flush()
    handler.connection.settimeout(1.0)
    try:
        handler.connection.recv(1)
    except TimeoutError:
        handler.wfile.write(b"ed one")
    handler.close_connection = True


@in_threads
def test_each_wait_takes_no_longer_than_what_is_left_by_then(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(pauses)

    async def scenario(session: Session) -> None:
        opened = await session.open("GET", peer.url)
        assert await opened.part() == b"part"
        clock.advance(4.95)
        with pytest.raises(DeadlineExceeded):
            await opened.part()
        assert (await session.send("GET", peer.url)).content == b"done"

    flavour.run(scenario, pipeline=Pipeline("payments", Deadline(5.0, clock=clock)), places=1)


@in_threads
def test_a_connection_that_is_used_again_knows_nothing_of_the_deadline_before(
    flavour: Flavour, peer: Peer, clock: ManualClock
) -> None:
    bound, unbound = Pipeline("bound", Deadline(0.2, clock=clock)), Pipeline("unbound")

    def later(handler: Handler) -> None:
        handler.peer.over.wait(0.1)
        says(200, b"later")(handler)

    async def scenario(session: Session) -> None:
        assert (await session.send("GET", peer.url)).content == b"done"
        clock.advance(0.15)
        peer.will(later)
        assert (await session.send("PUT", peer.url)).content == b"later"

    flavour.run(scenario, pipeline=lambda method, host: bound if method == "GET" else unbound, places=1)
    assert peer.connections == 1


class Sealed:
    """A connection of another transport, in which nothing can be put."""

    __slots__ = ()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise AssertionError("the response reads by itself")


@pytest.mark.parametrize(
    "extensions", [{}, {"network_stream": Sealed(), "http_version": b"HTTP/1.1"}, {"network_stream": Sealed()}]
)
def test_a_transport_that_shows_no_connection_waits_as_it_does(clock: ManualClock, extensions: dict[str, Any]) -> None:
    inner = httpx.MockTransport(lambda request: httpx.Response(200, content=iter([b"a ", b"body"]), extensions=extensions))
    transport = ResilienceTransport(inner, pipeline=Pipeline("payments", Deadline(5.0, clock=clock)))
    with httpx.Client(transport=transport) as client:
        assert client.get("http://payments.example").text == "a body"
