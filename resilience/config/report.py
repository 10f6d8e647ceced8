"""Collects what is wrong with a file, so that one reading reports every fault, each at its line and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final, NamedTuple

from resilience.config.values import shown
from resilience.errors import ConfigError, Problem

_LONGEST_GUESSED: Final = 64
_MOST_COMPARED: Final = 10_000


class Position(NamedTuple):
    """A place in the file: line and column, both from 1, the column in characters."""

    line: int
    column: int


START: Final = Position(1, 1)


class Report:
    """The findings of one reading of one file.

    Attributes:
        source: what the file is called in messages.
        problems: what makes the file unusable, in the order found.
        warnings: what the file may say but its author may not mean.
        positions: where each dotted key stands: a name where it is written, any other key where its value is.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.positions: dict[str, Position] = {}
        self._comparisons_left = _MOST_COMPARED
        self._unknown: set[Position] = set()

    def problem(self, position: Position, key: str, message: str) -> None:
        """Note that `message` is wrong with `key` at `position`."""
        if position not in self._unknown:
            self.problems.append(Problem(self.source, position.line, position.column, key, message))

    def refuse(self, position: Position, message: str) -> None:
        """Note a problem with what stands at `position`, whose value is then unknown: no other is noted there."""
        self.problem(position, "", message)
        self._unknown.add(position)

    def warn(self, position: Position, key: str, message: str) -> None:
        """Note that the author should look at `key` at `position`, though the file can be used."""
        self.warnings.append(Problem(self.source, position.line, position.column, key, message))

    def guess(self, word: str, known: Iterable[str]) -> str | None:
        """The word of `known` that `word` was probably meant to be. Comparisons cost time, so a file has a budget."""
        words = list(known)
        if self._comparisons_left < len(words) or len(word) > _LONGEST_GUESSED:
            return None
        self._comparisons_left -= len(words)
        close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
        return close[0] if close else None

    def did_you_mean(self, word: str, known: Iterable[str]) -> str:
        """The end of a message about an unknown word: a guess, or nothing."""
        guessed = self.guess(word, known)
        return f"; did you mean {shown(guessed)}?" if guessed is not None else ""

    def raise_if_unusable(self) -> None:
        """Raise every problem noted so far, in the order of the file.

        Raises:
            ConfigError: there is at least one.
        """
        if self.problems:
            raise self.error()

    def error(self) -> ConfigError:
        """The error that reports every problem noted so far, in the order of the file."""
        return ConfigError.of(in_order(self.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """`problems` in the order of the file."""
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))
