"""Deadlines that share a timer: never early, at most one slot late, and nothing kept alive."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest

from resilience import Deadline, Pipeline
from resilience.testing import ManualClock
from resilience.timers import wheel_of


class SlottedClock(ManualClock):
    """A manual clock whose deadlines share timers, as the system's do."""

    timer_slot_us = 4_000


class Member:
    def __init__(self, clock: ManualClock, error: Exception | None = None) -> None:
        self._clock = clock
        self._error = error
        self.expired_at_us: list[int] = []

    def expire(self) -> None:
        self.expired_at_us.append(self._clock.now_us())
        if self._error is not None:
            raise self._error


def in_a_loop(clock: ManualClock, deadlines_us: list[int]) -> list[Member]:
    """Members that wait for `deadlines_us` from now; time then passes microsecond by microsecond around them."""

    async def main() -> list[Member]:
        loop = asyncio.get_running_loop()
        start_us = clock.now_us()
        members = [Member(clock) for _ in deadlines_us]
        for member, deadline_us in zip(members, deadlines_us, strict=True):
            wheel_of(loop, clock).join(member, start_us + deadline_us, start_us)
        await loop.run_in_executor(None, clock.advance, 1.0)
        return members

    return asyncio.run(main())


@pytest.mark.parametrize("clock_class", [ManualClock, SlottedClock])
def test_never_early_and_at_most_one_slot_late(clock_class: type[ManualClock]) -> None:
    clock = clock_class()
    start_us = clock.now_us()
    deadlines_us = [0, 1, 3_999, 4_000, 4_001, 7_777, 8_000, 100_000, 999_999]
    for deadline_us, member in zip(deadlines_us, in_a_loop(clock, deadlines_us), strict=True):
        (expired_at_us,) = member.expired_at_us
        assert 0 <= expired_at_us - start_us - deadline_us < clock.timer_slot_us
    assert clock.pending_timers == 0


def test_deadlines_of_one_slot_share_a_timer() -> None:
    clock = SlottedClock()

    async def main() -> None:
        wheel = wheel_of(asyncio.get_running_loop(), clock)
        for deadline_us in range(1, 4_001, 100):
            wheel.join(Member(clock), clock.now_us() + deadline_us, clock.now_us())
        assert clock.pending_timers == 1

    asyncio.run(main())


def test_a_slot_that_everybody_has_left_is_used_again() -> None:
    """Most deadlines are left long before they pass: arming a timer for each would be the dearest part of a call."""
    clock = SlottedClock()

    async def main() -> None:
        wheel = wheel_of(asyncio.get_running_loop(), clock)
        for _ in range(10):
            member = Member(clock)
            wheel.join(member, clock.now_us() + 1_000_000, clock.now_us()).leave(member)
            assert clock.pending_timers == 1

    asyncio.run(main())


def test_a_slot_far_off_leaves_no_timer_behind() -> None:
    """Callers choose their deadlines: one that asks for an hour, and another hour each time, must not fill the loop with timers."""
    clock = SlottedClock()

    async def main() -> None:
        wheel = wheel_of(asyncio.get_running_loop(), clock)
        for number in range(10):
            member, other = Member(clock), Member(clock)
            deadline_us = clock.now_us() + 3_600_000_000 + number * 4_000
            slot = wheel.join(member, deadline_us, clock.now_us())
            assert wheel.join(other, deadline_us, clock.now_us()) is slot
            slot.leave(member)
            assert clock.pending_timers == 1
            slot.leave(other)
            assert clock.pending_timers == 0
        stays = Member(clock)
        wheel.join(stays, clock.now_us() + 3_600_000_000, clock.now_us())
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 3_601.0)
        assert len(stays.expired_at_us) == 1

    asyncio.run(main())


def test_who_has_left_is_not_told() -> None:
    clock = SlottedClock()

    async def main() -> None:
        wheel = wheel_of(asyncio.get_running_loop(), clock)
        gone, stays = Member(clock), Member(clock)
        slot = wheel.join(gone, clock.now_us() + 100, clock.now_us())
        assert wheel.join(stays, clock.now_us() + 200, clock.now_us()) is slot
        slot.leave(gone)
        slot.leave(gone)
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 1.0)
        assert (gone.expired_at_us, len(stays.expired_at_us)) == ([], 1)
        late = wheel.join(Member(clock), clock.now_us() - 500_000, clock.now_us())
        assert late is not slot

    asyncio.run(main())


def test_one_that_raises_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = SlottedClock()

    async def main() -> None:
        wheel = wheel_of(asyncio.get_running_loop(), clock)
        members = [Member(clock, ValueError("broken")) for _ in range(3)]
        for member in members:
            wheel.join(member, clock.now_us() + 100, clock.now_us())
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 1.0)
        assert [len(member.expired_at_us) for member in members] == [1, 1, 1]

    asyncio.run(main())
    assert caplog.text.count("a deadline could not be enforced") == 3


def test_loops_and_clocks_have_wheels_of_their_own() -> None:
    clocks = [ManualClock(), ManualClock()]

    async def wheels() -> list[object]:
        loop = asyncio.get_running_loop()
        assert wheel_of(loop, clocks[0]) is wheel_of(loop, clocks[0])
        return [wheel_of(loop, clock) for clock in (*clocks, *clocks)]

    first, second = asyncio.run(wheels()), asyncio.run(wheels())
    assert first[:2] == first[2:]
    assert len({id(wheel) for wheel in (*first, *second)}) == 4


def test_a_loop_that_is_closed_is_not_kept_alive() -> None:
    """Frameworks that run a coroutine from synchronous code make a loop for each call."""
    pipeline = Pipeline("p", Deadline(3_600.0))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await pipeline.acall(asyncio.sleep, 0)

    for _ in range(20):
        asyncio.run(main())
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1, "the one asked for last"


def test_a_timer_keeps_nothing_of_the_request_that_armed_it() -> None:
    """It is left to fire long after, and others share it."""

    class Mark:
        """Something that a request has put into its context."""

    variable: ContextVar[Mark] = ContextVar("mark")
    pipeline = Pipeline("p", Deadline(30.0))

    async def request() -> weakref.ref[Mark]:
        mark = Mark()
        variable.set(mark)
        await pipeline.acall(asyncio.sleep, 0)
        return weakref.ref(mark)

    async def main() -> bool:
        kept = await asyncio.create_task(request())
        await asyncio.sleep(0)  # what has woken this task refers to that one
        gc.collect()
        return kept() is not None

    assert not asyncio.run(main())
