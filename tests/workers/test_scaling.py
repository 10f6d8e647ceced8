"""How many workers: the formula against known values, and loads in virtual time."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable

import pytest

from resilience import HealthSignal
from resilience.health import Hold
from resilience.testing import ManualClock
from resilience.workers.core import PoolCore
from resilience.workers.entry import Worker
from resilience.workers.scaling import Load, grown, needed, rest_us, shrunk, workers_for
from resilience.workers.settings import WorkerPoolSettings
from tests.soak.sizes import by_length
from tests.workers.helpers import entry_of
from worker_load import Simulation, spike, step_load

SECOND = 1_000_000
SETTINGS = WorkerPoolSettings(min_workers=2, max_workers=40, grow_by=10, shrink_by=5)


def load(**fields: float) -> Load:
    """Thirty seconds of ten tasks a second that run for half a second: five erlangs."""
    seen = Load(30 * SECOND, arrived=300, busy_us=150 * SECOND, waits=300, waited_us=0, queued=0, run_us=SECOND / 2)
    return dataclasses.replace(seen, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("erlangs", "wait_s", "workers"),
    [
        # By the Erlang C tables: the wait of M/M/c with a mean service time of one second.
        (0.5, 1.0, 1),  # M/M/1 at half load waits rho / (1 - rho) = 1 s
        (0.5, 0.99, 2),
        (1.0, 0.34, 2),  # M/M/2: rho = 1/2, C = 1/3, waits 1/3 s
        (1.0, 0.33, 3),
        (2.0, 0.45, 3),  # M/M/3: C = 4/9, waits 4/9 s
        (2.0, 0.44, 4),
        (0.0, 1.0, 1),
        (8.6, 1_000.0, 11),  # however long they may wait, nobody should be busy more than 85 % of the time
    ],
)
def test_the_fewest_workers_for_a_wait(erlangs: float, wait_s: float, workers: int) -> None:
    assert workers_for(erlangs, SECOND, wait_s * SECOND, 100) == workers


@pytest.mark.parametrize(
    ("size", "most", "recent", "long", "again", "wanted"),
    [
        (5, 40, load(waited_us=240 * SECOND), load(), False, 5),  # 800 ms: the bound is not passed
        (5, 40, load(waited_us=241 * SECOND), load(), False, 8),  # 803 ms; 6.2 erlangs with three deviations
        (5, 40, load(waited_us=241 * SECOND, queued=100), load(), False, 14),  # and 5 for the backlog
        (5, 40, load(waited_us=241 * SECOND, queued=1_000), load(), False, 15),  # ten at most
        (5, 12, load(waited_us=241 * SECOND, queued=100), load(), False, 12),
        (5, 5, load(waited_us=241 * SECOND, queued=100), load(), False, 5),
        (20, 40, load(waited_us=241 * SECOND), load(), False, 20),  # by all that is known it is chance
        (20, 40, load(waited_us=241 * SECOND), load(), True, 21),  # for the second time it is not
        (2, 40, load(waited_us=300 * SECOND, queued=3, run_us=0.0), load(run_us=0.0), False, 5),  # nothing has ended yet
    ],
)
def test_growing(size: int, most: int, recent: Load, long: Load, again: bool, wanted: int) -> None:
    assert grown(SETTINGS, size, most, recent, long, again=again) == wanted


QUIET_US = 120 * SECOND


@pytest.mark.parametrize(
    ("size", "long", "needed_"),
    [
        (40, load(), 8),  # 6.2 erlangs with three deviations
        (8, load(), 8),
        (40, load(waited_us=61 * SECOND), 40),  # waits are not low
        (40, load(queued=1), 40),
        (40, load(over_us=29 * SECOND), None),  # not for long enough
        (40, load(arrived=0, busy_us=0), 2),
        (40, load(arrived=0, busy_us=0, run_us=0.0), 2),
    ],
)
def test_how_many_surely_do(size: int, long: Load, needed_: int | None) -> None:
    assert needed(SETTINGS, size, long) == needed_


@pytest.mark.parametrize(
    ("size", "most_needed", "quiet_us", "wanted"),
    [
        (40, 9, QUIET_US, 35),  # five at most
        (12, 9, QUIET_US, 12),  # more than two fifths: not worth a step
        (23, 9, QUIET_US, 18),
        (22, 9, QUIET_US, 22),
        (40, 9, QUIET_US - 1, 40),  # not for long enough
        (4, 2, QUIET_US, 2),  # as few as there may be, that is always worth it
        (2, 2, QUIET_US, 2),
    ],
)
def test_shrinking(size: int, most_needed: int, quiet_us: int, wanted: int) -> None:
    assert shrunk(SETTINGS, size, most_needed, quiet_us) == wanted


def test_the_next_step_waits_until_the_last_one_can_be_seen() -> None:
    assert rest_us(SETTINGS, 1.0 * SECOND) == 10 * SECOND
    assert rest_us(SETTINGS, 30.0 * SECOND) == 60 * SECOND


def steps_of(size: int, run_s: float, most: int, start: int, seed: int | None) -> int:
    """How many steps five minutes bring at 80 % of the capacity of `size` workers. Without a seed nothing is left to chance."""
    per_s = 0.8 * size / run_s
    simulation = Simulation(
        WorkerPoolSettings(max_workers=most), lambda at_s: per_s, run_s, exact=seed is None, seed=seed or 0, size=start
    )
    seen = simulation.run(300)
    assert seen.refused == 0
    assert seen.done > 0.6 * per_s * (300 - 3 * run_s)
    return len(seen.steps)


SIZES = (1, 2, 3, 4, 5, 7, 10, 16, 24, 32, 50)
RUNS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HARDEST = [  # made three steps once, or four
    *((4, 5.0, 64, 1, 0), (7, 1.0, 64, 1, 0), (10, 10.0, 64, 1, 0), (50, 5.0, 50, 1, 0), (50, 5.0, 64, 1, 0), (50, 10.0, 50, 1, 0)),
    *((50, 5.0, 50, 1, None), (50, 5.0, 64, 1, None), (50, 10.0, 50, 1, None), (50, 10.0, 64, 1, None), (5, 2.0, 64, 1, 2)),
    *((4, 10.0, 16, 1, 2), (4, 10.0, 64, 1, 2), (7, 10.0, 64, 1, 2), (7, 2.0, 64, 1, 2), (16, 2.0, 64, 1, 1)),
]


def test_a_steady_load_at_80_percent_of_capacity_is_answered_by_two_steps_at_most() -> None:
    """Five virtual minutes: evenly spaced and by chance, at the pool's size and from one worker."""
    loads: list[tuple[int, float, int, int, int | None]] = [*HARDEST]
    for size, run_s, seed in itertools.product((1, 2, 5, 10, 16), (2.0, 5.0), (None, 7)):
        loads += [(size, run_s, 64, size, seed), (size, run_s, 64, 1, seed)]
    made = {load: steps_of(*load) for load in loads}
    assert {load: steps for load, steps in made.items() if steps > 2} == {}


@pytest.mark.soak
def test_a_steady_load_hardly_ever_makes_a_third_step(record_property: Callable[[str, object], None]) -> None:
    """The same over sizes, durations and seeds. The bound is two steps: 2 of the 1,280 loads of the long form break it by one."""
    sizes, runs_s, seeds = by_length(((2, 7), (5.0,), 1), (SIZES, RUNS_S, 3))
    counts: Counter[int] = Counter()
    for size, run_s in itertools.product(sizes, runs_s):
        if 0.8 * size / run_s > 300:
            continue
        for start, most, seed in itertools.product({size, 1}, {64, max(size, 16)}, (None, *range(1_000, 1_000 + seeds))):
            counts[steps_of(size, run_s, most, start, seed)] += 1
    record_property("size", f"{counts.total()} loads, by steps {dict(sorted(counts.items()))}")
    assert max(counts) <= 3
    assert counts[3] <= counts.total() // 500  # of the short form none


def test_a_step_load_is_grown_for_and_given_back() -> None:
    seen = Simulation(WorkerPoolSettings(max_workers=32), step_load, 0.4, seed=7).run(600)
    sizes = {round(sample.at_s): sample.size for sample in seen.samples}
    waits = {round(sample.at_s): sample.wait_s for sample in seen.samples}
    assert sizes[59] <= 6
    assert 18 <= sizes[120] <= 32
    assert max(waits[at_s] for at_s in range(100, 300)) < 0.8, "once it has grown nobody waits so long"
    assert sizes[120] == sizes[299], "under the steady high load it stands still"
    assert sizes[600] <= 8
    assert seen.refused == 0
    ups = [step for step in seen.steps if step[2] > step[1]]
    assert all(at_s < 110 for at_s, _, _ in ups), "no step up once the load is over"


def test_a_spike_is_grown_for_and_given_back() -> None:
    seen = Simulation(WorkerPoolSettings(max_workers=32), spike, 0.4, seed=7).run(240)
    sizes = {round(sample.at_s): sample.size for sample in seen.samples}
    assert max(sizes.values()) >= 20
    assert max(sample.queued for sample in seen.samples if sample.at_s > 100) < 10
    assert sizes[240] <= 6


def test_steps_keep_the_cool_down() -> None:
    seen = Simulation(WorkerPoolSettings(max_workers=32, cool_down_s=20.0, grow_by=3), step_load, 0.4, seed=7).run(300)
    times = [at_s for at_s, _, _ in seen.steps]
    assert all(later - earlier >= 20 for earlier, later in itertools.pairwise(times))
    assert all(size - old <= 3 for _, old, size in seen.steps)


def test_health_bounds_how_many_work_at_once() -> None:
    clock = ManualClock()
    health = HealthSignal(clock=clock)
    core: PoolCore[Worker] = PoolCore(WorkerPoolSettings(min_workers=10, max_workers=10), health, Worker, clock.now_us())
    workers = [core.accept(entry_of(), clock.now_us()) for _ in range(10)]
    assert (core.busy, core.accept(entry_of(), clock.now_us())) == (10, None)
    hold = Hold()
    health.opened(hold, clock.now_us(), None)  # the factor falls to 0.3
    for worker in workers:
        assert worker is not None
        core.leave(worker, clock.now_us())
    assert core.busy == 1, "what waited was begun once three or less were at work"
    for _ in range(9):
        core.accept(entry_of(), clock.now_us())
    assert (core.busy, core.queue.length) == (3, 7)
    health.closed(hold, clock.now_us())
    clock.advance(14 * 60)
    assert (len(core.look(clock.now_us()).started), core.busy) == (7, 10)
