"""A real server, and every kind of client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.testing import ManualClock
from tests.integrations.grpc.client.clients import CLIENTS, Driven
from tests.integrations.grpc.client.peer import Peer, served


@pytest.fixture(scope="package")
def server() -> Iterator[Peer]:
    """One server for all of these tests."""
    with served() as peer:
        yield peer


@pytest.fixture
def peer(server: Peer) -> Peer:
    """The server, with nothing to remember."""
    server.forget()
    return server


@pytest.fixture(params=CLIENTS)
def drive(request: pytest.FixtureRequest, peer: Peer) -> Driven:
    """Runs a test's steps with each kind of client."""
    return Driven(CLIENTS[request.param], peer.target)


@pytest.fixture
def clock() -> ManualClock:
    """Time that waits let pass at once."""
    return ManualClock()
