"""Fixtures of the tests of batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience.batch import BatchCaller
from resilience.testing import ManualClock, no_leaks_fixture
from tests.batch.acts import Fan, in_tasks, in_threads

no_leaks = no_leaks_fixture(autouse=True)


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves only when told."""
    return ManualClock(auto_advance=False)


@pytest.fixture(params=[in_tasks, in_threads], ids=["tasks", "threads"])
def fan(request: pytest.FixtureRequest) -> Fan:
    """Each test that takes this runs through both drivers."""
    found: Fan = request.param
    return found


@pytest.fixture
def make(no_leaks: None) -> Iterator[Callable[..., BatchCaller]]:
    """Makes batch callers whose threads end with the test."""
    made: list[BatchCaller] = []

    def make_one(name: str = "prices", **settings: Any) -> BatchCaller:
        made.append(BatchCaller(name, **settings))
        return made[-1]

    yield make_one
    for caller in made:
        caller.close()


@pytest.fixture
def released(make: Callable[..., BatchCaller]) -> Iterator[threading.Event]:
    """Lets go of what hangs in threads, with the end of the test."""
    event = threading.Event()
    yield event
    event.set()
