"""Recovery: open time, probes, and exactly so many of them, whoever comes at once."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, CircuitOpen, Outcome, Pipeline
from resilience.testing import ManualClock
from tests.core.helpers import Desk, Drive, Failure, abandon, attempt, fail, no_jitter, succeed

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED
OK, FAILED, IGNORED = Outcome.OK, Outcome.FAILED, Outcome.IGNORED
CYCLES = 1_000
CALLERS = 50


def tripped(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    """A breaker that has just opened, for 30 s unless told otherwise."""
    breaker = CircuitBreaker(**{"min_calls": 1, "probes": 3, "clock": clock, "uniform": no_jitter, **settings})
    attempt(Pipeline("p", breaker), fail)
    assert breaker.state is OPEN
    return breaker


def open_time_s(breaker: CircuitBreaker, clock: ManualClock) -> float:
    """How long it says it stays open."""
    with pytest.raises(CircuitOpen) as refused:
        Pipeline("p", breaker).call(succeed)
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_half_open_begins_with_the_first_call_after_the_open_time(clock: ManualClock, drive: Drive) -> None:
    breaker = tripped(clock)
    clock.advance(29.999_999)
    assert attempt(Pipeline("p", breaker), succeed, drive) == "refused"
    clock.advance(0.000_001)
    assert breaker.state is OPEN, "nobody has come"
    assert attempt(Pipeline("p", breaker), succeed, drive) == "ok"
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("ok ok ok", CLOSED),
        ("ok ok failed", CLOSED),  # 1 of 3 is below 50 %
        ("ok failed failed", OPEN),
        ("failed failed ok", OPEN),  # decides when all have settled
        ("failed failed", HALF_OPEN),
        ("ok ok", HALF_OPEN),
        ("failed failed failed", OPEN),
        ("abandoned abandoned abandoned abandoned", HALF_OPEN),
        ("abandoned ok abandoned ok abandoned ok", CLOSED),
        ("failed abandoned failed abandoned ok", OPEN),
    ],
)
def test_probes_decide(clock: ManualClock, drive: Drive, outcomes: str, state: BreakerState) -> None:
    breaker = tripped(clock)
    clock.advance(30.0)
    works = {"ok": succeed, "failed": fail, "abandoned": abandon}
    for outcome in outcomes.split():
        assert attempt(Pipeline("p", breaker), works[outcome], drive) == outcome
    assert breaker.state is state


def test_closing_clears_the_window(clock: ManualClock) -> None:
    breaker = tripped(clock, min_calls=2, consecutive_failures=1, window_s=3_600.0, probes=1)
    clock.advance(30.0)
    attempt(Pipeline("p", breaker), succeed)
    assert breaker.state is CLOSED
    assert breaker.pool.single.failure_rate(clock.now_us()) == 0.0


def test_never_more_in_flight_than_probes(clock: ManualClock) -> None:
    breaker = tripped(clock)
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    first, second, third = desk.admit(), desk.admit(), desk.admit()
    assert desk.is_refused()
    desk.settle(first, OK)
    assert desk.is_refused(), "two are in flight, one has counted: that is three"
    desk.settle(second, IGNORED)
    fourth = desk.admit()
    assert desk.is_refused(), "an ignored one gave its place to another, and to one only"
    desk.settle(third, OK)
    assert breaker.state is HALF_OPEN
    desk.settle(fourth, OK)
    assert breaker.state is CLOSED


def test_a_probe_that_is_refused_by_a_later_layer_frees_its_place(clock: ManualClock, drive: Drive) -> None:
    breaker = tripped(clock, probes=1)
    inner = tripped(clock, name="inner", open_for_s=3_600.0)
    clock.advance(30.0)
    for _ in range(5):
        with pytest.raises(CircuitOpen) as refused:
            drive(Pipeline("p", breaker, inner), succeed)
        assert refused.value.policy == "inner"
    assert breaker.state is HALF_OPEN
    assert attempt(Pipeline("p", breaker), succeed, drive) == "ok"
    assert breaker.state is CLOSED


@pytest.mark.may_leak("permits")
def test_the_refusal_says_when_all_probes_are_over(clock: ManualClock) -> None:
    breaker = tripped(clock, half_open_for_s=10.0, name="payments")
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    desk.admit()
    clock.advance(4.0)
    desk.admit()
    desk.admit()
    with pytest.raises(CircuitOpen) as refused:
        desk.admit()
    assert (refused.value.reason, refused.value.retry_after_s) == ("half_open", 6.0)
    assert str(refused.value) == "payments: the circuit breaker is half-open and its probes are taken; retry in 6 s"


# --- probes that hang -------------------------------------------------------------------------------------------------


def test_a_probe_that_takes_too_long_counts_as_failed(clock: ManualClock) -> None:
    breaker = tripped(clock, half_open_for_s=10.0, probes=2)
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    hung, quick = desk.admit(), desk.admit()
    desk.settle(quick, OK)
    clock.advance(9.999_999)
    assert desk.is_refused()
    assert breaker.state is HALF_OPEN
    clock.advance(0.000_001)
    assert desk.is_refused()
    assert breaker.state is OPEN, "1 of 2 failed"
    desk.settle(hung, OK)
    assert breaker.state is OPEN, "its vote comes too late"


def test_half_open_for_is_the_open_time_unless_set(clock: ManualClock) -> None:
    breaker = tripped(clock, open_for_s=20.0, probes=1)
    desk = Desk(breaker, clock)
    clock.advance(20.0)
    desk.admit()
    clock.advance(20.0)
    assert desk.is_refused()
    assert breaker.state is OPEN


@pytest.mark.parametrize("outcome", [OK, FAILED, IGNORED])
def test_a_probe_that_settles_too_late_has_failed_also_if_nobody_came_meanwhile(clock: ManualClock, outcome: Outcome) -> None:
    breaker = tripped(clock, half_open_for_s=10.0, probes=1)
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    probe = desk.admit()
    clock.advance(10.0)
    desk.settle(probe, outcome)
    assert breaker.state is OPEN


@pytest.mark.may_leak("permits")
def test_a_hung_probe_reopens_from_when_its_time_was_over(clock: ManualClock) -> None:
    breaker = tripped(clock, half_open_for_s=10.0, probes=1)
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    desk.admit()
    clock.advance(25.0)
    assert desk.is_refused()
    assert open_time_s(breaker, clock) == 15.0
    clock.advance(15.0)
    desk.admit()
    clock.advance(45.0)
    desk.admit()  # expired 35 s ago, open until 5 s ago
    assert breaker.state is HALF_OPEN


def test_too_few_callers_never_reopen_it(clock: ManualClock) -> None:
    breaker = tripped(clock, half_open_for_s=10.0, probes=3)
    desk = Desk(breaker, clock)
    clock.advance(30.0)
    desk.settle(desk.admit(), FAILED)
    desk.settle(desk.admit(), FAILED)
    clock.advance(86_400.0)
    assert breaker.state is HALF_OPEN
    desk.settle(desk.admit(), OK)
    assert breaker.state is OPEN


# --- the open time ----------------------------------------------------------------------------------------------------


def test_the_open_time_grows_after_each_failed_recovery_up_to_its_bound(clock: ManualClock, drive: Drive) -> None:
    breaker = tripped(clock, open_for_s=10.0, open_growth=2.0, open_max_s=60.0, probes=1)
    seen = []
    for _ in range(5):
        seen.append(open_time_s(breaker, clock))
        clock.advance(seen[-1])
        attempt(Pipeline("p", breaker), fail, drive)
    assert seen == [10.0, 20.0, 40.0, 60.0, 60.0]
    clock.advance(60.0)
    attempt(Pipeline("p", breaker), succeed, drive)
    assert breaker.state is CLOSED
    attempt(Pipeline("p", breaker), fail, drive)
    assert open_time_s(breaker, clock) == 10.0, "a recovery that succeeded starts the growth anew"


def test_growth_does_not_overflow(clock: ManualClock) -> None:
    breaker = tripped(clock, open_for_s=0.001, open_growth=100.0, open_max_s=0.002, probes=1)
    for _ in range(300):
        clock.advance(0.002)
        attempt(Pipeline("p", breaker), fail)
    assert open_time_s(breaker, clock) == 0.002


def test_an_open_time_above_the_bound_is_kept(clock: ManualClock) -> None:
    assert open_time_s(tripped(clock, open_for_s=600.0), clock) == 600.0


def test_jitter_shortens_by_a_tenth_at_most(clock: ManualClock) -> None:
    draws: Iterator[float] = iter([0.0, 0.5, 0.999_999_999, 0.25])
    breaker = tripped(clock, open_for_s=30.0, probes=1, uniform=lambda: next(draws))
    seen = [open_time_s(breaker, clock)]
    for _ in range(3):
        clock.advance(30.0)
        attempt(Pipeline("p", breaker), fail)
        seen.append(open_time_s(breaker, clock))
    assert seen == [30.0, 28.5, 27.0, 29.25]


def test_a_fleet_does_not_probe_in_step(clock: ManualClock) -> None:
    fleet = [CircuitBreaker(min_calls=1, clock=clock) for _ in range(50)]
    for breaker in fleet:
        attempt(Pipeline("p", breaker), fail)
    open_s = {open_time_s(breaker, clock) for breaker in fleet}
    assert all(27.0 <= each_s <= 30.0 for each_s in open_s)
    assert len(open_s) > 10


def test_slow_probes_reopen(clock: ManualClock, drive: Drive) -> None:
    breaker = tripped(clock, slow_call_s=1.0, slow_call_rate=0.5, probes=2)
    clock.advance(30.0)
    drive(Pipeline("p", breaker), lambda: clock.advance(2.0))
    drive(Pipeline("p", breaker), succeed)
    assert breaker.state is OPEN


# --- fifty at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


class Cycles:
    """Counts who gets through in each cycle. Odd cycles reopen it and even ones close and trip it again."""

    def __init__(self, breaker: CircuitBreaker, clock: ManualClock) -> None:
        self.breaker = breaker
        self.clock = clock
        self.through = 0
        self.refused = 0
        self.done = 0
        self.wrong: list[tuple[int, int, int]] = []

    def begin(self) -> None:
        """The open time is over."""
        self.through = self.refused = 0
        self.clock.advance(30.0)

    def end(self) -> None:
        """Check this cycle, and see that the breaker is open for the next."""
        if (self.through, self.refused) != (3, CALLERS - 3) or self.breaker.state is not (CLOSED if self.succeeds else OPEN):
            self.wrong.append((self.done, self.through, self.refused))
        if self.breaker.state is CLOSED:
            attempt(Pipeline("again", self.breaker), fail)
        self.done += 1

    @property
    def succeeds(self) -> bool:
        """Whether the probes of this cycle find the dependency well."""
        return self.done % 2 == 0


def test_exactly_three_of_fifty_threads_get_through(clock: ManualClock, eager_switching: None) -> None:
    cycles = Cycles(tripped(clock), clock)
    pipeline = Pipeline("p", cycles.breaker)
    count = threading.Lock()

    def next_cycle() -> None:
        cycles.end()
        cycles.begin()

    decided = threading.Barrier(CALLERS)  # nobody settles before everybody has been let through or refused
    over = threading.Barrier(CALLERS, action=next_cycle)

    def probe() -> None:
        with count:
            cycles.through += 1
        decided.wait(timeout=60)
        if not cycles.succeeds:
            raise Failure

    def caller() -> None:
        for _ in range(CYCLES):
            try:
                pipeline.call(probe)
            except CircuitOpen:
                with count:
                    cycles.refused += 1
                decided.wait(timeout=60)
            except Failure:
                pass
            over.wait(timeout=60)

    cycles.begin()
    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cycles.done, cycles.wrong) == (CYCLES, [])


def test_exactly_three_of_fifty_tasks_get_through(clock: ManualClock) -> None:
    cycles = Cycles(tripped(clock), clock)
    pipeline = Pipeline("p", cycles.breaker)

    async def probe() -> None:
        cycles.through += 1
        await asyncio.sleep(0)
        if not cycles.succeeds:
            raise Failure

    async def caller() -> None:
        try:
            await pipeline.acall(probe)
        except CircuitOpen:
            cycles.refused += 1
        except Failure:
            pass

    async def main() -> None:
        for _ in range(CYCLES):
            cycles.begin()
            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            cycles.end()

    asyncio.run(main())
    assert (cycles.done, cycles.wrong) == (CYCLES, [])
