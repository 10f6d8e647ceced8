"""Stores of the host in folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings
from resilience.testing import ManualClock

MakeStore = Callable[[], HostStore]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the machine has it: closer to what services use, and quicker."""
    memory = Path("/dev/shm")  # a folder of its own within
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture
def make_store(folder: Path, clock: ManualClock) -> Iterator[MakeStore]:
    """Makes stores that share their files, as several processes do; without threads, each beats when the test says so."""
    made: list[HostStore] = []

    def make() -> HostStore:
        made.append(HostStore(HostStoreSettings("test", str(folder)), clock, beats=False))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> HostStore:
    return make_store()
