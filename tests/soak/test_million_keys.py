"""A million clients that nobody has seen before: memory stays bounded, and nobody gets a burst by crowding others out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from resilience import Call, CircuitBreaker, HealthSignal, Outcome, RateLimiter
from resilience.testing import ManualClock
from tests.core.test_limiter import take
from tests.soak.sizes import by_length

pytestmark = [pytest.mark.soak, pytest.mark.slow]

KEYS: Final = by_length(100_000, 1_000_000)
ROOT: Final = Path(__file__).parents[2]

CROWD: Final = """
import json, resource, sys
from resilience import Call, RateLimited, RateLimiter
from resilience.testing import ManualClock

keys, max_keys = int(sys.argv[1]), int(sys.argv[2])
clock = ManualClock()
limiter = RateLimiter(0.001, burst=2, key=lambda call: None, max_keys=max_keys, clock=clock)

def admitted(key):
    try:
        limiter.admit(Call(key=key, now_us=clock.now_us()))
    except RateLimited:
        return False
    return True

def peak_kb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak

old = [admitted("old") for _ in range(3)]
for number in range(max_keys - 1):
    admitted(f"198.51.{number}")
full_kb = peak_kb()
crowd = sum(admitted(f"203.0.{number}") for number in range(keys))
print(json.dumps({
    "old": old, "old_after": admitted("old"), "crowd": crowd, "size": len(limiter.state.table),
    "overflowed": limiter.state.table.overflowed, "full_kb": full_kb, "end_kb": peak_kb(),
}))
"""


def test_memory_is_bounded_and_newcomers_share_one_bucket(record_property: Callable[[str, object], None]) -> None:
    """In a process of its own, whose peak of memory is not that of other tests."""
    max_keys = KEYS // 10
    record_property("size", f"{KEYS:,} keys, {max_keys:,} places")
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(KEYS), str(max_keys)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["old"] == [True, True, False]
    assert not seen["old_after"], "who had spent is still known"
    assert seen["size"] == max_keys
    assert seen["crowd"] == 2, "all newcomers together have one burst"
    assert seen["overflowed"] == 2
    assert seen["end_kb"] - seen["full_kb"] < 2_048, "ten times more keys than places need no more memory"


def test_a_busy_key_among_clients_that_come_once(record_property: Callable[[str, object], None]) -> None:
    """Newcomers' buckets are full again after a second, and make room; that of the busy one never is."""
    record_property("size", f"{KEYS:,} keys that come once")
    clock = ManualClock()
    rate_per_s, burst, max_keys, newcomers_per_s = 1, 5, 5_000, 2_000
    limiter = RateLimiter(rate_per_s, burst=burst, key=lambda call: None, max_keys=max_keys, clock=clock)
    seconds = KEYS // newcomers_per_s
    busy = 0
    for second in range(seconds):
        for number in range(newcomers_per_s):
            assert take(limiter, clock, 1, f"{second} {number}") is None
            if number % 200 == 0:
                busy += take(limiter, clock, 1, "busy") is None
        clock.advance(1.0)
        assert len(limiter.state.table) <= max_keys
    assert busy == burst + rate_per_s * (seconds - 1)
    assert limiter.state.table.overflowed == 0


def test_breakers_by_host(record_property: Callable[[str, object], None]) -> None:
    """A breaker for each host, most of them down: the table is bounded, and who is forgotten lets go of the signal."""
    hosts = by_length(20_000, KEYS)
    record_property("size", f"{hosts:,} hosts")
    clock = ManualClock()
    health = HealthSignal(every_s=86_400.0, clock=clock)
    max_keys = 1_000
    breaker = CircuitBreaker(min_calls=1, key=lambda call: None, max_keys=max_keys, health=health, clock=clock)
    for number in range(hosts):
        call = Call(key=f"host {number}", now_us=clock.now_us())
        ticket = breaker.admit(call)
        assert ticket is not None
        breaker.settle(ticket, Outcome.FAILED if number % 10 else Outcome.OK, call, clock.now_us())
        assert len(breaker.pool.table) <= max_keys
    is_open = sum(machine.state.value == "open" for machine in breaker.pool)
    assert len(health._holds) == is_open <= max_keys
    assert (health.factor, health.incidents) == (0.3, 1)
