"""How a pool says no. Over the rate is the limiter's own `RateLimited`; these are the others. Each is a `Rejected`."""

from __future__ import annotations

from resilience.errors import DeadlineExceeded, Rejected


class PoolFull(Rejected):
    """As many tasks wait as may. `reason` is "full", or "not_kept": failed tasks that could not be stored fill the places."""

    def _what(self) -> str:
        if self.reason == "not_kept":
            return "the pool is full of failed tasks that cannot be stored"
        return "the pool is full"


class PoolClosed(Rejected):
    """The pool is shutting down, or is shut. Tasks that it had accepted and could not finish end with this error too."""

    def _what(self) -> str:
        return "the pool is shutting down"


class TaskTimedOut(DeadlineExceeded):
    """The time of the task, or of its pool, has run out. `reason` is "expired", or "expired_on_arrival" before it was begun."""

    def _what(self) -> str:
        return "the task timed out" + (" before it was begun" if self.reason == "expired_on_arrival" else "")
