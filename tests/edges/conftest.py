"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from resilience.testing import ManualClock, no_leaks_fixture

no_leaks = no_leaks_fixture(autouse=True)


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves only when told."""
    return ManualClock()
