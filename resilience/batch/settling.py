"""What becomes of the requests of one batch: each result is taken once, counted, and kept or handed on; and whether it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from resilience.batch.plan import BatchPlan
from resilience.batch.result import BatchStopped, CallCancelled, Err, Kind, PoolExhausted, Report, Result, timed_out
from resilience.batch.tally import Tally
from resilience.clock import US_PER_S

log = logging.getLogger("resilience")

Deliver = Callable[[int, Any, "Result[Any]"], None]
"""Takes the result of the request at an index."""


class Settling:
    """The results of one batch.

    Args:
        plan: what the caller of the batch has settled beforehand.
        total: how many requests there will be, or None where nobody knows.
        deliver: takes each result of a stream, once; None: they are kept in `results`, in the order of their requests.
    """

    def __init__(self, plan: BatchPlan, total: int | None, deliver: Deliver | None) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.clock = plan.clock
        self.began_us = plan.began_us
        self.tally = Tally()
        self.stopped = ""
        self.results: list[Any] = []
        self._total = total
        self._deliver = deliver
        self._next = 0
        self._stop_over = self.settings.stop_over
        self._hedge_us = plan.hedge_us
        self._on_progress = plan.on_progress
        self._counts_only = deliver is None and plan.on_progress is None and plan.hedge_us is None

    def _count(self) -> int:
        """One more request. Returns its place."""
        index = self._next
        self._next = index + 1
        if self._deliver is None:
            self.results.append(None)
        return index

    def _settle(self, index: int, request: Any, result: Result[Any]) -> None:
        tally = self.tally
        if not isinstance(result, Err):
            tally.ok += 1
            if self._hedge_us is not None:
                self.plan.budget.earn()
        else:
            tally.fail(result)
            if self._stop_over is not None and tally.is_over(self._stop_over, self.settings.stop_min_calls):
                self._stop("failures")
        if self._deliver is None:
            self.results[index] = result
        else:
            self._deliver(index, request, result)
        if self._on_progress is not None:
            self._tell()

    def _stop(self, why: str) -> None:
        """Begin no further call. Those in flight go on to their own ends."""
        if not self.stopped:
            self.stopped = why

    def _not_begun(self) -> Err:
        name = self.plan.name
        if self.stopped == "timeout":
            return timed_out(name, began=False)
        if self.stopped == "threads":
            return self.no_thread()
        if self.stopped == "failures":
            return Err(BatchStopped(f"{name}: too many calls before this one have failed"), Kind.CANCELLED)
        return self._cancelled()

    def _cancelled(self) -> Err:
        return Err(CallCancelled(f"{self.plan.name}: the batch was cancelled"), Kind.CANCELLED)

    def no_thread(self) -> Err:
        """The result of a call for which there is no thread."""
        return Err(PoolExhausted(policy=self.plan.name, reason="threads"), Kind.REFUSED)

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        try:
            self._on_progress(self.tally.progress(self._total))
        except Exception:
            self._on_progress = None
            log.exception("%s: its progress callback raised and is told nothing more", self.plan.name)

    def report(self) -> Report:
        """How it went, up to now."""
        took_s = (self.clock.now_us() - self.began_us) / US_PER_S
        return self.tally.report(self.settings.concurrency, self.stopped, took_s)
