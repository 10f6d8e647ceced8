"""What opens a closed breaker, and what does not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from typing import Any

import pytest

from resilience import (
    BreakerState,
    Call,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Outcome,
    Pipeline,
    RateLimited,
    Rejected,
    subscribe,
)
from resilience.layers.breaker.classify import judge_status
from resilience.layers.breaker.window import CountWindow, TimeWindow
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Drive, Failure, abandon, attempt, fail, no_jitter, raiser, succeed

OPEN, CLOSED = BreakerState.OPEN, BreakerState.CLOSED


def breaker_of(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(clock=clock, uniform=no_jitter, **settings)


def run(breaker: CircuitBreaker, outcomes: str, drive: Drive) -> None:
    """Send calls through it: "." succeeds, "x" fails, "-" is abandoned."""
    pipeline = Pipeline("p", breaker)
    for outcome in outcomes:
        attempt(pipeline, {".": succeed, "x": fail, "-": abandon}[outcome], drive)


@pytest.mark.parametrize(
    ("settings", "outcomes", "state"),
    [
        ({}, "x" * 19, CLOSED),
        ({}, "x" * 20, OPEN),
        ({}, "." * 10 + "x" * 9, CLOSED),
        ({}, "." * 10 + "x" * 10, OPEN),
        ({}, "." * 11 + "x" * 10, CLOSED),
        ({}, "x" * 10 + "." * 9, CLOSED),
        ({}, "x" * 10 + "." * 10, OPEN),  # the success that completes min_calls shows the rate that was there
        ({}, "x" * 9 + "." * 11, CLOSED),
        ({}, "." * 500, CLOSED),
        ({"min_calls": 1}, "x", OPEN),
        ({"min_calls": 1}, ".", CLOSED),
        ({"min_calls": 4, "failure_rate": 0.75}, "x.xx", OPEN),
        ({"min_calls": 4, "failure_rate": 0.76}, "x.xx", CLOSED),
        ({"min_calls": 3, "failure_rate": 1.0}, "xx.", CLOSED),
        ({"min_calls": 3, "failure_rate": 1.0}, "xxx", OPEN),
        ({"min_calls": 3, "failure_rate": 1 / 3}, "x..", OPEN),
        ({"min_calls": 10, "failure_rate": 0.1}, "x" + "." * 9, OPEN),
        ({"min_calls": 4}, "----xx", CLOSED),  # ignored calls count nowhere
        ({"min_calls": 4}, "-x-x-x-x", OPEN),
        ({"window_calls": 4, "min_calls": 4}, "xx..", OPEN),
        ({"window_calls": 4, "min_calls": 4}, "....xx", OPEN),
        ({"window_calls": 4, "min_calls": 4}, "x....x", CLOSED),
        ({"window_calls": 3}, "x.x", OPEN),  # min_calls is at most the window
        ({"window_calls": 10, "min_calls": 5}, "x...x" + "." * 10 + "x" * 4, CLOSED),
        ({"window_calls": 10, "min_calls": 5}, "x...x" + "." * 10 + "x" * 5, OPEN),
        ({"consecutive_failures": 3}, "xx", CLOSED),
        ({"consecutive_failures": 3}, "xxx", OPEN),
        ({"consecutive_failures": 3}, "xx.xx", CLOSED),
        ({"consecutive_failures": 3}, "x-x-x", OPEN),  # ignored: neither breaks the row nor adds to it
        ({"consecutive_failures": 1}, "....x", OPEN),
    ],
)
def test_trips(clock: ManualClock, drive: Drive, settings: dict[str, Any], outcomes: str, state: BreakerState) -> None:
    breaker = breaker_of(clock, **settings)
    run(breaker, outcomes, drive)
    assert breaker.state is state


def test_an_open_breaker_refuses_with_the_time_that_is_left(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, min_calls=1, name="payments")
    pipeline = Pipeline("p", breaker)
    run(breaker, "x", drive)
    clock.advance(10.0)
    errors = []
    for _ in range(2):
        with pytest.raises(CircuitOpen) as refused:
            drive(pipeline, succeed)
        errors.append(refused.value)
    assert errors[0] is not errors[1], "a stored exception would grow its traceback for ever"
    assert (errors[0].policy, errors[0].reason, errors[0].retry_after_s) == ("payments", "open", 20.0)
    assert str(errors[0]) == "payments: the circuit breaker is open; retry in 20 s"
    assert breaker.decisions() == {"admitted": 1, "rejected": 2, "probe": 0, "would_reject": 0}


def test_failures_leave_the_time_window(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, window_s=30.0, min_calls=4)
    run(breaker, "xxx", drive)
    clock.advance(30.0)
    run(breaker, "x", drive)
    assert breaker.state is CLOSED
    run(breaker, "xxx", drive)
    assert breaker.state is OPEN


def test_the_time_window_has_ten_buckets() -> None:
    window = TimeWindow(10_000_000)
    for second in range(10):
        window.add(second * 1_000_000, failed=second % 2 == 0, slow=second < 3)
    assert (window.calls, window.failures, window.slow_calls) == (10, 5, 3)
    window.expire(9_999_999)
    assert window.calls == 10
    window.expire(10_000_000)
    assert (window.calls, window.failures, window.slow_calls) == (9, 4, 2)
    window.add(12_500_000, failed=True, slow=True)
    assert (window.calls, window.failures, window.slow_calls) == (8, 4, 1)
    window.add(3_000_000, failed=True, slow=False)  # time went backwards: it counts as now
    assert (window.calls, window.failures) == (9, 5)
    window.expire(10**15)
    assert (window.calls, window.failures, window.slow_calls) == (0, 0, 0)


@pytest.mark.parametrize("length_us", [1_000, 30_000_000])
def test_the_time_window_against_a_list_of_calls(length_us: int) -> None:
    window, calls, now_us = TimeWindow(length_us), [], 5 * length_us
    bucket_us = length_us // 10
    for step in range(500):
        now_us += (step * 7_919) % (bucket_us * (1 + step % 4))
        failed = step % 3 == 0
        window.add(now_us, failed, slow=not failed)
        calls.append((now_us // bucket_us, failed))
        recent = [was for epoch, was in calls if epoch > now_us // bucket_us - 10]
        assert (window.calls, window.failures, window.slow_calls) == (len(recent), sum(recent), len(recent) - sum(recent))


def test_the_count_window_forgets_the_oldest() -> None:
    window = CountWindow(3)
    for failed in (True, True, False, False):
        window.add(0, failed, slow=not failed)
    assert (window.calls, window.failures, window.slow_calls) == (3, 1, 2)
    window.expire(10**15)
    assert window.calls == 3
    window.clear()
    assert (window.calls, window.failures, window.slow_calls) == (0, 0, 0)


# --- slow calls -------------------------------------------------------------------------------------------------------


def test_slow_calls_open(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, slow_call_s=1.0, slow_call_rate=0.5, min_calls=4)
    pipeline = Pipeline("p", breaker)
    for duration_s, state in ((1.0, CLOSED), (1.000_001, CLOSED), (0.0, CLOSED), (5.0, OPEN)):
        drive(pipeline, functools.partial(clock.advance, duration_s))
        assert breaker.state is state, duration_s


def test_slow_means_until_the_response_started(clock: ManualClock) -> None:
    breaker = breaker_of(clock, slow_call_s=1.0, min_calls=1)
    call = Call(now_us=clock.now_us())
    ticket = breaker.admit(call)
    assert ticket is not None
    clock.advance(0.5)
    call.response_us = clock.now_us()
    clock.advance(100.0)
    breaker.settle(ticket, Outcome.OK, call, clock.now_us())
    assert breaker.state is CLOSED


def test_slow_is_off_by_default(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, min_calls=1)
    drive(Pipeline("p", breaker), lambda: clock.advance(3_600.0))
    assert breaker.state is CLOSED


# --- what fails -------------------------------------------------------------------------------------------------------


class CustomBaseError(BaseException):
    """Of a library that has its own root."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Failure(), Outcome.FAILED),
        (TimeoutError(), Outcome.FAILED),
        (CustomBaseError(), Outcome.FAILED),
        (asyncio.CancelledError(), Outcome.IGNORED),
        (GeneratorExit(), Outcome.IGNORED),
        (KeyboardInterrupt(), Outcome.IGNORED),
        (SystemExit(1), Outcome.IGNORED),
        (RateLimited("theirs"), Outcome.IGNORED),
        (CircuitOpen("theirs"), Outcome.IGNORED),
        (Rejected("theirs"), Outcome.IGNORED),
        (concurrent.futures.CancelledError(), Outcome.IGNORED),
        (ExceptionGroup("tasks", [RateLimited("theirs"), ExceptionGroup("more", [CircuitOpen("theirs")])]), Outcome.IGNORED),
        (BaseExceptionGroup("tasks", [RateLimited("theirs"), asyncio.CancelledError()]), Outcome.IGNORED),
        (ExceptionGroup("tasks", [RateLimited("theirs"), Failure()]), Outcome.FAILED),
        (ExceptionGroup("tasks", [DeadlineExceeded("late", reason="expired")]), Outcome.FAILED),
        (DeadlineExceeded("late", reason="expired"), Outcome.FAILED),
        (DeadlineExceeded("never began", reason="expired_on_arrival"), Outcome.IGNORED),
        (None, Outcome.OK),
    ],
)
def test_what_counts_as_a_failure(clock: ManualClock, drive: Drive, error: BaseException | None, outcome: Outcome) -> None:
    breaker = breaker_of(clock)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
        drive(Pipeline("p", breaker), raiser([error]))
    window = breaker.pool.single._window
    assert (window.calls, window.failures) == (outcome is not Outcome.IGNORED, outcome is Outcome.FAILED)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ok"), (302, "ok"), (404, "ok"), (429, "ok"), (499, "ok"), (500, "failed"), (503, "failed")]
)
def test_what_a_status_says(status: int, outcome: str) -> None:
    assert judge_status(status).value == outcome


def test_a_classifier_has_the_last_word(clock: ManualClock, drive: Drive) -> None:
    def classify(call: Call) -> Outcome | None:
        if isinstance(call.error, Failure):
            return Outcome.OK
        return Outcome.FAILED if call.error is None else None

    breaker = breaker_of(clock, min_calls=2, classify=classify)
    run(breaker, "xxxx", drive)
    assert breaker.state is CLOSED
    run(breaker, "....", drive)
    assert breaker.state is OPEN


def test_a_classifier_that_raises_is_overruled(clock: ManualClock, drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    breaker = breaker_of(clock, min_calls=1, classify=lambda call: Outcome(call.name.upper()))
    run(breaker, ".", drive)
    assert breaker.state is CLOSED
    run(breaker, "x", drive)
    assert breaker.state is OPEN
    assert "its classifier raised; the default rules hold" in caplog.text


def test_a_classifier_is_not_asked_about_our_own_refusals(clock: ManualClock, drive: Drive) -> None:
    asked = []

    def classify(call: Call) -> Outcome:
        asked.append(call)
        return Outcome.FAILED

    breaker = breaker_of(clock, min_calls=1, classify=classify)
    waiting = Pipeline("p", breaker, Deadline(1.0, clock=clock), _Refuses(has_effects=True))
    plain = Pipeline("p", breaker, _Refuses(has_effects=False))
    for pipeline in (waiting, plain):
        with pytest.raises(RateLimited):
            drive(pipeline, succeed)
    assert asked == []
    assert breaker.state is CLOSED


class _Refuses:
    kind, name, votes_at_start = "limiter", "refuses", False

    def __init__(self, *, has_effects: bool) -> None:
        self.has_effects = has_effects

    def admit(self, call: Call) -> None:
        raise RateLimited("no")

    def settle(self, *_: object) -> None: ...


def test_a_caller_with_little_time_is_no_evidence(clock: ManualClock) -> None:
    async def hang() -> None:
        await clock.asleep(60.0)

    for timeout_s, state in ((2.499, CLOSED), (2.5, OPEN)):
        breaker = breaker_of(clock, min_calls=1)
        outer = Pipeline("outer", Deadline(timeout_s, clock=clock))
        inner = Pipeline("inner", Deadline(5.0, clock=clock), breaker)
        with pytest.raises(DeadlineExceeded):
            asyncio.run(outer.acall(inner.acall, hang))
        assert breaker.state is state, timeout_s


# --- generations, permits, votes --------------------------------------------------------------------------------------


def test_twenty_callers_meet_inside_a_closed_breaker(clock: ManualClock) -> None:
    """No lock is held over user code: all of them are inside at once."""
    pipeline = Pipeline("p", breaker_of(clock))
    party = threading.Barrier(20)
    met: list[int] = []

    def work() -> None:
        party.wait(timeout=30)
        met.append(1)

    threads = [threading.Thread(target=pipeline.call, args=(work,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(met) == 20


def test_a_result_from_an_old_generation_changes_nothing(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=2, window_s=600.0)
    old_call, new_call = (Call(now_us=clock.now_us()) for _ in range(2))
    old = breaker.admit(old_call)
    run(breaker, "xx", lambda pipeline, work: pipeline.call(work))
    breaker.force("closed")
    breaker.force(None)
    assert breaker.state is CLOSED
    generation = breaker.pool.single.generation
    for _ in range(10):
        breaker.settle(old, Outcome.FAILED, old_call, clock.now_us())  # type: ignore[arg-type]
    assert breaker.pool.single.failure_rate(clock.now_us()) == 0.0
    new = breaker.admit(new_call)
    breaker.settle(new, Outcome.FAILED, new_call, clock.now_us())  # type: ignore[arg-type]
    assert (breaker.state, breaker.pool.single.generation) == (CLOSED, generation)
    assert breaker.pool.single.failure_rate(clock.now_us()) == 1.0


def test_met_again_inside_the_same_call_it_has_one_vote(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, min_calls=2, failure_rate=1.0)
    inbound, outgoing = Pipeline("in", breaker), Pipeline("out", breaker)
    with pytest.raises(Failure):
        drive(inbound, lambda: outgoing.call(lambda: outgoing.call(fail)))
    assert breaker.pool.single._window.calls == 1
    assert breaker.state is CLOSED
    with pytest.raises(Failure):
        drive(inbound, lambda: outgoing.call(fail))
    assert breaker.state is OPEN


def test_met_again_inside_a_probe_it_lets_pass(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, min_calls=1, probes=1)
    inbound, outgoing = Pipeline("in", breaker), Pipeline("out", breaker)
    run(breaker, "x", drive)
    clock.advance(30.0)
    assert drive(inbound, lambda: outgoing.call(succeed)) == "done"
    assert breaker.state is CLOSED


def test_met_again_by_what_outlives_the_call_it_votes(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=1)
    pipeline = Pipeline("p", breaker)

    async def late(settled: asyncio.Event) -> None:
        await settled.wait()
        with pytest.raises(Failure):
            pipeline.call(fail)

    async def main() -> None:
        settled = asyncio.Event()

        async def handler() -> asyncio.Task[None]:
            return asyncio.create_task(late(settled))

        task = await pipeline.acall(handler)
        settled.set()
        await task

    asyncio.run(main())
    assert breaker.state is OPEN


def test_changes_are_told_after_the_lock_is_released(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1, probes=1, name="payments", key=lambda call: None)
    states: list[str] = []

    class Nosy:
        def on_event(self, event: object) -> None:
            breaker.status()
            breaker.attributes(Call(now_us=clock.now_us()))
            states.append(repr(event))

    with RecordingObserver() as observer:
        unsubscribe = subscribe(Nosy())
        try:
            run(breaker, "x", lambda pipeline, work: pipeline.call(work))
            clock.advance(30.0)
            run(breaker, ".", lambda pipeline, work: pipeline.call(work))
            breaker.force("open")
            breaker.pool.table.get("made while forced", clock.now_us())
        finally:
            unsubscribe()
    assert [(event.policy, event.key, event.old, event.new, event.reason) for event in observer.events] == [  # type: ignore[union-attr]
        ("payments", "unknown", "closed", "open", "1 failures in a row"),
        ("payments", "unknown", "open", "half_open", "open time over"),
        ("payments", "unknown", "half_open", "closed", "1 of 1 probes succeeded"),
        ("payments", None, "closed", "open", "forced open"),
        ("payments", "unknown", "closed", "open", "forced open"),
        ("payments", "made while forced", "closed", "open", "forced open"),
    ]
    assert len(states) == len(observer.events)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"failure_rate": 0.0}, "failure_rate: must be above 0 % and at most 100 %, got 0 %"),
        ({"failure_rate": 1.5}, "failure_rate: must be above 0 % and at most 100 %, got 150 %"),
        ({"window_s": 0.0}, "window_s"),
        ({"window_calls": 5, "min_calls": 6}, "min_calls: must be at most the window of 5 calls, got 6"),
        ({"min_calls": 0}, "min_calls"),
        ({"probes": 0}, "probes"),
        ({"open_growth": 0.5}, "open_growth: must be between 1 and 100"),
        ({"slow_call_s": 0.0}, "slow_call_s"),
        ({"consecutive_failures": 0}, "consecutive_failures"),
        ({"key": 7}, "key: must be text, got 7"),
        ({"key": "cookie"}, "key: 'cookie' is unknown"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        CircuitBreaker(**settings)


def test_what_has_succeeded_is_forgotten_with_its_part_of_the_window(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, window_s=10.0, min_calls=4)
    run(breaker, "." * 6, drive)
    clock.advance(20.0)
    run(breaker, "xxx.", drive)
    assert breaker.state is OPEN, "3 of 4, and not of 10"


def test_a_success_at_the_instant_at_which_a_part_of_the_window_ends_belongs_to_the_next(clock: ManualClock, drive: Drive) -> None:
    """Parts of a window of 10 s begin with whole seconds."""
    clock.advance(1.0 - clock.now_us() % 1_000_000 / 1e6)
    breaker = breaker_of(clock, window_s=10.0, min_calls=3)
    run(breaker, ".", drive)
    clock.advance(1.0)
    run(breaker, ".", drive)
    clock.advance(9.0)
    run(breaker, "xx", drive)
    assert breaker.state is OPEN, "2 of 3: one success is left of the two"
