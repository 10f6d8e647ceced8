"""Clocks of processes that are minutes apart: what counts is the server's, and the total stays within the bound."""

from __future__ import annotations

import threading
import time

import pytest

from resilience.clock import SystemClock
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, Hold
from resilience.layers.limiter import RateLimiterSettings, SharedLimiterState, SharedRateLimiter
from resilience.stores.redis import RedisStore
from resilience.stores.settings import RedisStoreSettings
from tests.stores.limits import Caller, be_patient, eventually
from tests.stores.servers import Server


class SkewedClock(SystemClock):
    """One that is so many seconds off."""

    __slots__ = ("_skew_us",)

    def __init__(self, skew_s: float) -> None:
        self._skew_us = round(skew_s * 1_000_000)

    def now_us(self) -> int:
        return super().now_us() + self._skew_us


class Process:
    """A process as far as stores tell them apart: a store, a clock, a signal and a limiter of its own."""

    def __init__(self, server: Server, name: str, mode: str, skew_s: float) -> None:
        self.clock = SkewedClock(skew_s)
        self.store = RedisStore(RedisStoreSettings(server.url, name=name, mode=mode), self.clock)
        be_patient(self.store)
        self.signal = FleetHealthSignal(self.store, settings=HealthSettings(), name="default", clock=self.clock)
        self.store.join(self.signal)
        settings = RateLimiterSettings(rate_per_s=100.0, burst=100)
        state = SharedLimiterState("api", settings, self.signal, self.clock.now_us(), self.store)
        self.caller = Caller(SharedRateLimiter.over(state, settings, name="api", clock=self.clock))


@pytest.mark.parametrize("mode", ["strict", "lease"])
def test_workers_a_minute_apart_stay_within_the_bound(server: Server, name: str, mode: str) -> None:
    processes = [Process(server, name, mode, skew_s) for skew_s in (0.0, 61.0, -61.0)]
    try:
        eventually(lambda: all(process.signal.status()["shared"] for process in processes))
        began_s = time.monotonic()
        run_all(processes, 0.7)
        assert sum(process.caller.admitted for process in processes) <= 100 + 100 * (time.monotonic() - began_s)

        processes[1].signal.opened(Hold(), processes[1].clock.now_us(), None)
        eventually(lambda: all(process.signal.factor == 0.3 for process in processes))
        before, began_s = sum(process.caller.admitted for process in processes), time.monotonic()
        run_all(processes, 0.7)
        since = sum(process.caller.admitted for process in processes) - before
        assert since <= 30 + 30 * (time.monotonic() - began_s) + 1, "cut for all of them, whoever's clock says what"
    finally:
        for process in processes:
            process.store.close()


def run_all(processes: list[Process], duration_s: float) -> None:
    threads = [threading.Thread(target=process.caller.calls_for, args=(duration_s, 150.0, 2)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
