"""How many workers a pool should have: data in, data out.

It grows when the mean queue wait passes the bound, to as many as the load that was seen needs by Erlang's formula for the wait in a
queue with many servers (A. K. Erlang, 1917), and a backlog besides. It shrinks when waits are low and the same formula, asked with
a load that is surely not less than the true one, says that fewer would do. The gap between the two estimates is why a steady load
is not answered by steps up and down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from resilience.clock import US_PER_S, to_us
from resilience.workers.settings import WorkerPoolSettings

_AIM: Final = 0.25
"""The mean wait it sizes for, as a share of the bound at which it grows; also what counts as a low wait."""
_FULLEST: Final = 0.85
"""The share of the time that workers should be busy at most."""
_WORTH_A_STEP: Final = 0.4
"""It shrinks when this share of the workers would do, or less."""
_DEVIATIONS_TO_GROW: Final = 3.0
_DEVIATIONS_TO_SHRINK: Final = 3.0
"""So many standard deviations are added to a load that was seen, to be sure of it."""
_ENOUGH_WAITS: Final = 20
"""So many waits make a mean that is worth a step."""
_ENOUGH_TASKS: Final = 50
"""So many tasks make an estimate of the load that is as good as need be."""
_LONG: Final = 3
"""Cool-downs from which the load is estimated."""
_QUIET: Final = 12
"""Cool-downs in which every estimate must have been low before it shrinks."""
_RUNS: Final = 2
"""A step shows its effect once this many generations of tasks have run."""
_LONGEST: Final = 30
"""Cool-downs after which an estimate of the load begins anew, however few tasks it is made from."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool has seen in a stretch of time.

    Attributes:
        over_us: how long it is.
        arrived: tasks that were accepted in it.
        busy_us: the time that all workers were busy in it, together.
        waits: tasks that began in it or wait at its end, and `waited_us` how long those waited together.
        queued: tasks that wait at its end.
        run_us: how long a task runs on average, as far as that is known; 0: none has ended yet.
    """

    over_us: int
    arrived: int
    busy_us: int
    waits: int
    waited_us: int
    queued: int
    run_us: float

    @property
    def mean_wait_us(self) -> float:
        """How long a task waited on average."""
        return self.waited_us / self.waits if self.waits else 0.0

    def at_most(self, deviations: float) -> float:
        """A load in erlangs that the true one is hardly above: as seen, and some standard deviations.

        Those are of a Poisson stream of tasks whose lengths are spread exponentially. Where none has come, one might have.
        """
        tasks = self.arrived + 1
        load = self.run_us * (tasks + deviations * math.sqrt(2 * tasks)) / self.over_us
        return max(load, self.busy_us / self.over_us)


def is_worth_a_look(settings: WorkerPoolSettings, recent: Load) -> bool:
    """Whether waits were gathered for long enough, or are of enough tasks, to go by their mean."""
    cool_down_us = settings.cool_down_s * US_PER_S
    if recent.waits >= _ENOUGH_WAITS:
        return True
    return recent.over_us >= (cool_down_us if recent.queued else _LONG * cool_down_us)


def is_worn_out(settings: WorkerPoolSettings, long: Load) -> bool:
    """Whether a stretch has served its purpose, and the load should be estimated from another."""
    cool_downs = long.over_us / (settings.cool_down_s * US_PER_S)
    return cool_downs >= _LONGEST or (cool_downs >= _LONG and long.arrived >= _ENOUGH_TASKS)


def grown(settings: WorkerPoolSettings, size: int, most: int, recent: Load, long: Load, *, again: bool) -> int:
    """How many workers there should be, if waits are too long.

    Args:
        settings: of the pool.
        size: workers there should be so far; `most` as many at most.
        recent: says whether waits are too long.
        long: says how great the load is.
        again: waits were too long already when they were looked at last.
    """
    if size >= most or not is_slow(settings, recent):
        return size
    if not long.run_us:  # nothing is known of the load but that it waits
        return min(size + max(1, min(settings.added_at_most, recent.queued)), most)
    # The backlog is to be gone by the time of the next step.
    backlog = recent.queued * long.run_us / rest_us(settings, long.run_us)
    wanted = workers_for(long.at_most(_DEVIATIONS_TO_GROW) + backlog, long.run_us, _aim_us(settings), most)
    if wanted <= size and not again:  # by all that is known of the load it is chance
        return size
    return min(max(size + 1, wanted), size + settings.added_at_most, most)


def is_slow(settings: WorkerPoolSettings, recent: Load) -> bool:
    """Whether waits are above the bound."""
    return recent.mean_wait_us > settings.grow_wait_s * US_PER_S


def rest_us(settings: WorkerPoolSettings, mean_run_us: float) -> int:
    """How long after a step the next may come: not before what the last one did can be seen."""
    return max(to_us(settings.cool_down_s), round(_RUNS * mean_run_us))


def needed(settings: WorkerPoolSettings, size: int, long: Load) -> int | None:
    """How many workers surely do for the load that was seen, at most `size`; None: it was not seen for long enough to say."""
    if long.over_us < _LONG * settings.cool_down_s * US_PER_S:
        return None
    if long.queued or long.mean_wait_us > _aim_us(settings):
        return size
    enough = workers_for(long.at_most(_DEVIATIONS_TO_SHRINK), long.run_us, _aim_us(settings), size)
    return min(size, max(settings.min_workers, enough))


def is_low(settings: WorkerPoolSettings, size: int, needed: int) -> bool:
    """Whether so few are needed that it is worth a step."""
    return settings.min_workers < size and needed <= max(settings.min_workers, size * _WORTH_A_STEP)


def shrunk(settings: WorkerPoolSettings, size: int, most_needed: int, quiet_us: int) -> int:
    """How many workers there should be.

    Args:
        settings: of the pool.
        size: workers there should be so far.
        most_needed: the greatest number that any estimate said was needed since the load is low.
        quiet_us: for how long every estimate has said that the load is low.
    """
    if quiet_us < _QUIET * settings.cool_down_s * US_PER_S or not is_low(settings, size, most_needed):
        return size
    return max(most_needed, size - settings.taken_at_most)


def workers_for(load: float, mean_run_us: float, wait_us: float, most: int) -> int:
    """The fewest workers by whom tasks wait `wait_us` on average at most; `most` where no fewer do.

    Args:
        load: workers that the tasks keep busy on average, in erlangs.
        mean_run_us: how long a task runs on average.
        wait_us: how long a task may wait on average.
        most: as many at most.

    Source: the Erlang C formula; the Erlang B recursion that it is computed by.
    """
    if load <= 0:
        return 1
    blocked = 1.0
    for workers in range(1, most):
        blocked = load * blocked / (workers + load * blocked)
        if load > workers * _FULLEST:
            continue
        waits = blocked / (1 - load / workers * (1 - blocked))
        if waits * mean_run_us / (workers - load) <= wait_us:
            return workers
    return most


def _aim_us(settings: WorkerPoolSettings) -> float:
    return settings.grow_wait_s * _AIM * US_PER_S
