"""What all tests of outgoing requests share: a peer over real sockets, and every client that has a room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.testing import ManualClock, no_leaks_fixture
from tests.integrations.outgoing.clients import FLAVOURS, Flavour
from tests.integrations.outgoing.peer import Peer, peering

no_leaks = no_leaks_fixture(autouse=True)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The service that is called."""
    with peering() as found:
        yield found


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves only when told."""
    return ManualClock()


@pytest.fixture(params=FLAVOURS, ids=str)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each test that takes this runs with every client."""
    found: Flavour = request.param
    return found
