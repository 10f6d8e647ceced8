"""What the batches of one caller have come to, as plain integers: those that are over, and those at work."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Protocol

from resilience.batch.abandoned import Abandoned
from resilience.batch.result import Kind, Report
from resilience.registry import enrol

DONE = "done"


class Counted(Protocol):
    """A batch at work."""

    in_flight: int

    def report(self) -> Report:
        """How it goes."""


class BatchCounts:
    """The counts of one caller. A call costs it nothing: a batch counts for itself, and is added when it is over."""

    def __init__(self, name: str, abandoned: Abandoned) -> None:
        self.name = name
        self.abandoned = abandoned
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._ends: Counter[str] = Counter()
        self._hedged = 0
        self._at_work: set[Counted] = set()
        enrol(self)

    def renew_locks(self) -> None:
        """In a forked child: the batches of its parent are not at work there."""
        self._lock = threading.Lock()
        self._at_work = set()

    def began(self, run: Counted) -> None:
        """One more is at work."""
        with self._lock:
            self._at_work.add(run)

    def ended(self, run: Counted, report: Report) -> None:
        """One is over."""
        with self._lock:
            self._at_work.discard(run)
            for result, count in _calls_of(report).items():
                self._calls[result] += count
            self._ends[report.stopped or DONE] += 1
            self._hedged += report.hedged

    def calls(self) -> Counter[str]:
        """Calls that have their result, by "ok" or the kind of failure."""
        with self._lock:
            counts = Counter(self._calls)
            for run in self._at_work:
                counts.update(_calls_of(run.report()))
        return Counter({**dict.fromkeys(["ok", *(kind.value for kind in Kind)], 0), **counts})

    def ends(self) -> Counter[str]:
        """Batches that are over, by "done" or why they were stopped."""
        with self._lock:
            return Counter({DONE: 0, **self._ends})

    def hedged(self) -> int:
        """Second tries sent."""
        with self._lock:
            return self._hedged + sum(run.report().hedged for run in self._at_work)

    def in_flight(self) -> int:
        """Calls in flight."""
        with self._lock:
            return sum(run.in_flight for run in self._at_work)


def _calls_of(report: Report) -> dict[str, int]:
    return {"ok": report.ok, **{kind.value: count for kind, count in report.failed.items()}}
