"""The one thread of a process that looks at watched files, however many there are.

It sleeps on a queue whose `put` takes no lock of ours and may interrupt itself, so that a signal handler can wake it. It is stopped
before a fork and started again on both sides, so that it never holds a lock that a child would wait for in vain.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock

log = logging.getLogger("resilience")
NAME: Final = "resilience-watch"
_WAIT_S: Final = 5.0
"""The longest that stopping, or a fork, waits for a look that is under way."""
_AFTER_ERROR_US: Final = US_PER_S
_GIVE_WAY_S: Final = 0.0001
"""Long enough that another thread wakes up and takes the interpreter."""


class Job:
    """What the thread does for one file.

    Args:
        path: what the file is called in messages.
        look: takes the thread's clock, looks, and returns the instant of the next look, or None for never.
        hang_up: what SIGHUP asks for.
    """

    __slots__ = ("due_us", "hang_up", "last_error", "look", "path", "wake_ups")

    def __init__(self, path: str, look: Callable[[Clock], int | None], hang_up: Callable[[], None]) -> None:
        self.path = path
        self.look = look
        self.hang_up = hang_up
        self.due_us: int | None = 0
        self.last_error = ""
        self.wake_ups = 0

    def wake(self) -> None:
        """Have the file looked at next, also where a look that began earlier is still under way. One caller at a time."""
        self.wake_ups += 1  # first: the thread reads it after it has set `due_us`
        self.due_us = 0


class WatchThread:
    """Runs while there are jobs. A daemon: it keeps no process alive."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._forked_by = 0  # the thread that holds the lock while it forks
        self._orders: SimpleQueue[Job | None] = SimpleQueue()  # a job that SIGHUP asks for, or None to look around
        self._jobs: tuple[Job, ...] = ()  # replaced under the lock, never mutated
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Look at a file from now on, if it is not looked at already."""
        with self._lock:
            if job not in self._jobs:
                self._jobs = (*self._jobs, job)
            self._start()

    def remove(self, job: Job) -> None:
        """Look no more. The thread ends with its last job."""
        with self._lock:
            self._jobs = tuple(kept for kept in self._jobs if kept is not job)
            thread = None if self._jobs else self._let_go()
        self._wait_for(thread)

    def hang_up(self, job: Job) -> None:
        """Do in the thread what SIGHUP asks for. Signal handlers may call this."""
        self._orders.put(job)

    def ensure(self) -> None:
        """Start the thread where it should run and does not: after a fork that Python was not told of, or a failed start."""
        if os.getpid() != self._pid:
            self.after_fork_in_child()
        elif self._jobs and (self._thread is None or not self._thread.is_alive()) and self._lock.acquire(blocking=False):
            # Not waited for: a fork holds the lock until the look that is under way is over, and this may be called from that look.
            try:
                self._start()
            finally:
                self._lock.release()

    def give_way(self) -> None:
        """Let the other threads go first, when this is the thread that watches.

        Whoever waits for the interpreter gets it after 5 ms else, and an event loop waits for it after each of its own waits: while
        a long file was read, each step of each request would take so long.
        """
        if threading.current_thread() is self._thread:
            self._clock.sleep(_GIVE_WAY_S)

    def stop(self) -> None:
        """End for good: the interpreter is about to, and what ran on would find a world half taken down."""
        with self._lock:
            self._jobs = ()
            thread = self._let_go()
        self._wait_for(thread)

    # --- forks ----------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """End the thread, and let none be started until the fork is done."""
        if self._lock.acquire(timeout=_WAIT_S):
            self._forked_by = threading.get_ident()
        self._wait_for(self._let_go())

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._forked_by == threading.get_ident():
            self._start()
            self._forked_by = 0
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Go on in a process that has inherited the jobs, but no thread."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._forked_by = 0
        self._orders = SimpleQueue()
        self._thread = None
        for job in self._jobs:
            job.wake()
        with self._lock:
            self._start()

    # --- under the lock -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._jobs:
            return
        if self._thread is not None and self._thread.is_alive():
            self._orders.put(None)
            return
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread to be had, or the interpreter is about to end; `ensure` tries again
            self._thread = None
            log.warning("configuration files are not watched for now: %s", error)

    def _let_go(self) -> threading.Thread | None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._orders.put(None)
        return thread

    # --- in the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        own = threading.current_thread()
        wait_s: float | None = 0.0
        while True:
            try:
                job = self._orders.get(timeout=wait_s)
            except Empty:
                job = None
            if self._thread is not own:
                if job is not None:
                    self._orders.put(job)  # for the thread that comes after this one
                return
            if job is not None:
                self._guarded(job, _hang_up)
            wait_s = self._look_around()

    def _look_around(self) -> float | None:
        """Do what is due. Returns the seconds until the next is, or None for never."""
        for job in self._jobs:
            if job.due_us is not None and job.due_us <= self._clock.now_us():
                self._guarded(job, self._look)
        due_us = [job.due_us for job in self._jobs if job.due_us is not None]
        return max(0, min(due_us) - self._clock.now_us()) / US_PER_S if due_us else None

    def _look(self, job: Job) -> None:
        wake_ups = job.wake_ups
        job.due_us = self._clock.now_us() + _AFTER_ERROR_US
        job.due_us = job.look(self._clock)
        if job.wake_ups != wake_ups:  # what was looked for has changed meanwhile
            job.due_us = 0

    def _guarded(self, job: Job, work: Callable[[Job], None]) -> None:
        """Nothing that goes wrong with one file ends the watch over it, or over the others. The same is told once."""
        try:
            work(job)
        except BaseException as error:  # nobody is above to take it, and the thread would end without a word
            if repr(error) != job.last_error:
                log.exception("%s: could not be looked at; the next look is in a second", job.path)
            job.last_error = repr(error)
        else:
            job.last_error = ""

    def _wait_for(self, thread: threading.Thread | None) -> None:
        if thread is not None and thread is not threading.current_thread():
            thread.join(_WAIT_S)


def _hang_up(job: Job) -> None:
    job.hang_up()


THREAD: Final = WatchThread()
atexit.register(THREAD.stop)
