"""What code can know of the call that it runs under."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import CircuitBreaker, CurrentCall, Deadline, HealthSignal, Pipeline, RateLimiter, Retry, current_call
from resilience.health import Hold
from resilience.testing import ManualClock
from tests.core.helpers import Drive


def test_nothing_is_current_outside_of_a_call() -> None:
    assert current_call() is None


def test_what_a_handler_sees(clock: ManualClock, drive: Drive) -> None:
    health = HealthSignal(clock=clock)
    seen: list[Any] = []

    def work() -> None:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        seen.append((call.pipeline, call.attempt, call.settled, call.deadline.remaining_s(), call.health_factor))

    pipeline = Pipeline("api", Deadline(2.0, clock=clock), RateLimiter(10.0, health=health, clock=clock))
    drive(pipeline, work)
    health.opened(Hold(), clock.now_us(), None)
    drive(pipeline, work)
    assert seen == [("api", 0, False, 2.0, 1.0), ("api", 0, False, 2.0, 0.3)]
    assert current_call() is None


def test_the_lowest_of_several_signals_counts(clock: ManualClock) -> None:
    well, ill = HealthSignal(name="well", clock=clock), HealthSignal(name="ill", cut=0.5, clock=clock)
    ill.opened(Hold(), clock.now_us(), None)
    pipeline = Pipeline("api", RateLimiter(1.0, health=well, clock=clock), CircuitBreaker(health=ill, clock=clock))
    with pipeline.guard():
        call = current_call()
    assert call is not None
    assert call.health_factor == 0.5


def test_a_pipeline_without_a_signal_is_well(clock: ManualClock) -> None:
    with Pipeline("api", Deadline(clock=clock)).guard():
        call = current_call()
        assert call is not None
        assert (call.health_factor, call.deadline) == (1.0, None)


def test_within_an_attempt_it_knows_which_one(clock: ManualClock, drive: Drive) -> None:
    seen: list[tuple[str, int] | None] = []

    def work() -> None:
        call = current_call()
        seen.append(None if call is None else (call.pipeline, call.attempt))
        raise OSError("down")

    pipeline = Pipeline("payments", Retry(2, backoff_s=0.0, clock=clock))
    with Pipeline("api", Deadline(9.0, clock=clock)).guard(), pytest.raises(OSError, match="down"):
        drive(pipeline, work)
    assert seen == [("payments", 0), ("payments", 1)]


def test_one_that_is_kept_says_that_it_is_over(clock: ManualClock) -> None:
    kept: list[CurrentCall | None] = []
    Pipeline("api", Deadline(2.0, clock=clock)).call(lambda: kept.append(current_call()))
    (call,) = kept
    assert call is not None
    assert (call.settled, call.deadline) == (True, None)


def test_a_task_that_outlives_its_call_has_no_current_one(clock: ManualClock) -> None:
    async def scenario() -> None:
        begun = asyncio.Event()
        over = asyncio.Event()

        async def background() -> CurrentCall | None:
            begun.set()
            await over.wait()
            return current_call()

        async def handler() -> asyncio.Task[CurrentCall | None]:
            task = asyncio.create_task(background())
            await begun.wait()
            return task

        task = await Pipeline("api", Deadline(2.0, clock=clock)).acall(handler)
        over.set()
        assert await task is None

    asyncio.run(scenario())
