"""What a forked child does first: it replaces every lock that a thread of its parent may have held. See test_forks.py."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Retry
from resilience.testing import ManualClock
from tests.core.helpers import succeed


def test_no_lock_is_left_that_somebody_else_may_hold(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    deadline, limiter, retry = (
        Deadline(1.0, clock=clock),
        RateLimiter(5.0, health=health, clock=clock),
        Retry(2, health=health, clock=clock),
    )
    breaker = CircuitBreaker(key=lambda call: "one", health=health, clock=clock)
    pipeline = Pipeline("p", deadline, limiter, retry, breaker)
    pipeline.call(succeed)
    (machine,) = breaker.pool.table

    def locks() -> list[threading.Lock]:
        return [
            health._lock,
            deadline.state.lock,
            limiter.state.lock,
            retry.state.lock,
            retry.state.budget._lock,
            breaker.pool.table._lock,
            breaker.pool.single.lock,
            machine.lock,
        ]

    held = locks()
    with ExitStack() as by_another_thread:
        for lock in held:
            by_another_thread.enter_context(lock)
        for member in (health, deadline, limiter, retry, breaker):
            member.renew_locks()
        for lock in locks():
            assert lock.acquire(blocking=False)
            lock.release()
        assert pipeline.call(succeed) == "done"
