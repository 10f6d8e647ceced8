"""Every test here must leave the process as it found it, and talks to a peer over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.testing import ManualClock, no_leaks_fixture
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
