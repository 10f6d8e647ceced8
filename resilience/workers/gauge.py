"""What a pool sees of its load, summed up in whole microseconds. The pool holds the lock."""

from __future__ import annotations

from typing import Final, NamedTuple

from resilience.workers.scaling import Load

_REMEMBERED: Final = 50
"""So many tasks and the mean time that they run is that of these alone."""


class Mark(NamedTuple):
    """A reading of the sums."""

    at_us: int
    arrived: int
    busy_us: int
    waits: int
    waited_us: int


class Totals:
    """Sums since the pool began. The difference of two readings is what happened between them."""

    __slots__ = ("_learnt", "_learnt_us", "arrived", "busy", "busy_us", "finished", "last_us", "waited_us", "waits")

    def __init__(self, now_us: int) -> None:
        self.last_us = now_us
        self.arrived = 0
        self.finished = 0
        self.busy = 0  # workers at work now
        self.busy_us = 0
        self.waits = 0
        self.waited_us = 0
        self._learnt = self._learnt_us = 0

    def to(self, now_us: int) -> None:
        """Time has passed."""
        if now_us > self.last_us:
            self.busy_us += self.busy * (now_us - self.last_us)
            self.last_us = now_us

    def mark(self) -> Mark:
        """A reading."""
        return Mark(self.last_us, self.arrived, self.busy_us, self.waits, self.waited_us)

    def since(self, mark: Mark, queued: int, waited_us: int, run_us: float) -> Load:
        """What happened since a reading; `queued` tasks wait, and have waited `waited_us` together."""
        return Load(
            over_us=max(1, self.last_us - mark.at_us),
            arrived=self.arrived - mark.arrived,
            busy_us=self.busy_us - mark.busy_us,
            waits=self.waits - mark.waits + queued,
            waited_us=self.waited_us - mark.waited_us + waited_us,
            queued=queued,
            run_us=run_us,
        )

    def learn(self, mean_run_us: float) -> float:
        """The mean time that tasks run, from what it was and from those that ended since it was asked for last."""
        finished = self.finished - self._learnt
        if not self.finished:  # none has ended: as long as those that run have run, at least
            return self.busy_us / self.busy if self.busy else 0.0
        if not finished:
            return mean_run_us
        # The time of those that still run counts too: those that ended soonest tell of short ones only.
        busy_us = self.busy_us - self._learnt_us
        self._learnt, self._learnt_us = self.finished, self.busy_us
        weight = min(1.0, finished / min(_REMEMBERED, self.finished))
        return mean_run_us + weight * (busy_us / finished - mean_run_us)
