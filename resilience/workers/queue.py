"""The queue of a pool: by priority, first in first out within one, and nobody starves. Arithmetic only; the pool holds the lock.

A task counts as one priority more urgent for each `ageing` that it has waited. All age alike, so what comes first does not change
while they wait: it is the one with the least `priority x ageing + instant of arrival`.
"""

from __future__ import annotations

from collections import deque

from resilience.workers.entry import QUEUED, Entry
from resilience.workers.settings import PRIORITIES

_COMPACTED_FROM = 64


class TaskQueue:
    """Tasks that wait. One that is over meanwhile is dropped when it is met, or when more of those are kept than of others."""

    __slots__ = ("_arrivals_us", "_last_us", "_lines", "_over", "_used", "length")

    def __init__(self) -> None:
        self._lines: tuple[deque[Entry], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._used: list[int] = []  # the priorities whose lines are not empty, ascending
        self._over = 0  # how many in the lines are over
        self._arrivals_us = 0  # the sum of the instants at which those that wait arrived
        self._last_us = 0
        self.length = 0

    def push(self, entry: Entry) -> None:
        """Put it at the end of its line. A clock that went back counts as standing still."""
        if entry.submitted_us < self._last_us:
            entry.submitted_us = self._last_us
        self._last_us = entry.submitted_us
        line = self._lines[entry.priority]
        if line:
            line.append(entry)
            self.length += 1
            self._arrivals_us += entry.submitted_us
        else:
            self._line_of(entry).append(entry)

    def push_first(self, entry: Entry) -> None:
        """Put it back at the start of its line."""
        self._line_of(entry).appendleft(entry)

    def _line_of(self, entry: Entry) -> deque[Entry]:
        line = self._lines[entry.priority]
        if not line:
            self._used.append(entry.priority)
            self._used.sort()
        self.length += 1
        self._arrivals_us += entry.submitted_us
        return line

    def pop(self, ageing_us: int) -> Entry | None:
        """Take the one that comes first. Between two that come to the same, the lower priority number goes first."""
        if not self.length:
            return None
        if len(self._used) == 1 and not self._over:  # the usual case
            line = self._lines[self._used[0]]
            entry = line.popleft()
            if not line:
                self._used.clear()
            self.length -= 1
            self._arrivals_us -= entry.submitted_us
            return entry
        best: deque[Entry] | None = None
        least = 0
        for priority in tuple(self._used):
            line = self._lines[priority]
            while line and line[0].state != QUEUED:
                line.popleft()
                self._over -= 1
            if not line:
                self._used.remove(priority)
                continue
            weight = priority * ageing_us + line[0].submitted_us
            if best is None or weight < least:
                best, least = line, weight
        if best is None:
            return None
        entry = best.popleft()
        if not best:
            self._used.remove(entry.priority)
        self.length -= 1
        self._arrivals_us -= entry.submitted_us
        return entry

    def forget(self, entry: Entry) -> None:
        """One that waited is over: cancelled or timed out."""
        self.length -= 1
        self._arrivals_us -= entry.submitted_us
        self._over += 1
        if self._over > _COMPACTED_FROM and self._over > self.length:
            self._compact()

    def _compact(self) -> None:
        for line in self._lines:
            kept = [entry for entry in line if entry.state == QUEUED]
            line.clear()
            line.extend(kept)
        self._used = [priority for priority, line in enumerate(self._lines) if line]
        self._over = 0

    def waited_us(self, now_us: int) -> int:
        """How long all that wait have waited so far, together."""
        return max(0, self.length * now_us - self._arrivals_us)

    def all(self) -> list[Entry]:
        """Those that wait, in no order."""
        return [entry for line in self._lines for entry in line if entry.state == QUEUED]
