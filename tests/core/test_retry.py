"""Trying again: what is worth it, how long to wait, and every reason to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Call,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Pipeline,
    RateLimited,
    RateLimiter,
    Rejected,
    Retry,
    Verdict,
)
from resilience.drivers import adrive
from resilience.drivers import drive as run_plan
from resilience.layers.retry import Judge
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, no_jitter, raiser, succeed, via_sync


def half() -> float:
    return 0.5


class Counted:
    """Work that ends by `ends` one after the other (an exception is raised, all else returned) and counts its runs."""

    def __init__(self, *ends: Any) -> None:
        self._ends = list(ends)
        self.runs = 0

    def __call__(self) -> Any:
        self.runs += 1
        end = self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]
        if isinstance(end, BaseException):
            raise end
        return end


def retrying(clock: ManualClock, *others: Any, **settings: Any) -> Pipeline:
    """A pipeline with one retry, without jitter, then `others`."""
    return Pipeline("p", Retry(**{"clock": clock, "uniform": half, "jitter": "none", **settings}), *others)


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


# --- what is retried --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "runs"),
    [
        (OSError(), 3),
        (ConnectionResetError(), 3),
        (TimeoutError(), 3),
        (DeadlineExceeded("of a deadline after the retry", reason="expired"), 3),
        (ValueError(), 1),
        (Failure(), 1),
        (RateLimited("ours"), 1),
        (CircuitOpen("ours"), 1),
        (Rejected("ours"), 1),
    ],
)
def test_retried_by_default(clock: ManualClock, drive: Drive, error: Exception, runs: int) -> None:
    work = Counted(error)
    with pytest.raises(type(error)) as raised:
        drive(retrying(clock), work)
    assert (raised.value, work.runs) == (error, runs)


@pytest.mark.parametrize(
    ("on", "error", "runs"),
    [
        (ValueError, ValueError(), 3),
        (ValueError, OSError(), 1),
        (ConnectionError, ConnectionResetError(), 3),
        (ConnectionError, FileNotFoundError(), 1),
        ((ValueError, KeyError), KeyError(), 3),
        ((), OSError(), 1),
        ((Exception,), CircuitOpen("ours"), 1),
        ((Exception,), RateLimited("ours"), 1),
        ((CircuitOpen,), CircuitOpen("ours"), 3),
        ((RateLimited, OSError), RateLimited("ours"), 3),
        ((RateLimited,), CircuitOpen("ours"), 1),
        ((Rejected,), CircuitOpen("ours"), 3),
        (lambda error: "again" in str(error), Failure("again"), 3),
        (lambda error: "again" in str(error), Failure("never"), 1),
        (lambda error: True, CircuitOpen("asked for"), 3),
    ],
)
def test_retried_when_asked(clock: ManualClock, drive: Drive, on: Any, error: Exception, runs: int) -> None:
    work = Counted(error)
    with pytest.raises(type(error)):
        drive(retrying(clock, on=on), work)
    assert work.runs == runs


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_a_cancelled_call_is_never_retried(clock: ManualClock, drive: Drive, error: BaseException) -> None:
    work = Counted(error)
    with pytest.raises(type(error)):
        drive(retrying(clock, on=(BaseException,)), work)
    assert (work.runs, clock.slept_s) == (1, [])


def test_results_are_judged_too(clock: ManualClock, drive: Drive) -> None:
    work = Counted(None, None, "found")
    assert drive(retrying(clock, on_result=lambda result: result is None), work) == "found"
    assert work.runs == 3
    never = Counted(None)
    assert drive(retrying(clock, on_result=lambda result: result is None), never) is None, "the last result is returned as it is"
    assert never.runs == 3


def test_a_success_after_failures(clock: ManualClock, drive: Drive) -> None:
    pipeline = retrying(clock)
    assert drive(pipeline, raiser([OSError(), OSError(), None])) == "done"
    assert clock.slept_s == [0.1, 0.2]
    assert pipeline.retry is not None
    assert pipeline.retry.decisions() == {"admitted": 1, "retried": 2, "rejected": 0}


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_attempts_count_all_tries(clock: ManualClock, drive: Drive, attempts: int) -> None:
    work = Counted(OSError())
    with pytest.raises(OSError):
        drive(retrying(clock, attempts=attempts, budget=(100, 1.0)), work)
    assert work.runs == attempts


def test_each_call_has_tries_of_its_own(clock: ManualClock) -> None:
    """Nothing of a call lives on the shared policy."""
    pipeline = retrying(clock, budget=(1_000, 1.0))
    works = [Counted(OSError()) for _ in range(20)]

    async def one(work: Counted) -> None:
        async def awork() -> None:
            await asyncio.sleep(0)
            work()

        with pytest.raises(OSError):
            await pipeline.acall(awork)

    async def main() -> None:
        await asyncio.gather(*(one(work) for work in works))

    asyncio.run(main())
    assert [work.runs for work in works] == [3] * 20


def test_a_question_that_raises_hides_nothing(clock: ManualClock, drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    error = ConnectionError("the real one")

    def broken(asked: Any) -> bool:
        return bool(asked.status >= 500)

    with pytest.raises(ConnectionError) as raised:
        drive(retrying(clock, on=broken), Counted(error))
    assert raised.value is error
    assert drive(retrying(clock, on_result=broken), Counted("a result")) == "a result"
    assert caplog.text.count("what it asks whether to try again raised; it does not") == 2


# --- waits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "waits_s"),
    [
        ({"jitter": "none"}, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
        ({"jitter": "full"}, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        ({"jitter": None}, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        ({"jitter": "equal"}, [0.075, 0.15, 0.3, 0.6, 1.2, 1.5, 1.5]),
        ({"jitter": "decorrelated", "backoff_s": (0.1, 1.0)}, [0.2, 0.35, 0.575, 0.9125, 1.0, 1.0, 1.0]),
        ({"jitter": None, "backoff_s": 0.25}, [0.25] * 7),
        ({"jitter": "full", "backoff_s": 0.25}, [0.125] * 7),
        ({"backoff_s": 0}, []),
        ({"backoff_s": (0.0, 0.0)}, []),
    ],
)
def test_waits(clock: ManualClock, drive: Drive, settings: dict[str, Any], waits_s: list[float]) -> None:
    work = Counted(OSError())
    with pytest.raises(OSError):
        drive(retrying(clock, **{"attempts": 8, "budget": (100, 1.0), **settings}), work)
    assert work.runs == 8
    assert clock.slept_s == pytest.approx(waits_s, abs=1e-6)


def test_waits_never_overflow(clock: ManualClock) -> None:
    with pytest.raises(OSError):
        retrying(clock, attempts=100, budget=(1_000, 1.0), backoff_s=(3_600.0, 3_600.0)).call(Counted(OSError()))
    assert clock.slept_s == [3_600.0] * 99
    with pytest.raises(OSError):
        retrying(clock, attempts=100, budget=(1_000, 1.0), backoff_s=(0.001, 3_600.0)).call(Counted(OSError()))
    assert max(clock.slept_s) == 3_600.0


# --- stopping ---------------------------------------------------------------------------------------------------------


def stopped_note(drive: Drive, pipeline: Pipeline, work: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as raised:
        drive(pipeline, work)
    (note,) = notes(raised.value)
    return note


def test_each_reason_to_stop_leaves_one_note(clock: ManualClock, drive: Drive) -> None:
    used_up = retrying(clock, name="payments", backoff_s=1.0)
    assert stopped_note(drive, used_up, Counted(OSError())) == "payments: gave up after 3 attempts in 2 s: attempts used up"
    dry = retrying(clock, budget=(1, 0.1))
    assert stopped_note(drive, dry, Counted(OSError())) == "retry: gave up after 1 attempt in 0 s: the retry budget is dry"
    changed = retrying(clock, backoff_s=1.0)
    assert stopped_note(drive, changed, Counted(OSError(), Failure())) == (
        "retry: gave up after 2 attempts in 1 s: not worth another try"
    )
    late = Pipeline("p", Deadline(3.5, clock=clock), *retrying(clock, backoff_s=2.0).layers)
    assert stopped_note(drive, late, Counted(OSError())) == (
        "retry: gave up after 2 attempts in 2 s: the deadline would pass during the wait"
    )


def test_an_error_that_was_not_retried_has_no_note(clock: ManualClock, drive: Drive) -> None:
    with pytest.raises(Failure) as raised:
        drive(retrying(clock), Counted(Failure()))
    assert notes(raised.value) == []
    assert raised.value.__cause__ is None


def test_it_gives_up_at_once_when_the_deadline_would_pass_during_the_wait(clock: ManualClock, drive: Drive) -> None:
    pipeline = Pipeline("p", Deadline(1.0, clock=clock), *retrying(clock, backoff_s=1.0).layers)
    start_us, work = clock.now_us(), Counted(OSError())
    with pytest.raises(OSError):
        drive(pipeline, work)
    assert (work.runs, clock.slept_s, clock.now_us()) == (1, [], start_us)
    just_fits = Pipeline("p", Deadline(1.0, clock=clock), *retrying(clock, backoff_s=0.999_999).layers)
    work = Counted(OSError())
    with pytest.raises(OSError):
        drive(just_fits, work)
    assert work.runs == 2


def test_the_calls_own_expired_deadline_is_not_retried_and_costs_nothing(clock: ManualClock) -> None:
    pipeline = Pipeline("p", Deadline(1.0, name="api", clock=clock), *retrying(clock, backoff_s=0).layers)
    runs: list[int] = []

    async def hang() -> None:
        runs.append(1)
        await clock.asleep(5.0)

    with pytest.raises(DeadlineExceeded) as raised:
        asyncio.run(pipeline.acall(hang))
    assert (len(runs), raised.value.policy) == (1, "api")
    assert notes(raised.value) == ["retry: gave up after 1 attempt in 5 s: the deadline ran out"]
    assert pipeline.retry is not None
    assert pipeline.retry.status()["budget_tokens"] == 10


def test_a_deadline_after_the_retry_limits_each_attempt(clock: ManualClock) -> None:
    pipeline = retrying(clock, Deadline(1.0, name="each", clock=clock), backoff_s=0.5)
    clocked: list[float] = []
    start_us = clock.now_us()

    async def hang() -> str:
        clocked.append((clock.now_us() - start_us) / 1e6)
        if len(clocked) < 3:
            await clock.asleep(5.0)
        return "done"

    assert asyncio.run(pipeline.acall(hang)) == "done"
    assert clocked == [0.0, 5.5, 11.0]
    assert clock.pending_timers == 0


def test_an_attempt_never_outlives_the_whole_call(clock: ManualClock) -> None:
    deadlines: list[float | None] = []

    class Spy:
        kind, name, votes_at_start, has_effects = "spy", "spy", False, False

        def admit(self, call: Call) -> None:
            deadlines.append(None if call.deadline_us is None else (call.deadline_us - start_us) / 1e6)

        def settle(self, *_: object) -> None: ...

    start_us = clock.now_us()
    layers = retrying(clock, Deadline(4.0, clock=clock), Spy(), backoff_s=3.0).layers
    with pytest.raises(OSError):
        Pipeline("p", Deadline(8.0, clock=clock), *layers).call(Counted(OSError()))
    assert deadlines == [4.0, 7.0, 8.0]


def test_an_open_breaker_ends_it_and_says_what_failed_before(clock: ManualClock, drive: Drive) -> None:
    breaker = CircuitBreaker(consecutive_failures=2, clock=clock, uniform=no_jitter)
    first, second = ConnectionError("first"), ConnectionError("second")
    with pytest.raises(CircuitOpen) as raised:
        drive(retrying(clock, breaker, attempts=5), Counted(first, second))
    assert raised.value.__cause__ is second
    assert notes(raised.value) == ["retry: gave up after 3 attempts in 0.3 s: not worth another try"]
    with pytest.raises(CircuitOpen) as raised:
        drive(retrying(clock, breaker), Counted(None))
    assert (raised.value.__cause__, notes(raised.value)) == (None, []), "nothing was tried"


def test_an_open_breaker_that_is_waited_for(clock: ManualClock, drive: Drive) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, open_for_s=1.0, probes=1, clock=clock, uniform=no_jitter)
    pipeline = retrying(clock, breaker, on=(OSError, CircuitOpen), backoff_s=0.6, attempts=4)
    assert drive(pipeline, Counted(OSError(), "back")) == "back"
    assert clock.slept_s == [0.6, 0.6]


def test_our_own_limiter_is_not_retried(clock: ManualClock, drive: Drive) -> None:
    pipeline = retrying(clock, RateLimiter(1.0, burst=1, clock=clock), backoff_s=0.1)
    work = Counted(OSError())
    with pytest.raises(RateLimited):
        drive(pipeline, work)
    assert work.runs == 1


def test_layers_after_it_see_each_attempt_and_layers_before_it_the_whole(clock: ManualClock, drive: Drive) -> None:
    whole = CircuitBreaker(min_calls=1, failure_rate=1.0, name="whole", clock=clock)
    each = CircuitBreaker(min_calls=100, name="each", clock=clock)
    pipeline = Pipeline("p", whole, *retrying(clock, each).layers)
    assert drive(pipeline, raiser([OSError(), OSError(), None])) == "done"
    assert whole.pool.single.failure_rate(clock.now_us()) == 0.0
    assert each.pool.single.failure_rate(clock.now_us()) == pytest.approx(2 / 3)


# --- what a server says -----------------------------------------------------------------------------------------------


def judged(drive: Drive, pipeline: Pipeline, work: Counted, *verdicts: Verdict) -> Any:
    """Call with a judge that gives `verdicts` in turn, as an edge that reads response headers does."""
    call = Call("test")
    pipeline.begin(call)
    left = list(verdicts)
    judge: Judge = lambda error, result: left.pop(0)  # noqa: E731
    if drive is via_sync:
        return run_plan(pipeline.plan(call, judge), pipeline.clock, work)

    async def awork() -> Any:
        return work()

    return asyncio.run(adrive(pipeline.plan(call, judge), pipeline.clock, awork))


def test_advice_goes_before_backoff(clock: ManualClock, drive: Drive) -> None:
    verdicts = [Verdict(True, advice_s=7.0), Verdict(True, advice_s=0.0), Verdict(False)]
    work = Counted("busy", "busy", "done")
    assert judged(drive, retrying(clock), work, *verdicts) == "done"
    assert clock.slept_s == [7.0], "no wait was asked for the second time"


@pytest.mark.parametrize(
    ("verdict", "deadline_s", "runs", "stopped"),
    [
        (Verdict(True, advice_s=30.0), None, 3, "attempts used up"),
        (Verdict(True, advice_s=30.1), None, 1, "the server asks for a wait of 30.1 s"),
        (Verdict(True, advice_s=3.0), 3.0, 1, "the deadline would pass during the wait"),
        (Verdict(True, advice_s=3.0), 6.0, 2, "the deadline would pass during the wait"),
        (Verdict(True, forbidden=True), None, 1, "the server asks not to retry"),
        (Verdict(False, forbidden=True), None, 1, "the server asks not to retry"),
    ],
)
def test_advice_that_ends_it(
    clock: ManualClock, drive: Drive, verdict: Verdict, deadline_s: float | None, runs: int, stopped: str
) -> None:
    pipeline = Pipeline("p", Deadline(deadline_s, clock=clock), *retrying(clock).layers)
    work = Counted(OSError())
    with pytest.raises(OSError) as raised:
        judged(drive, pipeline, work, *[verdict] * 3)
    assert work.runs == runs
    assert notes(raised.value)[0].endswith(f": {stopped}")


def test_what_a_server_forbids_costs_a_token(clock: ManualClock) -> None:
    pipeline = retrying(clock)
    judged(via_sync, pipeline, Counted("busy"), Verdict(False, forbidden=True))
    assert pipeline.retry is not None
    assert pipeline.retry.status()["budget_tokens"] == 9


# --- one layer retries ------------------------------------------------------------------------------------------------


def test_an_inner_retry_is_off_inside_an_outer_one(clock: ManualClock, drive: Drive) -> None:
    inner, work = retrying(clock, name="inner"), Counted(OSError())
    with pytest.raises(OSError) as raised:
        drive(retrying(clock, name="outer"), lambda: inner.call(work))
    assert work.runs == 3
    assert notes(raised.value)[0].startswith("inner: gave up after 1 attempt")
    assert notes(raised.value)[0].endswith("the call is being retried further out")


def test_an_inner_retry_works_where_it_is_asked_to(clock: ManualClock, drive: Drive) -> None:
    inner, work = retrying(clock, when_nested=True, budget=(100, 1.0)), Counted(OSError())
    with pytest.raises(OSError):
        drive(retrying(clock), lambda: inner.call(work))
    assert work.runs == 9


def test_an_inner_retry_is_off_across_a_pipeline_in_between(clock: ManualClock, drive: Drive) -> None:
    inner, between, work = retrying(clock), Pipeline("between", Deadline(60.0, clock=clock)), Counted(OSError())
    with pytest.raises(OSError):
        drive(retrying(clock), lambda: between.call(lambda: inner.call(work)))
    assert work.runs == 3


def test_a_retry_beside_or_after_another_one_works(clock: ManualClock, drive: Drive) -> None:
    inner, work = retrying(clock), Counted(OSError())
    between = Pipeline("between", Deadline(60.0, clock=clock))
    assert drive(retrying(clock), succeed) == "done"
    with pytest.raises(OSError):
        drive(between, lambda: inner.call(work))
    assert work.runs == 3


def test_a_call_that_is_itself_a_retry_of_somebody_further_out(clock: ManualClock) -> None:
    for attempt, runs in ((0, 3), (1, 1)):
        pipeline, work = retrying(clock), Counted(OSError())
        call = Call("inbound")
        call.attempt = attempt
        pipeline.begin(call)
        with pytest.raises(OSError):
            run_plan(pipeline.plan(call), clock, work)
        assert work.runs == runs


def test_work_that_outlives_the_outer_call_may_retry(clock: ManualClock) -> None:
    inner, work = retrying(clock), Counted(OSError())

    async def main() -> None:
        over = asyncio.Event()

        async def late() -> None:
            await over.wait()
            with pytest.raises(OSError):
                inner.call(work)

        async def handler() -> asyncio.Task[None]:
            return asyncio.create_task(late())

        task = await retrying(clock).acall(handler)
        over.set()
        await task

    asyncio.run(main())
    assert work.runs == 3


def test_the_number_of_the_attempt_is_known_to_the_layers(clock: ManualClock, drive: Drive) -> None:
    seen: list[tuple[int, str, str | None, Any]] = []

    class Spy:
        kind, name, votes_at_start, has_effects = "spy", "spy", False, False

        def admit(self, call: Any) -> None:
            seen.append((call.attempt, call.name, call.key, call.args))

        def settle(self, *_: object) -> None: ...

    work = Counted(OSError())
    with pytest.raises(OSError):
        drive(retrying(clock, Spy()), work)
    assert [attempt for attempt, *_ in seen] == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 0}, "attempts: must be between 1 and 100"),
        ({"attempts": 2.5}, "attempts: must be a whole number"),
        ({"backoff_s": (2.0, 1.0)}, "backoff: the first wait must be at most the longest, got 2.0 s and 1.0 s"),
        ({"backoff_s": -1.0}, "backoff_base_s"),
        ({"jitter": "some"}, "jitter: must be one of full, equal, decorrelated, none"),
        ({"max_advice_s": -1.0}, "max_advice_s"),
        ({"budget": (0, 0.1)}, "budget_tokens"),
        ({"budget": (10, 0.0)}, "budget_ratio"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Retry(**settings)
