"""One real server for the tests of this folder; each test has a name of its own in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.stores.clusters import TestCluster
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


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[TestCluster]:
    """One for all tests: it takes a cluster two seconds to begin."""
    cluster = TestCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: TestCluster) -> TestCluster:
    """With all nodes up, whatever a test before has done to them."""
    shared_cluster.eventually_agreed()
    return shared_cluster
