"""64 threads, 10,000 takes each: what is let in and what is refused adds up, to the token."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from resilience import Call, HealthSignal, RateLimited, RateLimiter
from resilience.health import Hold
from resilience.testing import ManualClock
from tests.soak.sizes import by_length

pytestmark = pytest.mark.soak

THREADS: Final = 64
TAKES: Final = 10_000


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads take turns far more often than usual."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual_s)


def in_threads(work: Callable[[int], int]) -> list[int]:
    """What `work` returned in each of the threads, which all begin at once."""
    start = threading.Barrier(THREADS)
    got: list[int] = [0] * THREADS

    def run(index: int) -> None:
        start.wait()
        got[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_one_bucket(record_property: Callable[[str, object], None]) -> None:
    record_property("size", f"{THREADS} threads x {TAKES:,} takes")
    clock = ManualClock()
    burst = THREADS * TAKES // 3
    limiter = RateLimiter(1.0, burst=burst, clock=clock)
    now_us = clock.now_us()
    got = in_threads(lambda _: sum(limiter.state.take(None, 1, now_us) == 0 for _ in range(TAKES)))
    assert sum(got) == burst
    assert limiter.decisions() == {"admitted": burst, "rejected": THREADS * TAKES - burst, "queued": 0, "would_reject": 0}


@pytest.mark.slow
def test_buckets_that_fill_while_health_is_cut_and_recovers(record_property: Callable[[str, object], None]) -> None:
    """Time moves, and the rate with it, while 64 threads take through the layer: what was issued was let in or is still there."""
    takes = by_length(1_000, TAKES)
    record_property("size", f"{THREADS} threads x {takes:,} calls, time and health moving")
    clock = ManualClock()
    health = HealthSignal(every_s=1.0, clock=clock)
    rate_per_s, burst, keys = 1_000, 400, 4
    limiter = RateLimiter(rate_per_s, burst=burst, key=lambda call: None, health=health, clock=clock)
    hold = Hold()
    moving = threading.Lock()
    issued_ppb = 0

    def time_passes() -> None:
        """A millisecond, in which each bucket gets as many thousandths of a token as the factor says."""
        nonlocal issued_ppb
        with moving:
            issued_ppb += health.factor_ppb_at(clock.now_us())
            clock.advance(0.001)
            millisecond = clock.now_us() // 1_000
            if millisecond % 4_000 == 1_500:
                health.opened(hold, clock.now_us(), None)
            elif millisecond % 4_000 == 2_000:
                health.closed(hold, clock.now_us())

    def work(index: int) -> int:
        count = 0
        for number in range(takes):
            if number % 8 == 0:
                time_passes()
            try:
                # Each thread goes round all keys: none is left to overflow while the threads of another move time on.
                limiter.admit(Call(key=f"key {(index + number) % keys}", now_us=clock.now_us()))
            except RateLimited:
                continue
            count += 1
        return count

    started_with = keys * burst
    got = sum(in_threads(work))
    assert limiter.decisions()["admitted"] == got
    assert limiter.decisions()["rejected"] == THREADS * takes - got
    left = sum(limiter.quota(Call(key=f"key {number}", now_us=clock.now_us())).remaining for number in range(keys))
    issued = keys * issued_ppb * rate_per_s // 1_000 // 1_000_000_000
    assert got + left <= started_with + issued
    # A cut clamps buckets that are fuller than it leaves them: no more than that is lost, and parts of tokens.
    assert got + left >= issued - keys
    assert health.incidents >= 1
