"""The store `host`: limits and health shared by the processes of one machine, without a server."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from resilience.clock import US_PER_S, Clock
from resilience.events import StoreChanged, emit
from resilience.fleet_health import FleetHealthSignal
from resilience.registry import enrol, members
from resilience.stores.host.board import Processes, SignalBoard
from resilience.stores.host.buckets import HostBuckets
from resilience.stores.host.files import Files
from resilience.stores.settings import HostStoreSettings

log = logging.getLogger("resilience")
THREAD_NAME: Final = "resilience-host"
BEAT_S: Final = 0.4
"""How often marks are renewed, the board is read and files are looked after."""
_SOON_S: Final = 0.05
"""The same where the lock of a board was not to be had."""
_AWAY_US: Final = 2 * US_PER_S
_QUIET_US: Final = 5 * US_PER_S
_MOST_TELLS: Final = 8
_WAIT_S: Final = 5.0


class HostStore:
    """One a process for all limits and signals of the same settings. Opens its files when it is first asked.

    Args:
        settings: name, directory and quorum.
        clock: where time comes from; the same for all processes of one boot.
        beats: whether a daemon thread beats; without it, call `beat`.
    """

    kind = "host"

    def __init__(self, settings: HostStoreSettings, clock: Clock, *, beats: bool = True) -> None:
        self.settings = settings
        self._clock = clock
        self._beats = beats
        self._files = Files(settings.name or "resilience", settings.directory, clock.now_us)
        self.buckets = HostBuckets(self._files, clock, self._use)
        self._was_used = False
        self._start_over()
        self._signals: tuple[FleetHealthSignal, ...] = ()  # replaced under the lock, never mutated
        self._is_closed = False
        self._late_told = 0
        self._has_missed = False
        self._trouble_us: int | None = None
        self._is_forking = False
        enrol(self)

    def _start_over(self) -> None:
        """What a process has for itself alone, and a forked child must not share with its parent."""
        self._process = secrets.randbits(60) | 2  # not the number of the board's own mark
        self._lock = threading.Lock()
        self._orders: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._processes: Processes | None = None
        self._boards: dict[str, SignalBoard] = {}
        self._heard_us: dict[str, int] = {}

    # --- signals -----------------------------------------------------------------------------------------------------------

    def join(self, signal: FleetHealthSignal) -> None:
        """Carry the marks of a signal to the board and the board's state to it, from now on."""
        with self._lock:
            if signal not in self._signals:
                self._signals = (*self._signals, signal)
        self._exchange(signal, self._clock.now_us())
        self.start()

    def leave(self, signal: FleetHealthSignal) -> None:
        """No more. A mark of its is taken back."""
        with self._lock:
            self._signals = tuple(kept for kept in self._signals if kept is not signal)
        board = self._boards.get(signal.name)
        if board is not None:
            mark, _ = signal.mark(self._clock.now_us())
            board.renew(self._marker_of(signal), mark._replace(is_open=False), self._clock.now_us())

    def _use(self) -> None:
        """A limit has come, and needs its files looked after."""
        if not self._was_used:
            self._was_used = True
            self.start()

    def wake(self) -> None:
        """Tell the board at once. Callers hold locks: it is only noted."""
        self._orders.put(None)

    def beat(self) -> None:
        """Look after the files, renew what must be renewed, and read what others have written."""
        now_us, self._has_missed = self._clock.now_us(), False
        if not self._files.is_current():
            self._drop()
        self._files.keep_house()
        self.buckets.look()
        self._count_processes(now_us)
        for signal in self._signals:
            self._exchange(signal, now_us)
        self._tell(now_us)

    @property
    def next_beat_s(self) -> float:
        """When to beat next, unless there is news."""
        return _SOON_S if self._has_missed else BEAT_S

    def _tell(self, now_us: int) -> None:
        """Tell once that something is wrong, and once that nothing has been for a while."""
        late, self._late_told = self.buckets.late - self._late_told, self.buckets.late
        trouble = self._files.trouble or (f"{late} decisions had no lock within 5 ms" if late else None)
        if trouble is not None:
            if self._trouble_us is None:
                emit([StoreChanged(self.kind, False, trouble)])
            self._trouble_us = now_us
        elif self._trouble_us is not None and now_us - self._trouble_us >= _QUIET_US:
            self._trouble_us = None
            emit([StoreChanged(self.kind, True, "it serves again")])

    def _count_processes(self, now_us: int) -> None:
        processes = self._processes
        if processes is not None and not processes.file.is_current():
            processes = self._processes = None
        if processes is None:
            self._files.have("processes", self._find_processes)
            processes = self._processes
        if processes is not None:
            if self.buckets.has_decided:  # the parent of workers, which decides nothing, is none itself
                processes.renew(self._process, now_us)
            self.buckets.workers = max(1, processes.count(now_us))

    def _find_processes(self, place: Any, turns: Any) -> None:
        self._processes = Processes(place, turns)

    def _exchange(self, signal: FleetHealthSignal, now_us: int) -> None:
        """Tell the board of a signal what there is to tell, and take over what it says."""
        board = self._board_of(signal)
        for _ in range(_MOST_TELLS):
            mark, openings = signal.mark(now_us)
            state = None if board is None else board.renew(self._marker_of(signal), mark, now_us)
            if state is None:
                self._has_missed = board is not None
                if now_us - self._heard_us.get(signal.name, 0) > _AWAY_US:
                    signal.away(now_us)
                return
            self._heard_us[signal.name] = now_us
            if signal.follow(state, openings, now_us, 0):
                return
        self.wake()

    def _marker_of(self, signal: FleetHealthSignal) -> int:
        """Whose a mark is: of this process, and of this signal of its."""
        return self._process + 4 * signal.number

    def _board_of(self, signal: FleetHealthSignal) -> SignalBoard | None:
        board = self._boards.get(signal.name)
        if board is not None and board.file.is_current():
            return board
        self._boards.pop(signal.name, None)

        def make(place: Any, turns: Any) -> None:
            self._boards[signal.name] = SignalBoard(place, turns, signal.name)

        self._files.have(f"health {signal.name}", make)
        return self._boards.get(signal.name)

    # --- the thread --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See that the thread runs. It keeps no process alive."""
        with self._lock:
            if not self._beats or self._is_closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no thread to be had, or the interpreter is about to end
                self._thread = None
                log.warning("the store of the host is not kept up to date for now: %s", error)

    def _run(self) -> None:
        own, told = threading.current_thread(), ""
        while self._thread is own:
            try:
                self.beat()
            except Exception as error:
                if repr(error) != told:
                    log.exception("the store of the host could not be kept up to date; tried again in %s s", BEAT_S)
                told = repr(error)
            with suppress(Empty):
                self._orders.get(timeout=self.next_beat_s)

    # --- ends --------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the thread, take back marks, let go of the files."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self.wake()
            thread.join(_WAIT_S)
        for signal in self._signals:
            self.leave(signal)
        if self._processes is not None:
            self._processes.leave(self._process)
        self._drop()

    def _drop(self) -> None:
        self._files.drop()
        self.buckets.drop()
        self._processes = None
        self._boards.clear()

    def before_fork(self) -> None:
        """End the thread, so that it holds nothing that a child would wait for in vain."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._is_forking = thread is not None
        if thread is not None and thread is not threading.current_thread():
            self.wake()
            thread.join(_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_forking:
            self._is_forking = False
            self.start()

    def renew_locks(self) -> None:
        """In a forked child: open everything anew, since locks on what was inherited would be the parent's as well."""
        self._is_forking = False
        self._start_over()
        self._files.drop()
        self.buckets.renew_locks()

    def resume(self) -> None:
        """In a forked child, after that: go on as a process of its own."""
        if self._signals or self._was_used:
            self.start()

    def status(self) -> dict[str, Any]:
        """What an operator wants to see."""
        return {"kind": self.kind, "folder": self._files.path, "workers": self.buckets.workers, "trouble": self._files.trouble}


def _before_fork() -> None:
    for store in members(HostStore):
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in members(HostStore):
        store.after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
