"""How many workers a pool should have: data in, data out.

It grows when the mean queue wait passes the bound, to as many as the load that was seen needs by Erlang's formula for the wait in a
queue with many servers (A. K. Erlang, 1917), and a backlog besides. It shrinks when waits are low and the same formula, asked with
a load that is surely not less than the true one, says that fewer would do. The gap between the two estimates is why a steady load is
not answered by steps up and down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from resilience.clock import US_PER_S
from resilience.workers.settings import WorkerPoolSettings

_AIM: Final = 0.25
"""The mean wait it sizes for, as a share of the bound at which it grows; also what counts as a low wait."""
_FULLEST: Final = 0.85
"""The share of the time that workers should be busy at most."""
ENOUGH_WAITS: Final = 10
"""So many waits make a mean that is worth a step; fewer are gathered for a whole cool-down."""
_DEVIATIONS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool has seen in a stretch of time.

    Attributes:
        over_us: how long it is.
        arrived: tasks that were accepted in it.
        finished: tasks that ended in it, and `ran_us` how long those ran together.
        busy_us: the time that all workers were busy in it, together.
        waits: tasks that began in it or wait at its end, and `waited_us` how long those waited together.
        queued: tasks that wait at its end.
    """

    over_us: int
    arrived: int
    finished: int
    ran_us: int
    busy_us: int
    waits: int
    waited_us: int
    queued: int

    @property
    def mean_wait_us(self) -> float:
        """How long a task waited on average."""
        return self.waited_us / self.waits if self.waits else 0.0

    @property
    def mean_run_us(self) -> float:
        """How long a task ran on average; as long as anybody could have, where none has ended."""
        return self.ran_us / self.finished if self.finished else float(self.over_us)


def grown(settings: WorkerPoolSettings, size: int, most: int, recent: Load, long: Load) -> int:
    """How many workers there should be, if waits are too long. `recent` says whether they are, `long` how great the load is."""
    if size >= most or recent.mean_wait_us <= settings.grow_wait_s * US_PER_S:
        return size
    if not long.finished:  # nothing is known of the load but that it waits
        return min(size + max(1, min(settings.grow_by, recent.queued)), most)
    # Seen in one stretch, the load may have been less than it is: one standard deviation is added, and the backlog is to be gone
    # by the end of the cool-down.
    demand = _load_at_most(long.arrived * long.mean_run_us / long.over_us, long, deviations=1.0)
    backlog = recent.queued * long.mean_run_us / (settings.cool_down_s * US_PER_S)
    wanted = workers_for(demand + backlog, long.mean_run_us, _aim_us(settings), most)
    return min(max(size + 1, wanted), size + settings.grow_by, most)


def shrunk(settings: WorkerPoolSettings, size: int, long: Load) -> int:
    """How many workers there should be, if fewer would do for the load that was seen."""
    if size <= settings.min_workers or long.mean_wait_us > _aim_us(settings) or long.queued:
        return size
    demand = _load_at_most(max(long.busy_us, long.arrived * long.mean_run_us) / long.over_us, long, deviations=_DEVIATIONS)
    needed = max(settings.min_workers, workers_for(demand, long.mean_run_us, _aim_us(settings), size))
    return max(needed, size - settings.shrink_by)


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


def _load_at_most(load: float, seen: Load, deviations: float) -> float:
    """A load that the true one is hardly above: what was seen, and some standard deviations of a Poisson stream's load."""
    return load + deviations * math.sqrt(load * seen.mean_run_us / seen.over_us)


def _aim_us(settings: WorkerPoolSettings) -> float:
    return settings.grow_wait_s * _AIM * US_PER_S
