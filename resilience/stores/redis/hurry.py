"""Work that blocks for nobody knows how long, and a caller who has little time for it.

Making a connection is such: a name is looked up without any limit of time, and TLS, a password, a database and sentinels are steps
with a limit each, not one for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from resilience.stores.base import CONNECT_THREAD


class _Work:
    """What a thread of its own does. Whoever comes second, it or its caller's patience, lets go of what was made."""

    def __init__(self, do: Callable[[], object], undo: Callable[[], object]) -> None:
        self._do = do
        self._undo = undo
        self._lock = threading.Lock()
        self._is_given_up = False
        self._error: BaseException | None = None
        self._is_done = threading.Event()

    def run(self) -> None:
        try:
            self._do()
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            self._error = error
        with self._lock:
            self._is_done.set()
            is_given_up = self._is_given_up
        if is_given_up:
            self._undo()

    def wait(self, timeout_s: float) -> None:
        try:
            self._is_done.wait(timeout_s)
        finally:
            with self._lock:
                self._is_given_up = not self._is_done.is_set()
        if self._is_given_up:
            raise TimeoutError
        if self._error is not None:
            raise self._error


def in_time(do: Callable[[], object], undo: Callable[[], object], timeout_s: float) -> None:
    """Have `do` done by a thread. If it takes longer, it goes on without its caller, and `undo` ends it.

    Raises:
        TimeoutError: it takes longer.
        Exception: whatever `do` raises.
    """
    work = _Work(do, undo)
    threading.Thread(target=work.run, name=CONNECT_THREAD, daemon=True).start()
    work.wait(timeout_s)
