"""The books of a pool: what waits, who works, what became of it. Arithmetic only, for threads and for tasks alike.

Whoever drives it holds the pool's lock, reads the clock before, and does what it returns after the lock is released: starts
workers, tells futures. At any instant: accepted = done + failed + timed out + cancelled + pending.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from resilience.clock import to_us
from resilience.health import NEVER_US, PPB, HealthSignal
from resilience.workers.entry import OVER, QUEUED, RUNNING, Entry, Worker
from resilience.workers.gauge import Totals
from resilience.workers.queue import TaskQueue
from resilience.workers.scaling import Load, grown, is_low, is_slow, is_worn_out, is_worth_a_look, needed, rest_us, shrunk
from resilience.workers.settings import WorkerPoolSettings

LOOK_EVERY_US: Final = 1_000_000
_COMPACTED_FROM: Final = 64
W = TypeVar("W", bound=Worker)


class Ended(Enum):
    """What became of a task."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class Refusal(Enum):
    """Why a task is not accepted."""

    FULL = "full"
    NOT_KEPT = "not_kept"
    CLOSED = "closed"


class Expired(NamedTuple):
    """A task whose time is over. `was_running`: it had begun. `is_abandoned`: another worker stands in for its own."""

    entry: Entry
    was_running: bool
    is_abandoned: bool


class Step(NamedTuple):
    """The pool has another size."""

    old: int
    size: int


class Due(NamedTuple):
    """What is to be done at an instant: futures to tell, workers to end, workers to set to work, and the step that was made."""

    expired: list[Expired]
    stopped: list[Worker]
    started: list[Worker]
    step: Step | None


class PoolCore(Generic[W]):
    """The books. `new_worker` makes one that is not started yet."""

    def __init__(self, settings: WorkerPoolSettings, health: HealthSignal | None, new_worker: Callable[[], W], now_us: int) -> None:
        self.new_worker = new_worker
        self.queue = TaskQueue()
        self.totals = Totals(now_us)
        self.health = health
        self.closing = False
        self.began_us = now_us
        self.size = settings.min_workers
        self.workers = 0  # those that are there; the abandoned are not among them
        self.abandoned = 0
        self.idle: list[W] = []
        self.accepted = 0
        self.unkept = 0
        self.steps = 0
        self.ended = dict.fromkeys(Ended, 0)
        self.running: set[Entry] = set()
        self.late: list[Expired] = []  # their time was over when a worker came to them; see `take_late`
        self._stuck: list[Entry] = []  # told that their time is over and still at work, with nobody to stand in for them
        self._deadlines: list[tuple[int, int, Entry]] = []
        self._deadlines_over = 0
        self._numbers = itertools.count()
        self._recent = self._long = self.totals.mark()
        self._rest_until_us = 0
        self._quiet_since_us = now_us
        self._most_needed = 0  # since then
        self._is_slow = False
        self.mean_wait_us = 0.0
        self.mean_run_us = 0.0
        self.configure(settings, now_us)

    def configure(self, settings: WorkerPoolSettings, now_us: int) -> None:
        """Go by new settings. Tasks that were accepted keep the time they were given; `look` does what follows."""
        self.settings = settings
        self.ageing_us = to_us(settings.ageing_s)
        self.timeout_us = None if settings.timeout_s is None else to_us(settings.timeout_s)
        self.pool_deadline_us = None if settings.pool_timeout_s is None else self.began_us + to_us(settings.pool_timeout_s)
        self.size = min(max(self.size, settings.min_workers), settings.max_workers)
        self._stand_in()

    @property
    def busy(self) -> int:
        """Workers at work, without the abandoned."""
        return self.totals.busy

    @property
    def pending(self) -> int:
        """Tasks that were accepted and whose end is not known yet."""
        return self.queue.length + len(self.running)

    def most_busy(self, now_us: int) -> int:
        """How many workers may be at work now: fewer while health is reduced, but always one."""
        if self.health is None:
            return self.size
        return min(self.size, max(1, self.settings.max_workers * self.health.factor_ppb_at(now_us) // PPB))

    # --- a task comes, and ends ------------------------------------------------------------------------------------------------

    def refusal(self, now_us: int) -> Refusal | None:
        """Why no task is accepted now, or None. Failed tasks that could not be stored take places in the queue."""
        if self.closing:
            return Refusal.CLOSED
        if self.queue.length + self.unkept < self.settings.queue:
            return None
        if self.unkept and self.unkept >= self.settings.queue:
            return Refusal.NOT_KEPT
        return None if not self.queue.length and self._has_place(now_us) else Refusal.FULL

    def accept(self, entry: Entry, now_us: int) -> W | None:
        """Take a task that `refusal` has nothing against. Returns the worker that is to begin it, or None: it waits."""
        self.totals.to(now_us)
        self.accepted += 1
        self.totals.arrived += 1
        entry.submitted_us = now_us
        if entry.deadline_us is not None:
            heapq.heappush(self._deadlines, (entry.deadline_us, next(self._numbers), entry))
        if not self.queue.length and self._has_place(now_us):
            worker = self._free_worker()
            self._begin(entry, worker, now_us)
            return worker
        self.queue.push(entry)
        return None

    def end(self, entry: Entry, how: Ended) -> bool:
        """A task has come to its end. False: somebody else was first."""
        if entry.state == OVER:
            return False
        was_queued = entry.state == QUEUED
        self._close(entry, how)
        if was_queued:
            self.queue.forget(entry)
        else:
            self.running.discard(entry)
        return True

    def _close(self, entry: Entry, how: Ended) -> None:
        entry.state = OVER
        self.ended[how] += 1
        if entry.deadline_us is not None:
            self._deadlines_over += 1
            if self._deadlines_over > _COMPACTED_FROM and self._deadlines_over * 2 > len(self._deadlines):
                self._compact()

    def leave(self, worker: W, now_us: int) -> Entry | None:
        """A worker has nothing to do any more. Returns its next task; with None it is idle, or `stopped`."""
        totals = self.totals
        totals.to(now_us)
        entry = worker.entry
        if entry is not None:
            worker.entry = None
            totals.finished += 1
            if worker.abandoned:
                worker.abandoned = False
                self.abandoned -= 1
                if self._stuck:
                    self._stand_in()
            else:
                totals.busy -= 1
                self.workers -= 1
                if self._stuck and entry in self._stuck:
                    self._stuck.remove(entry)
        if self.workers >= self.size:
            worker.stopped = True
            return None
        self.workers += 1
        following = self._next(now_us)
        if following is None:
            self.idle.append(worker)
        else:
            self._set_to(following, worker, now_us)
        return following

    # --- what time brings ------------------------------------------------------------------------------------------------------

    def next_look_us(self, now_us: int) -> int:
        """When `look` has something to do next, if nothing happens before."""
        while self._deadlines and self._deadlines[0][2].state == OVER:
            heapq.heappop(self._deadlines)
            self._deadlines_over -= 1
        first_us = self._deadlines[0][0] if self._deadlines else NEVER_US
        is_at_rest = self.closing or (self.size == self.settings.min_workers and not self.unkept)
        return first_us if is_at_rest and not self.pending else min(first_us, now_us + LOOK_EVERY_US)

    def look(self, now_us: int) -> Due:
        """Do what is due: end tasks whose time is over, find the right size, and set workers to what waits."""
        self.totals.to(now_us)
        expired = [*self.take_late(), *self._expire(now_us)]
        step = self._scale(now_us)
        started: list[Worker] = []
        while self._has_place(now_us):
            entry = self._next(now_us)
            if entry is None:
                break
            worker = self._free_worker()
            self._set_to(entry, worker, now_us)
            started.append(worker)
        stopped: list[Worker] = []
        while self.idle and self.workers > self.size:
            idle = self.idle.pop(0)  # the one that has been idle the longest
            idle.stopped = True
            self.workers -= 1
            stopped.append(idle)
        return Due([*expired, *self.take_late()], stopped, started, step)

    def take_late(self) -> list[Expired]:
        """Tasks whose time was over when a worker came to them: to be told once the lock is released."""
        late, self.late = self.late, []
        return late

    def _expire(self, now_us: int) -> list[Expired]:
        expired = []
        while self._deadlines and (self._deadlines[0][0] <= now_us or self._deadlines[0][2].state == OVER):
            _, _, entry = heapq.heappop(self._deadlines)
            if entry.state == OVER:
                self._deadlines_over -= 1
            else:
                expired.append(self.expire(entry))
                self._deadlines_over -= 1  # it is not among them any more
        return expired

    def expire(self, entry: Entry, how: Ended = Ended.TIMED_OUT) -> Expired:
        """End a task whose time is over. For one that runs another worker may stand in, since nobody can stop it."""
        was_running = entry.state == RUNNING
        self.end(entry, how)
        return Expired(entry, was_running, was_running and self._abandon(entry))

    def _abandon(self, entry: Entry) -> bool:
        worker = entry.worker
        if worker is None or worker.entry is not entry:
            return False
        if self.abandoned >= self.settings.abandoned_at_most:
            self._stuck.append(entry)
            return False
        worker.abandoned = True
        self.abandoned += 1
        self.totals.busy -= 1
        self.workers -= 1
        return True

    def _stand_in(self) -> None:
        """Let workers stand in for tasks that could not be stopped when there were too many of those, and that still run."""
        while self._stuck and self.abandoned < self.settings.abandoned_at_most:
            self._abandon(self._stuck.pop(0))

    def _compact(self) -> None:
        self._deadlines = [item for item in self._deadlines if item[2].state != OVER]
        heapq.heapify(self._deadlines)
        self._deadlines_over = 0

    def give_back(self, worker: W) -> None:
        """A worker could not be started; its task waits again, before all others of its priority."""
        entry, worker.entry = worker.entry, None
        self.workers -= 1
        self.totals.busy -= 1
        if entry is not None and entry.state == RUNNING:
            self.running.discard(entry)
            entry.state = QUEUED
            self.queue.push_first(entry)

    def close(self) -> list[W]:
        """No worker is wanted any more. Returns those that are idle; the others stop when their task ends."""
        self.size = 0
        idle, self.idle = self.idle, []
        for worker in idle:
            worker.stopped = True
        self.workers -= len(idle)
        return idle

    # --- its size ----------------------------------------------------------------------------------------------------------------

    def _scale(self, now_us: int) -> Step | None:
        settings, old, totals = self.settings, self.size, self.totals
        self.mean_run_us = run_us = totals.learn(self.mean_run_us)
        queued, waited_us = self.queue.length, self.queue.waited_us(now_us)
        recent = totals.since(self._recent, queued, waited_us, run_us)
        long = totals.since(self._long, queued, waited_us, run_us)
        size, is_at_rest = old, now_us < self._rest_until_us
        if is_at_rest or is_worth_a_look(settings, recent):
            # What waited before the last step begins after it, and says nothing of the size that it made.
            self._recent = totals.mark()
            self.mean_wait_us = recent.mean_wait_us
        if not is_at_rest:
            if self._recent.at_us == totals.last_us:
                was_slow, self._is_slow = self._is_slow, is_slow(settings, recent)
                size = grown(settings, old, self._most(now_us), recent, long, again=was_slow)
            if size == old:
                size = self._shrunk(long, now_us)
        if size != old or is_worn_out(settings, long):
            self._long = totals.mark()
        if size == old:
            return None
        self.size = size
        self.steps += 1
        self._rest_until_us = now_us + rest_us(settings, run_us)
        self._quiet_since_us, self._most_needed = now_us, 0
        return Step(old, size)

    def _shrunk(self, long: Load, now_us: int) -> int:
        settings, size = self.settings, self.size
        enough = needed(settings, size, long)
        if enough is None:
            return size
        if not is_low(settings, size, enough):
            self._quiet_since_us, self._most_needed = now_us, 0
        elif is_worn_out(settings, long):
            self._most_needed = max(self._most_needed, enough)
        return shrunk(settings, size, max(self._most_needed, enough), now_us - self._quiet_since_us)

    def _most(self, now_us: int) -> int:
        most = self.settings.max_workers
        return most if self.health is None else max(1, most * self.health.factor_ppb_at(now_us) // PPB)

    # --- setting to work ---------------------------------------------------------------------------------------------------------

    def _has_place(self, now_us: int) -> bool:
        return self.totals.busy < (self.size if self.health is None else self.most_busy(now_us)) and (
            bool(self.idle) or self.workers < self.size
        )

    def _free_worker(self) -> W:
        if self.idle:
            return self.idle.pop()  # the one that was at work last: the others may be let go
        self.workers += 1
        return self.new_worker()

    def _next(self, now_us: int) -> Entry | None:
        """The task that comes next; those whose time is over are left aside, to be told."""
        if self.health is not None and self.totals.busy >= self.most_busy(now_us):
            return None
        while True:
            entry = self.queue.pop(self.ageing_us)
            if entry is None or entry.deadline_us is None or entry.deadline_us > now_us:
                return entry
            self._close(entry, Ended.TIMED_OUT)
            self.late.append(Expired(entry, was_running=False, is_abandoned=False))

    def _set_to(self, entry: Entry, worker: W, now_us: int) -> None:
        """A task that has waited begins."""
        self.totals.waited_us += max(0, now_us - entry.submitted_us)
        self._begin(entry, worker, now_us)

    def _begin(self, entry: Entry, worker: W, now_us: int) -> None:
        entry.state = RUNNING
        entry.started_us = now_us
        entry.worker = worker
        worker.entry = entry
        self.running.add(entry)
        self.totals.waits += 1
        self.totals.busy += 1
