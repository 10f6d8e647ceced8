"""Whose turn it is: locks between processes that the kernel takes back from whoever dies, and that nobody waits for long.

Two things make them quick and short. They are asked for without letting go of the GIL: a thread that has the lock must not wait
for the GIL, or every process would wait with it. And between locking and unlocking on the usual way there is no call: CPython
changes threads at calls and at jumps back only, so the lock is held for as long as the arithmetic takes. That is why locking is
written as a subscript: `turn[LOCK]` is 0 when it is ours. `benchmarks/host_engines.py` has the figures.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.stores.host import descriptors
from resilience.stores.host.place import Place
from resilience.stores.host.trouble import Unusable

LOCK: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
UNLOCK: Final = fcntl.LOCK_UN
COUNT: Final = 16
PATIENCE_US: Final = 5_000
"""No lock is waited for longer."""
_SHORTEST_PAUSE_US: Final = 20
_LONGEST_PAUSE_US: Final = 500


class Turn:
    """One lock. `held` keeps the threads of this process apart, for which the kernel's lock is one and the same."""

    __slots__ = ("fd", "held", "is_late")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.held = False
        self.is_late = False  # it was waited for in vain, and nobody waits again before it has been had

    def __getitem__(self, what: int) -> int:
        """0: it is ours; anything else: it is not."""
        raise NotImplementedError

    def pause(self, began_us: int) -> int:
        """Wait a little before it is tried again. Returns when the waiting began, which is 0 at first; below 0: no more of it.

        It is taken by whoever asked, not here: a signal handler that raises, which may be after any call, would leave it taken.
        """
        now_us = SYSTEM_CLOCK.now_us()
        if began_us == 0:
            if self.is_late:
                return -1
            began_us = now_us
        waited_us = now_us - began_us
        if waited_us >= PATIENCE_US:
            self.is_late = True
            return -1
        SYSTEM_CLOCK.sleep(min(max(_SHORTEST_PAUSE_US, waited_us), _LONGEST_PAUSE_US, PATIENCE_US - waited_us) / US_PER_S)
        return began_us

    def __del__(self) -> None:
        # Not sooner: another thread may be about to use the descriptor, whose number could be that of another file by then.
        with suppress(OSError, AttributeError):
            descriptors.close(self.fd)


class Taken:
    """`with Taken(turn) as is_ours:` takes a turn, or waits in vain; it is given up at the end of the block.

    With `waits` false it is tried once.
    """

    __slots__ = ("_is_ours", "_turn", "_waits")

    def __init__(self, turn: Turn, *, waits: bool = True) -> None:
        self._turn = turn
        self._waits = waits
        self._is_ours = False

    def __enter__(self) -> bool:
        turn, began_us = self._turn, 0
        while turn.held or turn[LOCK]:
            began_us = turn.pause(began_us) if self._waits else -1
            if began_us < 0:
                return False
        turn.held = self._is_ours = True
        turn.is_late = False
        return True

    def __exit__(self, *exc_info: object) -> None:
        if self._is_ours:
            self._turn.held = False
            self._turn[UNLOCK]


class Turns:
    """The locks of one store, shared by all its limits: each bucket has one, and several have the same.

    Raises:
        Unusable: their files can be neither opened nor made.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        try:
            self._turns = tuple(_turn(place.open_lock(_name(number))) for number in range(COUNT))
            self._inodes = tuple(os.fstat(turn.fd).st_ino for turn in self._turns)
        except OSError as error:
            raise Unusable(f"{place.path}: a lock cannot be made: {error.strerror or error}") from error

    def are_current(self) -> bool:
        """Whether those who open them now have the same. A cleaner of temporary files may have removed some."""
        return all(self._place.inode_of(_name(number)) == inode for number, inode in enumerate(self._inodes))

    def __getitem__(self, number: int) -> Turn:
        return self._turns[number % COUNT]


def _name(number: int) -> str:
    return f"turn.{number:02}"


def _turn(fd: int) -> Turn:
    """A turn whose `turn[what]` calls the system without letting go of the GIL."""
    kind: Any = type("Turn", (Turn,), {"__slots__": (), "__getitem__": staticmethod(partial(_FLOCK, fd))})
    turn: Turn = kind(fd)
    return turn


def _flock_with_gil() -> Callable[[int, int], int]:
    """The system's flock(2), which returns 0 or -1."""
    try:
        import ctypes  # noqa: PLC0415  # not part of every Python

        flock: Callable[[int, int], int] = ctypes.PyDLL(None).flock
        return flock
    except (ImportError, AttributeError, OSError):
        return _flock


def _flock(fd: int, what: int) -> int:
    """The same by Python's own, which lets go of the GIL: right as well, but others wait longer."""
    try:
        fcntl.flock(fd, what)
    except OSError:
        return -1
    return 0


_FLOCK: Final = _flock_with_gil()
