"""The time an inbound request asks for."""

from __future__ import annotations

from collections.abc import Iterable

from resilience.layers.deadline import Deadline
from resilience.layers.timeouts import PARSERS


def inbound_timeout_s(deadline: Deadline, headers: Iterable[tuple[str, str]]) -> float | None:
    """The earliest timeout among headers that `deadline` reads (lower-case names). A malformed one is counted and ignored."""
    earliest_s: float | None = None
    for name, value in headers:
        if name not in deadline.settings.read:
            continue
        timeout_s = PARSERS[name](value)
        if timeout_s is None:
            deadline.state.count_malformed()
        elif earliest_s is None or timeout_s < earliest_s:
            earliest_s = timeout_s
    return earliest_s
