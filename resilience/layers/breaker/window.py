"""Recent calls, counted: over a stretch of time or over a number of calls."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

BUCKETS: Final = 10


class Window(Protocol):
    """Counts of the calls that still matter."""

    calls: int
    failures: int
    slow_calls: int
    until_us: int
    """Until then nothing is forgotten, and successes may be added later, by their number; 0: each call is to be added by itself."""

    def add_successes(self, count: int) -> None:
        """Count so many calls that came before `until_us`, and were neither failures nor slow."""

    def add(self, now_us: int, failed: bool, slow: bool) -> None:
        """Count one more call, and forget those that have become too old."""

    def expire(self, now_us: int) -> None:
        """Forget what has become too old, for those who only look."""

    def clear(self) -> None:
        """Forget everything."""


class TimeWindow:
    """The calls of the last `length_us`, in ten buckets: a call is forgotten nine to ten tenths of the window later."""

    __slots__ = ("_bucket_us", "_buckets", "_current", "_epoch", "calls", "failures", "slow_calls", "until_us")

    def __init__(self, length_us: int) -> None:
        self._bucket_us = max(1, length_us // BUCKETS)
        self.clear()

    def clear(self) -> None:
        self._epoch = self.until_us = 0
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]
        self._current = self._buckets[0]
        self.calls = self.failures = self.slow_calls = 0

    def add_successes(self, count: int) -> None:
        self.calls += count
        self._current[0] += count

    def add(self, now_us: int, failed: bool, slow: bool) -> None:
        if now_us >= self.until_us:
            self._forget(now_us // self._bucket_us)
        self.calls += 1
        bucket = self._current
        bucket[0] += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow_calls += 1

    def expire(self, now_us: int) -> None:
        if now_us >= self.until_us:
            self._forget(now_us // self._bucket_us)

    def _forget(self, epoch: int) -> None:
        for old in range(max(self._epoch + 1, epoch - BUCKETS + 1), epoch + 1):
            bucket = self._buckets[old % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow_calls -= bucket[2]
            bucket[0] = bucket[1] = bucket[2] = 0
        self._epoch = epoch
        self.until_us = (epoch + 1) * self._bucket_us
        self._current = self._buckets[epoch % BUCKETS]


class CountWindow:
    """The last `length` calls."""

    __slots__ = ("_recent", "calls", "current", "failures", "slow_calls", "until_us")

    def __init__(self, length: int) -> None:
        self.until_us = 0
        self._recent: deque[tuple[bool, bool]] = deque(maxlen=length)
        self.clear()

    def clear(self) -> None:
        self._recent.clear()
        self.calls = self.failures = self.slow_calls = 0

    def add_successes(self, count: int) -> None:
        for _ in range(count):
            self.add(0, failed=False, slow=False)

    def add(self, now_us: int, failed: bool, slow: bool) -> None:
        recent = self._recent
        if len(recent) == recent.maxlen:
            old_failed, old_slow = recent[0]
            self.failures -= old_failed
            self.slow_calls -= old_slow
        recent.append((failed, slow))
        self.calls = len(recent)
        self.failures += failed
        self.slow_calls += slow

    def expire(self, now_us: int) -> None:
        """A count window forgets by calls only."""
