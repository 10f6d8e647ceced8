"""What a pool sees of its load, summed up in whole microseconds. The pool holds the lock."""

from __future__ import annotations

from resilience.workers.scaling import Load


class Totals:
    """Sums since the pool began. The difference of two readings is what happened between them."""

    __slots__ = ("arrived", "began_us", "busy", "busy_us", "finished", "last_us", "ran_us", "waited_us", "waits")

    def __init__(self, now_us: int) -> None:
        self.began_us = now_us
        self.last_us = now_us
        self.arrived = 0
        self.finished = 0
        self.ran_us = 0
        self.busy = 0  # workers at work now
        self.busy_us = 0
        self.waits = 0
        self.waited_us = 0

    def to(self, now_us: int) -> None:
        """Time has passed."""
        if now_us > self.last_us:
            self.busy_us += self.busy * (now_us - self.last_us)
            self.last_us = now_us

    def mark(self) -> tuple[int, int, int, int, int, int, int]:
        """A reading."""
        return self.last_us, self.arrived, self.finished, self.ran_us, self.busy_us, self.waits, self.waited_us

    def since(self, mark: tuple[int, int, int, int, int, int, int], queued: int, waited_us: int) -> Load:
        """What happened since a reading; `queued` tasks wait, and have waited `waited_us` together."""
        now = self.mark()
        over_us, arrived, finished, ran_us, busy_us, waits, total_us = (one - other for one, other in zip(now, mark, strict=True))
        return Load(max(1, over_us), arrived, finished, ran_us, busy_us, waits + queued, total_us + waited_us, queued)
