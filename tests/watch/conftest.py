"""Other tests leave files watched, as services do that run until their process ends; here it is counted who watches."""

from __future__ import annotations

import pytest

from resilience.watch import THREAD


@pytest.fixture(autouse=True)
def nobody_else_is_watching() -> None:
    """Take away what was there before."""
    THREAD.stop()
