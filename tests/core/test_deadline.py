"""The deadline of a call: where it comes from, how it is kept, and that nothing is left of it afterwards."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry, current_deadline
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, attempt, fail, no_jitter, succeed


def us_left(deadline: Deadline, call: Call) -> int | None:
    deadline.admit(call)
    return None if call.deadline_us is None else call.deadline_us - call.now_us


@pytest.mark.parametrize(
    ("settings", "asked_s", "around_s", "left_s"),
    [
        ({}, None, None, None),
        ({"max_s": 10.0}, None, None, None),  # no header and no default: no deadline
        ({"default_s": 5.0}, None, None, 5.0),
        ({"default_s": 5.0}, 2.0, None, 2.0),
        ({"default_s": 5.0}, 8.0, None, 8.0),
        ({"default_s": 5.0, "max_s": 6.0}, 8.0, None, 6.0),
        ({"max_s": 6.0}, 8.0, None, 6.0),
        ({}, 8.0, None, 8.0),
        ({}, None, 3.0, 3.0),
        ({"default_s": 5.0}, None, 3.0, 3.0),
        ({"default_s": 5.0}, None, 7.0, 5.0),
        ({"default_s": 5.0}, 4.0, 3.0, 3.0),
        ({"default_s": 5.0}, 2.0, 3.0, 2.0),
        ({}, 1e300, None, 86_400.0),
    ],
)
def test_the_earliest_binds(
    clock: ManualClock, settings: dict[str, Any], asked_s: float | None, around_s: float | None, left_s: float | None
) -> None:
    call = Call(now_us=clock.now_us())
    call.timeout_s = asked_s
    call.deadline_us = None if around_s is None else clock.now_us() + round(around_s * 1e6)
    assert us_left(Deadline(**settings, clock=clock), call) == (None if left_s is None else round(left_s * 1e6))


@pytest.mark.parametrize(("left_s", "counts"), [(5.0, True), (2.5, True), (2.499_999, False), (0.005, False)])
def test_only_half_the_default_is_evidence(clock: ManualClock, left_s: float, counts: bool) -> None:
    call = Call(now_us=clock.now_us())
    call.timeout_s = left_s
    Deadline(5.0, clock=clock).admit(call)
    assert call.deadline_counts is counts
    without_default = Call(now_us=clock.now_us())
    without_default.timeout_s = left_s
    Deadline(clock=clock).admit(without_default)
    assert without_default.deadline_counts is True


@pytest.mark.parametrize("asked_s", [0.0, -1.0, 0.000_000_4])
def test_expired_on_arrival_is_not_begun(clock: ManualClock, asked_s: float) -> None:
    deadline = Deadline(5.0, name="api", clock=clock)
    call = Call("orders", now_us=clock.now_us())
    call.timeout_s = asked_s
    with pytest.raises(DeadlineExceeded) as raised:
        deadline.admit(call)
    assert (raised.value.policy, raised.value.reason, raised.value.retry_after_s) == ("api", "expired_on_arrival", None)
    assert isinstance(raised.value, TimeoutError)
    assert str(raised.value) == "api: the time for orders had run out before it began"
    assert deadline.decisions() == {"admitted": 0, "expired": 1}


def test_nothing_begins_inside_an_expired_call(clock: ManualClock, drive: Drive) -> None:
    inner, ran = Pipeline("inner", Deadline(5.0, clock=clock)), []

    def work() -> None:
        clock.advance(1.0)
        inner.call(lambda: ran.append(1))

    with pytest.raises(DeadlineExceeded, match="had run out before it began"):
        drive(Pipeline("outer", Deadline(1.0, clock=clock)), work)
    assert ran == []


# --- tasks ------------------------------------------------------------------------------------------------------------


def cancelled_at(clock: ManualClock, pipeline: Pipeline) -> tuple[DeadlineExceeded, bool]:
    """Hang in a task until the deadline; whether the work was cancelled."""
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> DeadlineExceeded:
        task = asyncio.create_task(pipeline.acall(hang))
        await asyncio.sleep(0)
        while not task.done():
            clock.advance(0.5)
            await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded) as raised:
            await task
        assert task.cancelling() == 0
        return raised.value

    return asyncio.run(main()), bool(cancelled)


def test_a_task_is_cancelled_when_it_passes(clock: ManualClock) -> None:
    deadline = Deadline(2.0, name="api", clock=clock)
    error, was_cancelled = cancelled_at(clock, Pipeline("p", deadline))
    assert was_cancelled
    assert (error.policy, error.reason, str(error)) == ("api", "expired", "api: the time for hang ran out")
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert deadline.decisions() == {"admitted": 1, "expired": 1}
    assert clock.pending_timers == 0


def test_a_breaker_takes_it_as_a_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    cancelled_at(clock, Pipeline("p", Deadline(2.0, clock=clock), breaker))
    assert breaker.state.value == "open"


def test_a_cancellation_from_outside_stays_one(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    pipeline = Pipeline("p", Deadline(2.0, clock=clock), breaker)

    async def main() -> None:
        task = asyncio.create_task(pipeline.acall(asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel("the client has gone")
        with pytest.raises(asyncio.CancelledError, match="the client has gone"):
            await task

    asyncio.run(main())
    assert breaker.state.value == "closed"
    assert breaker.pool.single._window.calls == 0
    assert clock.pending_timers == 0


def test_cancelled_from_outside_at_the_same_instant_it_stays_cancelled(clock: ManualClock) -> None:
    async def main() -> None:
        task = asyncio.create_task(Pipeline("p", Deadline(2.0, clock=clock)).acall(asyncio.Event().wait))
        await asyncio.sleep(0)
        clock.advance(2.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("swallows", [True, False])
def test_work_that_answers_its_cancellation_in_its_own_way_leaves_no_request_behind(clock: ManualClock, swallows: bool) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallows:
                return "done all the same"
            raise Failure from None
        return "never"

    async def main() -> None:
        pipeline = Pipeline("p", Deadline(2.0, clock=clock))
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, clock.advance, 2.0)
        if swallows:
            assert await pipeline.acall(stubborn) == "done all the same"
        else:
            with pytest.raises(Failure):
                await pipeline.acall(stubborn)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "asyncio.timeout and TaskGroup around this would misread it"

    asyncio.run(main())


def test_under_an_asyncio_timeout_that_is_longer(clock: ManualClock) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, clock.advance, 2.0)
        async with asyncio.timeout(3_600.0):
            with pytest.raises(DeadlineExceeded):
                await Pipeline("p", Deadline(2.0, clock=clock)).acall(asyncio.Event().wait)

    asyncio.run(main())


def test_under_an_asyncio_timeout_that_is_shorter(clock: ManualClock) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0):
                await Pipeline("p", Deadline(2.0, clock=clock)).acall(asyncio.Event().wait)
        assert not isinstance(raised.value, DeadlineExceeded)

    asyncio.run(main())
    assert clock.pending_timers == 0


def test_with_an_asyncio_timeout_inside(clock: ManualClock) -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "handled"
        return "never"

    assert asyncio.run(Pipeline("p", Deadline(2.0, clock=clock)).acall(work)) == "handled"
    assert clock.pending_timers == 0


@pytest.mark.parametrize("form", ["acall", "guard"])
@pytest.mark.parametrize("inner_s", [5.0, 2.0])
def test_of_two_calls_with_one_instant_the_outer_one_answers_and_both_have_run_out(
    clock: ManualClock, inner_s: float, form: str
) -> None:
    """Whichever timer is first, the dependency behind the inner call has let its time pass."""
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    inner = Pipeline("inner", Deadline(inner_s, name="inner", clock=clock), breaker)
    outer = Pipeline("outer", Deadline(2.0, name="outer", clock=clock))

    async def handler() -> None:
        if form == "acall":
            await inner.acall(asyncio.Event().wait)
        async with inner.guard():
            await asyncio.Event().wait()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, clock.advance, 2.0)
        with pytest.raises(DeadlineExceeded) as raised:
            await outer.acall(handler)
        assert raised.value.policy == "outer"

    asyncio.run(main())
    assert breaker.state.value == ("open" if inner_s == 2.0 else "closed"), "2 s of 5 s are less than half"


def test_an_inner_deadline_that_is_earlier_is_its_own(clock: ManualClock) -> None:
    inner = Pipeline("inner", Deadline(1.0, name="inner", clock=clock))
    outer = Pipeline("outer", Deadline(2.0, name="outer", clock=clock))

    async def handler() -> str:
        with pytest.raises(DeadlineExceeded) as raised:
            await inner.acall(asyncio.Event().wait)
        assert raised.value.policy == "inner"
        return "fallback"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, clock.advance, 1.0)
        assert await outer.acall(handler) == "fallback"

    asyncio.run(main())
    assert clock.pending_timers == 0


def test_no_timer_is_left_of_any_ending(clock: ManualClock) -> None:
    pipeline = Pipeline("p", Deadline(2.0, clock=clock))

    async def works() -> str:
        return "done"

    async def breaks() -> None:
        raise Failure

    async def main() -> None:
        assert await pipeline.acall(works) == "done"
        with pytest.raises(Failure):
            await pipeline.acall(breaks)
        async with pipeline.guard():
            assert clock.pending_timers == 1

    asyncio.run(main())
    assert clock.pending_timers == 0


def test_a_moment_too_late_for_its_own_result(clock: ManualClock) -> None:
    """Work that blocks the loop past its deadline and returns: its result stands, its breaker counts it as failed."""
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    pipeline = Pipeline("p", Deadline(2.0, clock=clock), breaker)

    async def blocks() -> str:
        clock.advance(3.0)
        return "late"

    async def main() -> None:
        assert await pipeline.acall(blocks) == "late"
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert breaker.state.value == "open"


def test_outside_of_a_task_it_says_so_and_keeps_nothing(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, clock=clock, uniform=no_jitter)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(30.0)
    pipeline = Pipeline("p", Deadline(2.0, clock=clock), breaker)

    async def guarded() -> None:
        async with pipeline.guard():
            pass

    for coroutine in (pipeline.acall(asyncio.sleep, 0), guarded()):
        with pytest.raises(RuntimeError, match="no running event loop"):
            coroutine.send(None)
        assert current_deadline(clock) is None
        clock.advance(30.0)
    assert clock.pending_timers == 0
    attempt(Pipeline("p", breaker), succeed)
    assert breaker.state.value == "closed", "the probes were given back"


def test_an_attempt_is_judged_by_its_own_deadline(clock: ManualClock) -> None:
    """The caller came with little of the whole time, yet each attempt had all of its own."""
    breaker = CircuitBreaker(min_calls=2, clock=clock)
    layers = (Deadline(5.0, clock=clock), Retry(2, backoff_s=0, clock=clock), Deadline(0.5, clock=clock), breaker)

    async def hang() -> None:
        await clock.asleep(0.5)

    outer = Pipeline("outer", Deadline(2.0, clock=clock))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(outer.acall(Pipeline("p", *layers).acall, hang))
    assert breaker.state.value == "open"


# --- threads ----------------------------------------------------------------------------------------------------------


def test_a_thread_is_not_interrupted_but_can_ask(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, failure_rate=1.0, clock=clock)
    pipeline = Pipeline("p", Deadline(2.0, clock=clock), breaker)

    def slow() -> str:
        deadline = current_deadline(clock)
        assert deadline is not None
        deadline.check()
        assert deadline.remaining_s() == 2.0
        clock.advance(1.5)
        assert deadline.remaining_s() == 0.5
        clock.advance(0.5)
        assert deadline.remaining_s() == 0.0
        with pytest.raises(DeadlineExceeded, match="the time for this call has run out"):
            deadline.check()
        clock.advance(0.1)
        return "late"

    assert pipeline.call(slow) == "late"
    assert breaker.state.value == "open", "its caller has stopped waiting"
    assert current_deadline(clock) is None


def test_a_late_success_of_a_caller_with_little_time_is_no_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    inner = Pipeline("inner", Deadline(5.0, clock=clock), breaker)
    Pipeline("outer", Deadline(1.0, clock=clock)).call(lambda: inner.call(lambda: clock.advance(3.0)))
    assert breaker.state.value == "closed"


# --- void when settled ------------------------------------------------------------------------------------------------


def test_a_settled_calls_deadline_is_void_for_who_inherited_it(clock: ManualClock) -> None:
    pipeline, inner = Pipeline("p", Deadline(2.0, clock=clock)), Pipeline("inner", CircuitBreaker(clock=clock))

    async def main() -> None:
        settled = asyncio.Event()

        async def background() -> str:
            inherited = current_deadline(clock)
            assert inherited is not None
            assert inherited.remaining_s() == 2.0
            assert inherited.deadline_s == clock.now_us() / 1e6 + 2.0
            await settled.wait()
            assert current_deadline(clock) is None
            clock.advance(10.0)
            await asyncio.sleep(0)
            return await inner.acall(later)

        async def later() -> str:
            assert current_deadline(clock) is None
            return "in its own time"

        async def handler() -> asyncio.Task[str]:
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
            return task

        task = await pipeline.acall(handler)
        assert clock.pending_timers == 0
        settled.set()
        assert await task == "in its own time"

    asyncio.run(main())


def test_of_nested_calls_the_one_still_in_progress_binds(clock: ManualClock, drive: Drive) -> None:
    outer, inner = Pipeline("outer", Deadline(9.0, clock=clock)), Pipeline("inner", Deadline(2.0, clock=clock))

    def remaining_s() -> float | None:
        deadline = current_deadline(clock)
        return None if deadline is None else deadline.remaining_s()

    def work() -> list[float | None]:
        return [remaining_s(), inner.call(remaining_s), remaining_s()]

    assert drive(outer, work) == [9.0, 2.0, 9.0]
    assert remaining_s() is None


def test_threads_do_not_inherit_unless_told(clock: ManualClock) -> None:
    seen: list[object] = []

    def work() -> None:
        thread = threading.Thread(target=lambda: seen.append(current_deadline(clock)))
        thread.start()
        thread.join()

    Pipeline("p", Deadline(2.0, clock=clock)).call(work)
    assert seen == [None]

    async def main() -> None:
        seen.append(await Pipeline("p", Deadline(2.0, clock=clock)).acall(asyncio.to_thread, current_deadline, clock))

    asyncio.run(main())
    assert getattr(seen[1], "deadline_us", None) is not None


def test_a_chain_of_background_tasks_holds_no_chain_of_calls(clock: ManualClock) -> None:
    """A task that starts its successor from inside a call, for ever, must not keep all calls before it alive."""
    pipeline = Pipeline("p", Deadline(2.0, clock=clock))
    begun: list[weakref.ref[Any]] = []

    class Payload:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[int] = loop.create_future()
        latest: list[asyncio.Task[None]] = []

        async def poll(payload: Payload) -> None:
            begun.append(weakref.ref(payload))
            if len(begun) < 50:
                loop.call_later(0, start)
                return
            gc.collect()
            over.set_result(sum(payload() is not None for payload in begun))

        def start() -> None:
            latest[:] = [loop.create_task(pipeline.acall(poll, Payload()))]

        start()
        assert await over <= 3
        await latest[0]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default_s": 0.0}, "default_s: must be above 0 s"),
        ({"default_s": 10.0, "max_s": 5.0}, "default_s: must be at most max_s (5.0 s), got 10.0 s"),
        ({"reserve_s": -1.0}, "reserve_s"),
        ({"read": ("x-timeout",)}, "read: knows grpc-timeout"),
        ({"write": "x-timeout"}, "write: must be one of grpc-timeout"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Deadline(**settings)


def test_status_and_name(clock: ManualClock) -> None:
    deadline = Deadline(5.0, 30.0, name="api", clock=clock)
    Pipeline("p", deadline).call(succeed)
    with pytest.raises(Failure):
        Pipeline("p", deadline).call(fail)
    assert deadline.status() == {"default_s": 5.0, "malformed_headers": 0, "admitted": 2, "expired": 0}
    assert repr(deadline) == "Deadline('api', default_s=5.0, max_s=30.0)"


def test_the_reserve_is_what_callers_further_out_are_not_told(clock: ManualClock) -> None:
    assert Deadline(5.0, reserve_s=0.02, clock=clock).reserve_us == 20_000
