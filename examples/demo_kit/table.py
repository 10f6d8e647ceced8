"""Shows a demo while it runs: a live table in a terminal, plain lines elsewhere. Both hold one row a second."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from examples.demo_kit.recording import Answer, Reading, Recording

_ROWS_SHOWN: Final = 16
_LINES_BETWEEN_HEADINGS: Final = 20
_COLUMNS: Final = (
    ("time", 6),
    ("answers", 8),
    ("admitted", 9),
    ("ok", 5),
    ("502", 5),
    ("429 quota", 10),
    ("429 cut", 8),
    ("503 breaker", 12),
    ("504 deadline", 13),
    ("breaker", 24),
    ("factor", 7),
    ("limit", 6),
)
"""Heading and width of each column."""


@dataclass(frozen=True, slots=True)
class Row:
    """One second: how many requests were answered how, and what the service said of itself at its end."""

    time_s: float
    answers: Counter[Answer]
    breaker: str
    factor: float
    rate_per_s: float

    def cells(self) -> tuple[str, ...]:
        """One text a column."""
        answers = self.answers
        admitted = sum(number for answer, number in answers.items() if not answer.by_limiter and answer is not Answer.NONE)
        kinds = (Answer.OK, Answer.FAILED, Answer.QUOTA, Answer.CUT, Answer.BREAKER, Answer.DEADLINE)
        return (
            f"{self.time_s:.0f} s",
            str(answers.total()),
            str(admitted),
            *(str(answers[kind] or "-") for kind in kinds),
            self.breaker,
            f"{self.factor:.2f}",
            f"{self.rate_per_s:g}",
        )


class Rows:
    """Makes rows out of a recording: each holds what has come since the one before."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._samples = 0
        self._readings = 0

    def next(self, now_s: float) -> Row | None:
        """The row of what has come since the last, or None while the service was never heard."""
        latest = self._recording.latest
        if latest is None:
            return None
        samples = self._recording.samples[self._samples :]
        readings = self._recording.readings[self._readings :] or [latest]
        self._samples += len(samples)
        self._readings = len(self._recording.readings)
        answers = Counter(sample.answer for sample in samples)
        return Row(now_s, answers, _states(readings), latest.factor, latest.rate_per_s)


def _states(readings: Sequence[Reading]) -> str:
    """The breaker's states, in their order, as far as they were seen."""
    states = [reading.breaker for reading in readings]
    return " > ".join(state for index, state in enumerate(states) if index == 0 or state != states[index - 1])


class View(Protocol):
    """Where a demo shows what it does. A context manager."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Show no more."""

    def say(self, text: str) -> None:
        """Tell what happens."""

    def add(self, row: Row) -> None:
        """Show one second more."""


class PlainView:
    """Lines, for a file or a pipe."""

    def __init__(self) -> None:
        self._lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """There is nothing to undo."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    def add(self, row: Row) -> None:
        if self._lines % _LINES_BETWEEN_HEADINGS == 0:
            print(_line([name for name, _ in _COLUMNS]))
        self._lines += 1
        print(_line(row.cells()), flush=True)


def _line(cells: Sequence[str]) -> str:
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


class LiveView:
    """A table that is drawn anew each second, with what happens above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: deque[Row] = deque(maxlen=min(_ROWS_SHOWN, max(4, console.height - 8)))
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(caption="one row a second", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name, _ in _COLUMNS:
            table.add_column(name.replace(" ", "\n"), justify="right", vertical="bottom")
        for row in self._rows:
            table.add_row(*row.cells(), style=_style(row))
        return table


def _style(row: Row) -> str:
    if "open" in row.breaker:
        return "red"
    return "yellow" if row.factor < 1 or row.answers[Answer.FAILED] or row.answers[Answer.DEADLINE] else ""


def view_for_output() -> View:
    """The view that fits standard output."""
    console = Console()
    return LiveView(console) if sys.stdout.isatty() else PlainView()
