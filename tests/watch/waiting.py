"""Waiting for what another thread or process must do."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 30.0
"""No wait takes so long unless something is broken."""


def wait_until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> float:
    """Return as soon as `condition()` is true, with the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"waited {limit_s:g} s in vain until {what}"
        time.sleep(0.01)
    return time.monotonic() - began
