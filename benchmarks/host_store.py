"""What a decision costs in the store `host`, beside the process store and beside `limits` on a Valkey on the same machine.

All in one process and one run; rounds take turns, and the best of each counts, so that what else the machine does matters less.
Each decision goes through `RateLimiter.admit`, or `limits`' fixed window, which is its quickest. `make bench` runs it.

Run: .venv/bin/python benchmarks/host_store.py
Exit status 1: fewer than `TIMES` decisions in the time of one of `limits`.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from resilience.call import Call
from resilience.clock import SYSTEM_CLOCK
from resilience.layers.limiter import LimiterState, RateLimiter, SharedLimiterState, SharedRateLimiter
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings
from tests.stores.servers import Server

TIMES: Final = 10
ROUNDS: Final = 400
ROUND_S: Final = 0.003
"""As short as what a system lets a process do in one go, so that some of them are not interrupted."""
KEYS: Final = [f"203.0.113.{number}" for number in range(200)]
OUT: Final = Path(__file__).parent / "out" / "host_store.json"


def settings(key: str | None = None) -> RateLimiterSettings:
    """A limit that admits all of it."""
    return RateLimiterSettings(rate_per_s=1e9, burst=1_000_000_000, key=key, max_keys=10_000)


def over(state: LimiterState) -> Callable[[str], object]:
    """One decision of a limiter over that state."""
    kind = SharedRateLimiter if isinstance(state, SharedLimiterState) else RateLimiter
    limiter = kind.over(state, state.settings, name="api", clock=SYSTEM_CLOCK)
    return lambda key: limiter.admit(Call(key=key, now_us=SYSTEM_CLOCK.now_us()))


def per_s(decide: Callable[[str], object]) -> float:
    """Decisions a second in one round."""
    made, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < ROUND_S:
        for key in KEYS:
            decide(key)
        made += len(KEYS)
    return made / (time.perf_counter() - began_s)


def main() -> None:
    server = Server()
    now_us = SYSTEM_CLOCK.now_us()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        store = HostStore(HostStoreSettings("benchmark", folder), SYSTEM_CLOCK)
        fixed = importlib.import_module("limits.strategies").FixedWindowRateLimiter(
            importlib.import_module("limits.storage").RedisStorage(server.url)
        )
        item = importlib.import_module("limits").RateLimitItemPerSecond(1_000_000_000)
        decisions: dict[str, Callable[[str], object]] = {
            "process": over(LimiterState(settings(), None, now_us)),
            "process, keyed": over(LimiterState(settings("client_address"), None, now_us)),
            "host": over(SharedLimiterState("api", settings(), None, now_us, store.buckets)),
            "host, keyed": over(SharedLimiterState("keyed", settings("client_address"), None, now_us, store.buckets)),
            "limits on Valkey": lambda key: fixed.hit(item, key),
        }
        best = dict.fromkeys(decisions, 0.0)
        for _ in range(ROUNDS):
            for name, decide in decisions.items():
                best[name] = max(best[name], per_s(decide))
        store.close()
    server.close()
    for name, rate in best.items():
        print(f"{name:20} {rate:10,.0f}/s   {1e6 / rate:6.2f} us   {rate / best['limits on Valkey']:6.1f} x limits")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({name: round(rate) for name, rate in best.items()}, indent=1))
    sys.exit(best["host"] < TIMES * best["limits on Valkey"])


if __name__ == "__main__":
    main()
