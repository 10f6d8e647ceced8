"""Which files are alive in this process: one real path has one live object, whoever asks for it, also on both sides of a fork."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from resilience.config.source import reason
from resilience.errors import ConfigError
from resilience.watch import THREAD

_WAIT_S = 5.0
"""The longest that a fork waits for a reload that is under way."""


class OfFile(Protocol):
    """What comes from one file, and has a lock of its own."""

    path: str
    lock: threading.Lock

    def renew_locks(self) -> None:
        """In a forked child: renew its other locks too."""


T = TypeVar("T", bound=OfFile)


class Live(Generic[T]):
    """The live objects by path. `lock` is held by whoever looks one up, makes one or gives one up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._by_path: dict[str, T] = {}
        self._held: list[threading.Lock] = []
        self._pid = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork_in_child,
            )

    def find(self, path: str) -> T | None:
        """The live object of the file that `path` leads to now: a link may lead elsewhere since it was opened."""
        if path in self._by_path:
            return self._by_path[path]
        real = os.path.realpath(path)
        return next((found for found in self._by_path.values() if os.path.realpath(found.path) == real), None)

    def add(self, member: T) -> None:
        """It is found from now on."""
        self._by_path[member.path] = member

    def forget(self, member: T) -> None:
        """It is found no more."""
        if self._by_path.get(member.path) is member:
            del self._by_path[member.path]

    def ensure(self) -> None:
        """See that files are watched in this process too, were it forked in a way that Python was not told of."""
        if os.getpid() == self._pid:
            THREAD.ensure()
        else:
            self._after_fork_in_child()

    # What is half done when the process forks would stay half done in the child, under a lock that nobody there holds.

    def _before_fork(self) -> None:
        THREAD.before_fork()
        for lock in (self.lock, *(member.lock for member in list(self._by_path.values()))):
            if lock.acquire(timeout=_WAIT_S):
                self._held.append(lock)

    def _after_fork_in_parent(self) -> None:
        while self._held:
            self._held.pop().release()
        THREAD.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        self._pid = os.getpid()
        self._held.clear()
        self.lock = threading.Lock()
        for member in self._by_path.values():
            member.lock = threading.Lock()
            member.renew_locks()
        THREAD.after_fork_in_child()


def absolute(path: str | os.PathLike[str]) -> str:
    """`path` as it stays right when the working directory changes. Links are left in it: where they lead may change.

    Raises:
        ConfigError: there is no working directory any more that it could start from.
    """
    try:
        return str(Path(path).absolute())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be found: the working directory: {reason(error)}") from error
