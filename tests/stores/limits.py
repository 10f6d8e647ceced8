"""One process's limiter over a store, for tests that ask it many times and look at what became of each call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resilience import Pipeline, RateLimited
from resilience.clock import SYSTEM_CLOCK
from resilience.health import HealthSignal
from resilience.layers.limiter import RateLimiterSettings, SharedLimiterState, SharedRateLimiter
from resilience.layers.limiter.shared_state import OnStoreError
from resilience.stores.redis import RedisStore
from resilience.stores.settings import RedisStoreSettings


@contextmanager
def redis_store(url: str, name: str, *, is_patient: bool = True, **settings: Any) -> Iterator[RedisStore]:
    """A store as one process has it; two of them in a test are two processes.

    Unless the test is about trouble, it waits longer than any setting allows: the machine may be busy with something else.
    """
    store = RedisStore(RedisStoreSettings(url, name=name, **settings))
    if is_patient:
        be_patient(store)
    try:
        yield store
    finally:
        store.close()


def be_patient(store: RedisStore) -> None:
    """Let a store wait for as long as it takes, for connections too."""
    store.timeout_us = 5_000_000
    for node in store.servers.nodes:
        node.lines._quick = node.lines._patient


def limiter_over(
    store: Any, *, on_store_error: OnStoreError = "local", health: HealthSignal | None = None, name: str = "api", **settings: Any
) -> SharedRateLimiter:
    """A limiter of one process over a store."""
    made = RateLimiterSettings(**settings)
    state = SharedLimiterState(name, made, health, SYSTEM_CLOCK.now_us(), store, on_store_error)
    return SharedRateLimiter.over(state, made, name=name, clock=SYSTEM_CLOCK)


class Caller:
    """Sends calls through a limiter and keeps count of what became of them, and how long each decision took."""

    def __init__(self, limiter: SharedRateLimiter, keys: Sequence[str | None] = (None,)) -> None:
        self.limiter = limiter
        self.keys = keys
        self.pipeline = Pipeline("p", limiter)
        self.took_s: list[float] = []
        self.found: Counter[str] = Counter()
        self._lock = threading.Lock()

    def call(self, key: str | None = None) -> str:
        """One call: "admitted" or why not. Anything else that it raises is a failure of the test."""
        began_s = time.perf_counter()
        found = "admitted"
        try:
            with self.pipeline.guard(key=key):
                took_s = time.perf_counter() - began_s
        except RateLimited as refusal:
            took_s = time.perf_counter() - began_s
            found = refusal.reason
        with self._lock:
            self.took_s.append(took_s)
            self.found[found] += 1
        return found

    def calls_for(self, duration_s: float, rate_per_s: float, threads: int = 4) -> None:
        """So many calls a second for a while, on a schedule that does not wait for slow ones."""
        start_s = time.perf_counter()

        def run(offset: int) -> None:
            number = offset
            while (due_s := number / rate_per_s) < duration_s:
                time.sleep(max(0.0, start_s + due_s - time.perf_counter()))
                self.call(self.keys[number % len(self.keys)])
                number += threads

        workers = [threading.Thread(target=run, args=(offset,)) for offset in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    @property
    def admitted(self) -> int:
        """How many were let through."""
        return self.found["admitted"]

    def percentile_s(self, share: float) -> float:
        """How long a decision took at most in this share of calls."""
        ordered = sorted(self.took_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def eventually(holds: Callable[[], object], within_s: float = 5.0) -> float:
    """Wait until something holds that another process or thread brings about. Returns how long that took."""
    began_s = time.monotonic()
    while not holds():
        if time.monotonic() - began_s > within_s:
            raise AssertionError(f"did not come about within {within_s:g} s")
        time.sleep(0.005)
    return time.monotonic() - began_s
