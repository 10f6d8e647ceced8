"""Calls that could not be stopped at their time limit: how many there are, and how many may have a replacement."""

from __future__ import annotations

import threading


class Abandoned:
    """The abandoned calls of one caller. Those within the bound give their place back at once, the others when they end."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._most = most
        self._replaced = 0
        self._held = 0
        self.total = 0

    @property
    def now(self) -> int:
        """Those that have not ended."""
        return self._replaced + self._held

    def add(self) -> bool:
        """One more. Returns whether its place may be given to another call."""
        with self._lock:
            self.total += 1
            if self._replaced >= self._most:
                self._held += 1
                return False
            self._replaced += 1
            return True

    def ended(self, *, replaced: bool) -> None:
        """One has ended after all."""
        with self._lock:
            if replaced:
                self._replaced -= 1
            else:
                self._held -= 1

    def renew_lock(self) -> None:
        """In a forked child: nobody is at work there."""
        self._lock = threading.Lock()
        self._replaced = self._held = 0
