"""SIGHUP as an order to reload: the handler passes it on and does nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from resilience.watch.thread import THREAD, Job


class _Handler:
    """One installation. It goes on to the handler that it replaced."""

    def __init__(self, hang_up: HangUp, earlier: Any) -> None:
        self._hang_up = hang_up
        self.earlier = earlier

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # No lock may be taken here: the code that this interrupts may hold it.
        self._hang_up.pass_on()
        if callable(self.earlier):
            self.earlier(number, frame)


class HangUp:
    """The jobs that SIGHUP is for."""

    def __init__(self, pass_on: Callable[[Job], None]) -> None:
        self._pass_on = pass_on
        self._jobs: tuple[Job, ...] = ()  # replaced, never mutated: a signal may come at any time
        self._handler: _Handler | None = None

    def ask(self, job: Job) -> None:
        """Pass SIGHUP on to `job` from now on; an earlier handler is still called.

        Raises:
            RuntimeError: this is not the main thread, or the system has no such signal.
        """
        if not hasattr(signal, "SIGHUP"):
            raise RuntimeError("this system has no SIGHUP; call toolkit.reload() where the order to reload comes in")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread can set a signal handler; call reload_on_sighup() there")
        if job not in self._jobs:
            self._jobs = (*self._jobs, job)
        if self._handler is None or signal.getsignal(signal.SIGHUP) is not self._handler:
            self._handler = _Handler(self, signal.getsignal(signal.SIGHUP))
            signal.signal(signal.SIGHUP, self._handler)

    def leave(self, job: Job) -> None:
        """Pass it on to `job` no more. With the last job the earlier handler is back, where it can be put back."""
        self._jobs = tuple(kept for kept in self._jobs if kept is not job)
        handler = self._handler
        if self._jobs or handler is None or threading.current_thread() is not threading.main_thread():
            return
        earlier = handler.earlier  # None: it was not set from Python, and cannot be called or put back from here
        if signal.getsignal(signal.SIGHUP) is handler:
            signal.signal(signal.SIGHUP, signal.SIG_DFL if earlier is None else earlier)
        self._handler = None

    def pass_on(self) -> None:
        """The signal has come."""
        for job in self._jobs:
            self._pass_on(job)


HANG_UP: Final = HangUp(THREAD.hang_up)
