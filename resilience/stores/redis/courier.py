"""The thread of a store: once a second, and whenever there is news, it goes to the server for the whole process.

It renews marks and takes over what the board says, probes a server that was away, fetches and returns leases. Calls never do any of
this. Like every thread of ours it is a daemon, and a forked child starts its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.stores.base import STORE_THREAD

log = logging.getLogger("resilience")
EVERY_US: Final = US_PER_S
_WAIT_S: Final = 1.0


class Courier:
    """Calls `errand` when it is due and after each `wake`; it returns the microseconds until it is due again.

    `hear` gives the socket on which there may be news, and `heard` is told of news, or that the other side has closed it.
    """

    def __init__(self, errand: Callable[[], int], hear: Callable[[], Any], heard: Callable[[bool], None]) -> None:
        self._errand = errand
        self._hear = hear
        self._heard = heard
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._ended = False
        self._door: tuple[socket.socket, socket.socket] | None = None
        self._last_error = ""
        self._next_try_us = 0

    def ensure(self) -> bool:
        """Start the thread where it should run and does not; what fails is tried again after a second.

        Returns whether it runs, or is at its end.
        """
        if self._runs():
            return True
        with self._lock:
            if self._ended or self._runs():
                return True
            if self._pid == os.getpid() and SYSTEM_CLOCK.now_us() < self._next_try_us:
                return False
            self._pid = os.getpid()
            self._door = socket.socketpair()
            for side in self._door:
                side.setblocking(False)
            self._thread = threading.Thread(target=self._run, args=(self._door[0],), name=STORE_THREAD, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no thread to be had, or the interpreter is about to end
                self._thread = None
                self._shut_door()
                self._next_try_us = SYSTEM_CLOCK.now_us() + EVERY_US
                log.warning("the store's thread cannot run for now: %s", error)

            return self._thread is not None

    def _runs(self) -> bool:
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Have the errand run next. It never waits."""
        door = self._door
        if door is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):  # it has not read yet what woke it before, or it has ended
                door[1].send(b"!")

    def stop(self) -> None:
        """End the thread, once the errand that is under way is over."""
        with self._lock:
            self._ended = True
            thread, self._thread = self._thread, None
        self.wake()
        if thread is not None and thread is not threading.current_thread() and self._pid == os.getpid():
            thread.join(_WAIT_S)

    def renew_locks(self) -> None:
        """In a forked child: the thread and the door are the parent's."""
        self._lock = threading.Lock()
        self._thread = None
        self._shut_door()

    def _shut_door(self) -> None:
        door, self._door = self._door, None
        for side in door or ():
            side.close()

    # --- in the thread --------------------------------------------------------------------------------------------------------

    def _run(self, door: socket.socket) -> None:
        own = threading.current_thread()
        with selectors.DefaultSelector() as selector:
            selector.register(door, selectors.EVENT_READ)
            heard: socket.socket | None = None
            while self._thread is own:
                wait_us = self._guarded()
                heard = self._listen(selector, heard)
                for key, _ in selector.select(max(0, wait_us) / US_PER_S):
                    is_open = _drained(key.fileobj)
                    if key.fileobj is heard:
                        if not is_open:
                            selector.unregister(heard)
                            heard = None
                        self._heard(is_open)
        if self._door is not None and self._door[0] is door:
            self._shut_door()

    def _listen(self, selector: selectors.BaseSelector, heard: socket.socket | None) -> socket.socket | None:
        """Listen to the channel of changes, where there is one now. Without it, the reading once a second is soon enough."""
        found: socket.socket | None = self._hear()
        if found is not heard:
            if heard is not None:
                selector.unregister(heard)
            if found is not None:
                selector.register(found, selectors.EVENT_READ)
        return found

    def _guarded(self) -> int:
        """Nothing that goes wrong ends the thread. The same is told once."""
        try:
            wait_us = self._errand()
        except Exception as error:
            if repr(error) != self._last_error:
                log.exception("the store's thread could not do its errand; it tries again in a second")
            self._last_error = repr(error)
            return EVERY_US
        self._last_error = ""
        return wait_us


def _drained(readable: Any) -> bool:
    """Read what is there; what it says does not matter. False: the other side has closed it."""
    try:
        while readable.recv(65_536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False
