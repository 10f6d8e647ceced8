"""How everything here is measured: subjects take turns, round after round, and the median of each counts.

A figure is always a ratio of two subjects of the same rounds, so the machine's speed, and what else it does, cancels out as far as
it can. What runs in one thread is measured in that thread's processor time. The garbage collector is off meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

Take = Callable[[int], float]
"""Does so many operations and returns the seconds that they took."""

PASSES_A_TURN: Final = 100
"""After so many requests the event loop has a turn, so that timers that were cancelled are cleared at the cost of who left them."""


WARM_UP: Final = 20
"""So many operations are done before any is timed."""
_WARMS: Final = 8
"""Each turn begins with an eighth of it that is not timed: the subject before had other code and data in the processor's caches."""


@dataclass(frozen=True)
class Subject:
    """One thing that is measured. `prepare` makes what takes its turns; what it raises is shown in its place."""

    name: str
    prepare: Callable[[], Take]


@dataclass(frozen=True)
class Size:
    """How long a measurement is: rounds, and the seconds of one turn."""

    rounds: int = 40
    turn_s: float = 0.004
    is_smoke: bool = False


FULL: Final = Size()
SMOKE: Final = Size(rounds=15, turn_s=0.002, is_smoke=True)


@dataclass(frozen=True)
class Row:
    """One line of a table: the median and the quartiles around it, or why there is none."""

    median: float | None
    low: float = 0.0
    high: float = 0.0
    unit: str = "µs"
    note: str = ""

    @classmethod
    def of(cls, samples: Iterable[float], unit: str = "µs") -> Row:
        """The row of samples that are in `unit` already."""
        found = sorted(samples)
        return cls(statistics.median(found), found[len(found) // 4], found[-1 - len(found) // 4], unit)


@dataclass
class Table:
    """What one group of rows has measured: rows by name, and figures, each a ratio that a target may bound."""

    rows: dict[str, Row] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def ratio(self, figure: str, of: str, than: str, *, without: str | None = None, times: float = 1.0) -> None:
        """Add the figure `of` / `than`, each less the row `without`; nothing where a row was not measured."""
        base = 0.0 if without is None else self.median(without)
        above, below = self.median(of), self.median(than)
        if base is not None and above is not None and below is not None:
            self.figures[figure] = times * (above - base) / (below - base)

    def median(self, name: str) -> float | None:
        """The median of a row, where it was measured."""
        row = self.rows.get(name)
        return None if row is None else row.median


def measure(subjects: Iterable[Subject], size: Size) -> Table:
    """Let all subjects take turns. Rows are in microseconds an operation."""
    table = Table()
    takes: dict[str, tuple[Take, int]] = {}
    for subject in subjects:
        try:
            take = subject.prepare()
            takes[subject.name] = take, calibrated(take, size.turn_s)
            table.rows[subject.name] = Row(None)  # keeps its place
        except Exception as error:  # noqa: BLE001  # a peer that is not there, or that fails on this Python, is told of
            table.rows[subject.name] = Row(None, note=reason(error))
    samples: dict[str, list[float]] = {name: [] for name in takes}
    with no_collection():
        for _ in range(size.rounds):
            for name, (take, count) in takes.items():
                take(max(1, count // _WARMS))
                samples[name].append(take(count) / count * 1e6)
    table.rows.update({name: Row.of(found) for name, found in samples.items()})
    return table


def calibrated(take: Take, turn_s: float) -> int:
    """How many operations make a turn. Warms up first: an application builds itself at its first request.

    Nothing is collected meanwhile: a collection within few operations would make for turns of few operations, which never get warm.
    """
    take(WARM_UP)
    count = 4
    gc.disable()
    try:
        while True:
            taken_s = take(count)
            if taken_s >= turn_s / 2 or count >= 1_000_000:
                return max(1, int(count * turn_s / max(taken_s, 1e-9)))
            count *= 2
    finally:
        gc.enable()


@contextmanager
def no_collection() -> Iterator[None]:
    """The garbage collector is off, and what is there already is out of its sight."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def reason(error: BaseException) -> str:
    """Why a subject is not measured, in a few words."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed: {error.name}"
    return f"does not run here: {type(error).__name__}: {error}"[:80]


# --- subjects ---------------------------------------------------------------------------------------------------------------------


def called(operation: Callable[[], object]) -> Take:
    """Calls `operation` again and again."""

    def take(count: int) -> float:
        began_s = time.thread_time()
        for _ in repeat(None, count):
            operation()
        return time.thread_time() - began_s

    return take


def called_with(operation: Callable[[Any], object], arguments: Iterator[Any]) -> Take:
    """Calls `operation` with one argument after the other, from an iterator that never ends."""

    def take(count: int) -> float:
        began_s = time.thread_time()
        for _ in repeat(None, count):
            operation(next(arguments))
        return time.thread_time() - began_s

    return take


def refused_by(operation: Callable[[], object], refusal: type[BaseException]) -> Callable[[], object]:
    """`operation`, which must raise `refusal`.

    Raises:
        AssertionError: it did not.
    """

    def refused() -> None:
        try:
            operation()
        except refusal:
            return
        raise AssertionError("should have been refused")

    return refused


def awaited(loop: asyncio.AbstractEventLoop, operation: Callable[[], Awaitable[object]]) -> Take:
    """Awaits `operation` again and again in one task of `loop`."""

    async def turn(count: int) -> float:
        left = count
        began_s = time.thread_time()
        while left:
            step = min(left, PASSES_A_TURN)
            for _ in repeat(None, step):
                await operation()
            await asyncio.sleep(0)
            left -= step
        return time.thread_time() - began_s

    return lambda count: loop.run_until_complete(turn(count))


def checked(answer: object, wanted: object = True) -> None:
    """A subject must do what it is measured at.

    Raises:
        AssertionError: `answer` is not what is wanted.
    """
    if answer != wanted:
        raise AssertionError(f"answered {answer!r} instead of {wanted!r}")


def median_rows(tables: Iterable[Mapping[str, Row]]) -> dict[str, Row]:
    """The rows of several runs as one: the median of medians, between the outermost quartiles."""
    found: dict[str, list[Row]] = {}
    for rows in tables:
        for name, row in rows.items():
            found.setdefault(name, []).append(row)
    return {name: _median_row(rows) for name, rows in found.items()}


def _median_row(rows: list[Row]) -> Row:
    measured = [row for row in rows if row.median is not None]
    if not measured:
        return rows[0]
    median = statistics.median(row.median for row in measured if row.median is not None)
    return Row(median, min(row.low for row in measured), max(row.high for row in measured), rows[0].unit, rows[0].note)
