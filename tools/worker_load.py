"""What a pool does under a load, in virtual time: the books and the scaling of `resilience.workers`, without threads.

python tools/worker_load.py            # draw docs/workers-load.png anew: a step load and a spike, growth and return
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's package, not one that is installed

from resilience.workers.core import LOOK_EVERY_US, Ended, PoolCore  # noqa: E402
from resilience.workers.entry import Entry, Worker  # noqa: E402
from resilience.workers.settings import WorkerPoolSettings  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT: Final = ROOT / "docs" / "workers-load.png"
US: Final = 1_000_000
Rate = Callable[[float], float]
"""Arrivals a second at a time in seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was to be seen at one instant."""

    at_s: float
    rate_per_s: float
    size: int
    busy: int
    queued: int
    wait_s: float


@dataclass(slots=True)
class Seen:
    """What happened: samples once a second, the steps as (seconds, old size, new size), what was refused and done."""

    samples: list[Sample] = field(default_factory=list)
    steps: list[tuple[float, int, int]] = field(default_factory=list)
    refused: int = 0
    done: int = 0


class Simulation:
    """One pool under one load.

    Args:
        settings: of the pool.
        rate: arrivals a second, as a function of the time; below 1,000.
        run_s: how long tasks run on average; drawn from an exponential distribution, or exactly so with `exact`.
        exact: evenly spaced arrivals and equal tasks in the place of random ones.
        size: workers at the start; default the settings' least.
    """

    def __init__(
        self, settings: WorkerPoolSettings, rate: Rate, run_s: float, *, seed: int = 0, exact: bool = False, size: int | None = None
    ) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._run_s = run_s
        self._exact = exact
        self.core: PoolCore[Worker] = PoolCore(settings, None, Worker, 0)
        self.core.size = settings.min_workers if size is None else size
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._numbers = itertools.count()
        self.seen = Seen()

    def run(self, until_s: float) -> Seen:
        """Let the time pass."""
        self._at(0, self._arrive)
        self._at(LOOK_EVERY_US, self._look)
        while self._events and self._events[0][0] <= until_s * US:
            now_us, _, event = heapq.heappop(self._events)
            event(now_us)
        return self.seen

    def _at(self, at_us: int, event: Callable[[int], None]) -> None:
        heapq.heappush(self._events, (at_us, next(self._numbers), event))

    def _arrive(self, now_us: int) -> None:
        rate_per_s = self._rate(now_us / US)
        if rate_per_s <= 0:
            self._at(now_us + US // 10, self._arrive)
            return
        core = self.core
        if core.refusal(now_us) is None:
            worker = core.accept(Entry(len, (), {}, Context(), 5, None), now_us)
            if worker is not None:
                self._begin(worker, now_us)
        else:
            self.seen.refused += 1
        gap_s = 1 / rate_per_s if self._exact else self._random.expovariate(rate_per_s)
        self._at(now_us + max(1, round(gap_s * US)), self._arrive)

    def _begin(self, worker: Worker, now_us: int) -> None:
        run_s = self._run_s if self._exact else self._random.expovariate(1 / self._run_s)
        self._at(now_us + max(1, round(run_s * US)), lambda end_us: self._end(worker, end_us))

    def _end(self, worker: Worker, now_us: int) -> None:
        entry = worker.entry
        if entry is not None:
            self.core.end(entry, Ended.DONE)
            self.seen.done += 1
        if self.core.leave(worker, now_us) is not None:
            self._begin(worker, now_us)

    def _look(self, now_us: int) -> None:
        core, at_s = self.core, now_us / US
        due = core.look(now_us)
        for worker in due.started:
            self._begin(worker, now_us)
        if due.step is not None:
            self.seen.steps.append((at_s, due.step.old, due.step.size))
        wait_s = core.mean_wait_us / US
        self.seen.samples.append(Sample(at_s, self._rate(at_s), core.size, core.busy, core.queue.length, wait_s))
        self._at(now_us + LOOK_EVERY_US, self._look)


def step_load(at_s: float) -> float:
    """Five tasks a second; forty from one minute to five."""
    return 40.0 if 60 <= at_s < 300 else 5.0


def spike(at_s: float) -> float:
    """Five tasks a second; two hundred for three seconds."""
    return 200.0 if 60 <= at_s < 63 else 5.0


def draw(file: Path) -> None:
    """Write the plot as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - importing it takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings = WorkerPoolSettings(max_workers=32, queue=1_000)
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(3, 2, sharex="col")
    for number, (title, rate, until_s) in enumerate((("a step load", step_load, 600), ("a spike", spike, 300))):
        seen = Simulation(settings, rate, 0.4, seed=7).run(until_s)
        column: list[Axes] = [row[number] for row in columns]
        _draw(column, seen, title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80, metadata={"Software": None})


def _draw(column: list[Axes], seen: Seen, title: str) -> None:
    at_s = [sample.at_s for sample in seen.samples]
    rates, workers, waits = column
    rates.plot(at_s, [sample.rate_per_s for sample in seen.samples], color="#6b7280")
    rates.set(title=f"{title}; tasks of 0.4 s", ylabel="tasks a second", ylim=(0, None))
    workers.fill_between(at_s, [sample.busy for sample in seen.samples], color="#bcd3ea", step="post", label="busy")
    workers.step(at_s, [sample.size for sample in seen.samples], color="#1f6fb4", where="post", label="workers")
    workers.set(ylabel="workers", ylim=(0, None))
    workers.legend(loc="upper right", fontsize=8)
    waits.plot(at_s, [sample.wait_s for sample in seen.samples], color="#c4511d")
    waits.axhline(0.8, color="#6b7280", linewidth=0.8, linestyle=":")
    waits.set(xlabel="seconds", ylabel="mean wait, s", ylim=(0, None), xlim=(0, None))


def table(seen: Seen) -> Iterator[str]:
    """The steps as text."""
    for at_s, old, size in seen.steps:
        yield f"{at_s:7.0f} s  {old:3d} -> {size:3d} workers"


def main() -> int:
    """Draw, and say what is to be seen."""
    draw(PLOT)
    settings = WorkerPoolSettings(max_workers=32, queue=1_000)
    for name, rate, until_s in (("step load", step_load, 600), ("spike", spike, 300)):
        seen = Simulation(settings, rate, 0.4, seed=7).run(until_s)
        print(f"{name}: {seen.done} done, {seen.refused} refused")
        print("\n".join(table(seen)))
    print(f"{PLOT.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
