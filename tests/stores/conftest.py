"""One real server for the tests of this folder; each test has a name of its own in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.stores.servers import Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Shared by all tests that only ask it. Whoever stops or kills a server starts one."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def name() -> str:
    """What the keys of a test begin with."""
    return f"test{next(_numbers)}"
