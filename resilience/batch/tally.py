"""The counts of one batch, and what follows from them: whether too many calls have failed, how far it is, how it went."""

from __future__ import annotations

from collections import Counter

from resilience.batch.plan import Progress
from resilience.batch.result import Err, Kind, Report


class Tally:
    """Counts the results of one batch. `ok` are values; `failures` what failed, without what was cancelled."""

    __slots__ = ("abandoned", "failed", "failures", "hedged", "ok", "peak")

    def __init__(self) -> None:
        self.ok = 0
        self.failed: Counter[Kind] = Counter()
        self.failures = 0
        self.hedged = 0
        self.abandoned = 0
        self.peak = 0

    def fail(self, result: Err) -> None:
        """One more that has no value."""
        self.failed[result.kind] += 1
        self.failures += result.kind is not Kind.CANCELLED

    @property
    def settled(self) -> int:
        """Requests that have their result."""
        return self.ok + self.failed.total()

    def is_over(self, share: float, min_calls: int) -> bool:
        """Whether more than `share` of at least `min_calls` calls that have ended failed."""
        settled = self.settled
        return settled >= min_calls and self.failures / settled > share  # 29 of 100 are not over 0.29, which 0.29 * 100 is below

    def progress(self, total: int | None) -> Progress:
        """How far it is, of `total` calls."""
        return Progress(self.settled, total, self.ok, self.failures)

    def report(self, concurrency: int, stopped: str, took_s: float) -> Report:
        """How it went, up to now."""
        peak = min(self.peak, concurrency)  # what was handed over beyond that has waited for a thread
        return Report(self.ok, dict(self.failed), self.hedged, self.abandoned, peak, stopped, took_s)
