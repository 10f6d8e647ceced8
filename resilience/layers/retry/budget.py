"""The retry budget: the token rule of gRPC's retry design (gRFC A6, "Throttling Retry Attempts")."""

from __future__ import annotations

import threading
from typing import Final

from resilience.health import PPB

_TOKEN: Final = PPB


class RetryBudget:
    """Shared by all calls of one policy. It starts full; retries are allowed while more than half of it is left."""

    def __init__(self, tokens: int, ratio: float) -> None:
        self._lock = threading.Lock()
        self._most = tokens * _TOKEN
        self._ratio = round(ratio * _TOKEN)
        self._level = self._most
        self.is_full = True

    def earn(self, factor_ppb: int = PPB) -> None:
        """A success gives `ratio` back, times the health factor while health is cut."""
        if self.is_full:  # nearly always; no lock for one read
            return
        with self._lock:
            self._level = min(self._most, self._level + self._ratio * factor_ppb // PPB)
            self.is_full = self._level == self._most

    def spend(self) -> bool:
        """A retryable failure costs one token. Returns whether a retry is allowed after it."""
        with self._lock:
            self._level = max(0, self._level - _TOKEN)
            self.is_full = False
            return self._level * 2 > self._most

    def take(self) -> bool:
        """A second try beside one that has not failed (a hedge) costs one token, where one is allowed now; else nothing."""
        with self._lock:
            allowed = self._level * 2 > self._most
            if allowed:
                self._level = max(0, self._level - _TOKEN)
                self.is_full = False
            return allowed

    def configure(self, tokens: int, ratio: float) -> None:
        """Go by a new size and ratio; the share that is left stays."""
        with self._lock:
            most = tokens * _TOKEN
            self._level = self._level * most // self._most
            self._most = most
            self._ratio = round(ratio * _TOKEN)

    def renew_lock(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """The tokens that are left."""
        return self._level / _TOKEN
