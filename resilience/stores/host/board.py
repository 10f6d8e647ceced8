"""The health board of the host: of each signal the state and the marks of its processes, and which processes there are.

What a board decides is `fleet_health.renewed`, as in every store. Here it is kept in a mapped file, twice: a new state is written
where the old one is not, and one word then says that it counts, so that a process that is killed leaves the old one or the new.
"""

from __future__ import annotations

import hashlib
from typing import Final

from resilience.fleet_health import LAPSES_US, RESTORED, Board, FleetState, Mark, renewed
from resilience.stores.host.mapped import HEAD_WORDS, MappedFile
from resilience.stores.host.place import Place
from resilience.stores.host.turns import Taken, Turns

_BOARD: Final = 2
_PROCESSES: Final = 3
_MOST_PROCESSES: Final = 1_024
_MOST_MARKS: Final = 1_024
_WHICH: Final = HEAD_WORDS
_COPIES: Final = 16
_STATE_WORDS: Final = len(FleetState._fields)
_COPY_WORDS: Final = 8 + 2 * _MOST_MARKS
_RESTORED_ID: Final = 1


class SignalBoard:
    """The board of one signal.

    Raises:
        Unusable: its file can be neither opened nor made.
    """

    def __init__(self, place: Place, turns: Turns, signal: str) -> None:
        digest = hashlib.blake2b(signal.encode("utf-8", "surrogatepass"), digest_size=12)
        self._turn = turns[digest.digest()[0]]
        self.file = MappedFile(place, f"health.{digest.hexdigest()}", _COPIES + 2 * _COPY_WORDS, _BOARD, _write_first, _is_sound)

    def renew(self, process: int, mark: Mark, now_us: int) -> FleetState | None:
        """Tell it what a process has to tell. Returns what it says then; None: its lock was not to be had."""
        with Taken(self._turn) as is_ours:
            if not is_ours:
                return None
            board = self._read()
            after = renewed(board, format(process, "x"), mark, now_us)
            if after != board:
                self._write(after)
            return after.state

    def _read(self) -> Board:
        words = self.file.words
        at = _COPIES + (words[_WHICH] & 1) * _COPY_WORDS
        state = FleetState(*words[at : at + _STATE_WORDS])
        count = min(max(0, words[at + _STATE_WORDS]), _MOST_MARKS)
        listed = words[at + 8 : at + 8 + 2 * count].tolist()
        marks = {RESTORED if number == _RESTORED_ID else format(number, "x"): seen_us for number, seen_us in _pairs(listed)}
        return Board(state, marks)

    def _write(self, board: Board) -> None:
        words = self.file.words
        other = 1 - (words[_WHICH] & 1)
        at = _COPIES + other * _COPY_WORDS
        marks = list(board.marks.items())[:_MOST_MARKS]
        for place, value in enumerate((*board.state, len(marks))):
            words[at + place] = value
        at += 8
        for process, seen_us in marks:
            words[at] = _RESTORED_ID if process == RESTORED else int(process, 16)
            words[at + 1] = seen_us
            at += 2
        words[_WHICH] = other


class Processes:
    """Which processes share the store: each renews its place once a second.

    Raises:
        Unusable: its file can be neither opened nor made.
    """

    def __init__(self, place: Place, turns: Turns) -> None:
        self._turn = turns[0]
        self.file = MappedFile(place, "processes", _COPIES + 2 * _MOST_PROCESSES, _PROCESSES, lambda words: None)
        self._at = 0

    def count(self, now_us: int) -> int:
        """How many there are; with more than there are places for, the rest is not counted."""
        return sum(now_us - LAPSES_US < seen_us for number, seen_us in _pairs(self.file.words[_COPIES:].tolist()) if number)

    def renew(self, process: int, now_us: int) -> None:
        """Say that a process is there."""
        words = self.file.words
        if not self._at or words[self._at] != process:
            self._at = self._find_place(process, now_us)
        if self._at:
            words[self._at + 1] = now_us

    def leave(self, process: int) -> None:
        """It is there no more."""
        if self._at and self.file.words[self._at] == process:
            self.file.words[self._at] = 0
        self._at = 0

    def _find_place(self, process: int, now_us: int) -> int:
        words = self.file.words
        with Taken(self._turn) as is_ours:
            for at in range(_COPIES, len(words), 2) if is_ours else ():
                if not words[at] or not now_us - LAPSES_US < words[at + 1] <= now_us + LAPSES_US:
                    words[at + 1] = now_us
                    words[at] = process
                    return at
        return 0


def _pairs(listed: list[int]) -> zip[tuple[int, int]]:
    return zip(listed[::2], listed[1::2], strict=True)


def _write_first(words: memoryview) -> None:
    for place, value in enumerate(FleetState()):
        words[_COPIES + place] = value


def _is_sound(words: memoryview) -> bool:
    return len(words) == _COPIES + 2 * _COPY_WORDS
