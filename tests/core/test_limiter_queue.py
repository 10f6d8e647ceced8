"""Waiting for tokens: first come, first served, within the patience of the policy and the deadline of the call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from resilience import Call, Deadline, HealthSignal, Pipeline, RateLimited, RateLimiter
from resilience.health import Hold
from resilience.layers.base import Wait
from resilience.testing import ManualClock
from tests.core.helpers import Drive, succeed
from tests.core.test_limiter import take


def waits_s(limiter: RateLimiter, clock: ManualClock, tries: int) -> list[float | None]:
    """For each of so many calls at this instant: the wait it is told, 0 for none, None for a refusal."""
    told: list[float | None] = []
    for _ in range(tries):
        try:
            effect = limiter.admit(Call("test", now_us=clock.now_us()))
        except RateLimited:
            told.append(None)
        else:
            told.append(0.0 if effect is None else effect.wait_s)
    return told


def test_the_queue_is_as_long_as_the_patience(clock: ManualClock) -> None:
    limiter = RateLimiter(10.0, burst=2, max_wait_s=0.3, clock=clock)
    assert waits_s(limiter, clock, 7) == [0.0, 0.0, 0.1, 0.2, 0.3, None, None]
    assert limiter.decisions() == {"admitted": 2, "rejected": 2, "queued": 3, "would_reject": 0}
    clock.advance(0.2)
    assert waits_s(limiter, clock, 3) == [0.2, 0.3, None], "those who wait already are served first"


def test_the_driver_waits_and_then_calls(clock: ManualClock, drive: Drive) -> None:
    pipeline = Pipeline("p", RateLimiter(10.0, burst=1, max_wait_s=1.0, clock=clock))
    start_us = clock.now_us()
    called_at_us = [drive(pipeline, clock.now_us) - start_us for _ in range(4)]
    assert called_at_us == [0, 100_000, 200_000, 300_000]
    assert clock.slept_s == [0.1, 0.1, 0.1]


def test_tasks_are_served_in_the_order_they_came(clock: ManualClock) -> None:
    clock = ManualClock(auto_advance=False)
    pipeline = Pipeline("p", RateLimiter(1.0, burst=1, max_wait_s=100.0, clock=clock))
    served: list[tuple[int, float]] = []
    start_us = clock.now_us()

    async def call(number: int) -> None:
        async def work() -> None:
            served.append((number, (clock.now_us() - start_us) / 1e6))

        await pipeline.acall(work)

    async def main() -> None:
        tasks = [asyncio.create_task(call(number)) for number in range(10)]
        for _ in range(12):
            for _ in range(5):
                await asyncio.sleep(0)
            clock.advance(1.0)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert served == [(number, float(number)) for number in range(10)]
    assert clock.pending_timers == 0


def test_a_cancelled_waiter_gives_its_place_back(clock: ManualClock) -> None:
    clock = ManualClock(auto_advance=False)
    limiter = RateLimiter(1.0, burst=1, max_wait_s=2.0, clock=clock)
    pipeline = Pipeline("p", limiter)
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    async def main() -> None:
        await pipeline.acall(work)
        waiters = [asyncio.create_task(pipeline.acall(work)) for _ in range(2)]
        await asyncio.sleep(0)
        assert waits_s(limiter, clock, 1) == [None]
        waiters[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiters[1]
        assert waits_s(limiter, clock, 1) == [2.0]
        clock.advance(1.0)
        await waiters[0]

    asyncio.run(main())
    assert len(ran) == 2
    assert clock.pending_timers == 0


def test_a_thread_that_is_interrupted_while_it_waits_gives_its_place_back(clock: ManualClock) -> None:
    class Interrupted(ManualClock):
        def sleep(self, duration_s: float) -> None:
            raise KeyboardInterrupt

    interrupted = Interrupted()
    limiter = RateLimiter(1.0, burst=1, max_wait_s=1.0, clock=interrupted)
    pipeline = Pipeline("p", limiter)
    pipeline.call(succeed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            pipeline.call(succeed)
    assert waits_s(limiter, interrupted, 1) == [1.0]


@pytest.mark.parametrize("key", [None, "alice"])
def test_giving_back_fills_no_bucket_beyond_full(clock: ManualClock, key: str | None) -> None:
    limiter = RateLimiter(1.0, burst=3, key=(lambda call: None) if key else None, max_wait_s=10.0, clock=clock)
    assert all(take(limiter, clock, 3, key) is None for _ in range(1))
    effect = limiter.admit(Call(key=key, cost=3, now_us=clock.now_us()))
    assert isinstance(effect, Wait)
    clock.advance(60.0)
    effect.cancel()
    assert take(limiter, clock, 3, key) is None
    assert limiter.quota(Call(key=key, now_us=clock.now_us())).remaining == 0


def test_a_wait_longer_than_the_deadline_is_refused_at_once(clock: ManualClock, drive: Drive) -> None:
    limiter = RateLimiter(1.0, burst=1, max_wait_s=60.0, clock=clock)
    pipeline = Pipeline("p", Deadline(1.5, clock=clock), limiter)
    drive(pipeline, succeed)
    drive(pipeline, succeed)
    assert clock.slept_s == [1.0]
    limiter.state.reserve(None, 1, clock.now_us(), 60_000_000, limiter.settings)
    with pytest.raises(RateLimited) as refused:
        drive(pipeline, succeed)
    assert refused.value.retry_after_s == 2.0
    assert clock.slept_s == [1.0], "it did not sleep first"
    assert waits_s(limiter, clock, 1) == [2.0], "it took nothing"


def test_reservations_keep_their_instant_and_the_debt_is_paid_at_the_new_rate(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    limiter = RateLimiter(1.0, burst=1, max_wait_s=100.0, health=health, clock=clock)
    assert waits_s(limiter, clock, 4) == [0.0, 1.0, 2.0, 3.0]
    health.opened(Hold(), clock.now_us(), None)
    assert waits_s(limiter, clock, 1) == [pytest.approx(4 / 0.3, abs=1e-6)]
    clock.advance(3.0)
    assert waits_s(limiter, clock, 1) == [pytest.approx((5 - 0.9) / 0.3, abs=1e-6)]


def test_a_reload_keeps_the_queue(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, max_wait_s=100.0, clock=clock)
    assert waits_s(limiter, clock, 3) == [0.0, 1.0, 2.0]
    limiter.state.configure(replace(limiter.settings, rate_per_s=2.0, burst=50), clock.now_us())
    assert waits_s(limiter, clock, 1) == [1.5]


def test_time_spent_waiting_is_not_the_dependencys(clock: ManualClock, drive: Drive) -> None:
    """The call's instant is renewed after a wait, so that what follows measures the work alone."""
    seen: list[int] = []

    class Spy:
        kind, name, votes_at_start, has_effects = "spy", "spy", False, False

        def admit(self, call: Call) -> None:
            seen.append(call.now_us)

        def settle(self, *_: object) -> None: ...

    pipeline = Pipeline("p", RateLimiter(1.0, burst=1, max_wait_s=9.0, clock=clock), Spy())
    drive(pipeline, succeed)
    drive(pipeline, succeed)
    assert seen[1] - seen[0] == 1_000_000


def test_a_waiter_that_is_cancelled_after_its_instant_gives_nothing_back(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, max_wait_s=1.0, clock=clock)
    take(limiter, clock)
    waiter = limiter.admit(Call("test", now_us=clock.now_us()))
    assert isinstance(waiter, Wait)
    clock.advance(2.0)  # its second came and went, and the bucket has been full since
    take(limiter, clock)
    waiter.cancel()
    assert waits_s(limiter, clock, 1) == [1.0], "two at one instant would be more than the bucket ever held"
