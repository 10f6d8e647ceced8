"""How long trips to a store took: the seam to telemetry, which puts a histogram in the place of `record`."""

from __future__ import annotations

from collections.abc import Callable

Record = Callable[[float, str, str], None]


def _unrecorded(duration_s: float, store: str, result: str) -> None:
    return None


record: Record = _unrecorded
"""Takes seconds, the kind of store, and "ok" or "failed". Called as `store_timing.record`."""


def install(answer: Record) -> None:
    """Put `answer` in the place of `record` for this process."""
    global record
    record = answer
