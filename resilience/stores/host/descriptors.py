"""Descriptors of files that are locked, and what becomes of them over a fork.

A lock of flock(2) belongs to the open file, which a forked child shares with its parent: as long as the child has it open, the lock
of a parent that was killed is not free. What other threads of the parent had open is in nobody's hands in the child, so every
descriptor is noted here while it is open, and the child lets go of them all.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_open: Final[set[int]] = set()
_pid = os.getpid()
"""The process that has them open."""


def note(fd: int) -> int:
    """Have a descriptor closed in forked children. Returns it."""
    _let_go_of_the_parents()  # here too: in a child a thread may open files before the hook below is called
    _open.add(fd)
    return fd


def close(fd: int) -> None:
    """Close a descriptor that was noted."""
    _open.discard(fd)
    os.close(fd)


def _let_go_of_the_parents() -> None:
    """Once in a forked child: another file takes each number, so that whoever still has it closes nothing that was opened since."""
    global _pid  # noqa: PLW0603  # what it is about is the process itself
    if _pid == os.getpid():
        return
    _pid = os.getpid()
    fds = tuple(_open)
    _open.clear()
    if not fds:
        return
    try:
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no descriptor left
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
        return
    for fd in fds:
        os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go_of_the_parents)
