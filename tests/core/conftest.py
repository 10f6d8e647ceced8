"""Fixtures of the core's tests."""

from __future__ import annotations

import pytest

from resilience.testing import ManualClock, no_leaks_fixture
from tests.core.helpers import Drive, via_async, via_sync

no_leaks = no_leaks_fixture(autouse=True)


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves only when told."""
    return ManualClock()


@pytest.fixture(params=[via_sync, via_async], ids=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Each test that takes this runs through both drivers."""
    driver: Drive = request.param
    return driver
