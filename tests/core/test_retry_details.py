"""What a retry policy tells, counts and hands on, to the word: what operators and dashboards read."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from resilience import Call, CircuitOpen, DeadlineExceeded, HealthSignal, RateLimited, Retry, Verdict
from resilience.health import Hold
from resilience.layers.retry import RetrySettings, RetryState, Tries
from resilience.layers.retry.advice import retry_after_s
from resilience.layers.retry.budget import RetryBudget
from resilience.layers.retry.on import RetryOn
from resilience.testing import ManualClock


def tries_of(clock: ManualClock, call: Call | None = None, **settings: Any) -> Tries:
    retry = Retry(**{"clock": clock, "jitter": "none", "name": "orders", "budget": (100, 1.0), **settings})
    return retry.begin(Call(now_us=clock.now_us()) if call is None else call)


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


# --- why it stops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
def test_a_cancelled_try_stops_without_a_note_and_costs_nothing(clock: ManualClock, error: BaseException) -> None:
    tries = tries_of(clock, on=(BaseException,))
    assert tries.again(error, None, clock.now_us()) is False
    assert tries.stopped == "cancelled"
    assert tries.final(error, clock.now_us()) is error
    assert notes(error) == []


@pytest.mark.parametrize(
    ("late_us", "stopped"),
    [(-1, "the deadline would pass during the wait"), (0, "the deadline ran out"), (1, "the deadline ran out")],
)
def test_the_callers_own_deadline_is_told_from_the_dependencys(clock: ManualClock, late_us: int, stopped: str) -> None:
    call = Call(now_us=clock.now_us())
    call.deadline_us = clock.now_us() + 1_000_000
    tries = tries_of(clock, call)
    assert tries.again(DeadlineExceeded("inner"), None, call.deadline_us + late_us) is False
    assert tries.stopped == stopped


def test_a_judge_sees_error_and_result(clock: ManualClock) -> None:
    seen: list[tuple[BaseException | None, Any]] = []

    def judge(error: BaseException | None, result: Any) -> Verdict:
        seen.append((error, result))
        return Verdict(retryable=False)

    tries = Retry(clock=clock).begin(Call(now_us=clock.now_us()), judge)
    error = OSError()
    tries.again(None, "found", clock.now_us())
    tries.again(error, None, clock.now_us())
    assert seen == [(None, "found"), (error, None)]


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ("real open", "real"),
        ("first real open", "real"),
        ("real last", None),
        ("open open", None),
    ],
)
def test_only_an_open_breaker_is_raised_from_the_last_real_error(clock: ManualClock, ends: str, cause: str | None) -> None:
    errors = [CircuitOpen(word) if word == "open" else OSError(word) for word in ends.split()]
    tries = tries_of(clock, on=(OSError, CircuitOpen), attempts=len(errors))
    for error in errors[:-1]:
        assert tries.again(error, None, clock.now_us()) is True
    assert tries.again(errors[-1], None, clock.now_us()) is False
    final = tries.final(errors[-1], clock.now_us())
    assert (None if final.__cause__ is None else str(final.__cause__)) == cause
    assert notes(final) == [f"orders: gave up after {len(errors)} attempts in 0 s: attempts used up"]


def test_one_error_object_raised_for_many_calls_keeps_one_note_of_a_policy(clock: ManualClock) -> None:
    error = OSError("always the same object")
    error.add_note("a word of its owner's")
    for attempts in (2, 3):
        tries = tries_of(clock, attempts=attempts)
        for _ in range(attempts):
            tries.again(error, None, clock.now_us())
        assert tries.final(error, clock.now_us()) is error
    assert notes(error) == ["a word of its owner's", "orders: gave up after 3 attempts in 0 s: attempts used up"]


def test_nothing_has_stopped_a_call_that_succeeded(clock: ManualClock) -> None:
    tries = tries_of(clock)
    assert tries.again(None, "found", clock.now_us()) is False
    assert tries.stopped == ""


@pytest.mark.parametrize(("results", "runs"), [(["busy", "busy", "free"], 3), (["free"], 1), ([None], 1)])
def test_a_result_is_judged_by_what_it_is(clock: ManualClock, results: list[str | None], runs: int) -> None:
    tries = tries_of(clock, on_result=lambda result: result == "busy", attempts=5)
    again = [tries.again(None, result, clock.now_us()) for result in results]
    assert again == [True] * (runs - 1) + [False]


def test_a_raising_judge_is_logged_with_the_name_of_its_policy(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: BaseException) -> bool:
        raise LookupError("no such table")

    tries = tries_of(clock, on=broken)
    assert tries.again(OSError(), None, clock.now_us()) is False
    (record,) = caplog.records
    assert record.getMessage() == "orders: what it asks whether to try again raised; it does not"
    assert record.exc_info is not None
    assert tries.stopped == "not worth another try"


@pytest.mark.parametrize(("word", "known"), [("399", False), ("400", True), ("400..402", True), ("399..402", False)])
def test_only_failures_can_be_retried(word: str, known: bool) -> None:
    if known:
        assert 400 in RetryOn.of([word]).statuses
        return
    with pytest.raises(ValueError, match=rf"^must be HTTP statuses between 400 and 599 .*; got '{word}'$"):
        RetryOn.of([word])


@pytest.mark.parametrize("value", ["\x0b120", "120\n", "\u00a0120", "120\x1f"])
def test_only_spaces_and_tabs_may_stand_around_the_advice(value: str) -> None:
    assert retry_after_s([value], 0.0) is None
    assert retry_after_s([" \t120\t "], 0.0) == 120.0


# --- the budget -------------------------------------------------------------------------------------------------------


def test_the_budget_counts_in_whole_units() -> None:
    """Parts of a unit are dropped, as with every other count of tokens: no drift, however long it runs."""
    budget = RetryBudget(10, 1 / 3)
    for _ in range(6):
        budget.spend()
    for _ in range(3):
        budget.earn(333_333_333)
    assert budget._level == 4_000_000_000 + 3 * (333_333_333 * 333_333_333 // 1_000_000_000)
    budget.configure(7, 0.1)
    assert isinstance(budget._level, int)


# --- made anew over a living state ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "error", "retryable"),
    [
        ((), OSError(), True),
        ((), CircuitOpen("ours"), False),
        (("circuit_open",), CircuitOpen("ours"), True),
        (("circuit_open",), RateLimited("ours"), False),
        (("rate_limited", "503"), RateLimited("ours"), True),
        (("deadline",), DeadlineExceeded("ours"), True),
        (("503",), CircuitOpen("ours"), False),
    ],
)
def test_a_configured_retry_judges_by_the_words_of_its_settings(
    clock: ManualClock, on: tuple[str, ...], error: Exception, retryable: bool
) -> None:
    settings = RetrySettings(on=on)
    retry = Retry.over(RetryState(settings, None), settings, name="orders", clock=clock)
    assert retry.judge(error, None).retryable is retryable


def test_a_configured_retry_keeps_its_name_clock_and_settings(clock: ManualClock) -> None:
    settings = RetrySettings(attempts=2, backoff_base_s=1.0)
    state = RetryState(settings, None)
    retry = Retry.over(state, settings, name="orders", clock=clock)
    assert (retry.clock, retry.state, retry.settings) == (clock, state, settings)
    assert repr(retry) == "Retry('orders', attempts=2)"
    random.seed(7)
    expected_us = round(random.random() * 1_000_000)
    random.seed(7)
    tries = retry.begin(Call(now_us=clock.now_us()))
    assert tries.again(OSError(), None, clock.now_us()) is True
    assert tries.delay_us == expected_us, "drawn from the process's random numbers"


def test_a_reload_names_the_signal_that_cuts_its_earnings(clock: ManualClock) -> None:
    health = HealthSignal(cut=0.6, clock=clock)
    health.opened(Hold(), clock.now_us(), None)
    state = RetryState(RetrySettings(), None)
    assert state.factor_ppb(clock.now_us()) == 1_000_000_000
    state.configure(RetrySettings(budget_tokens=4), health)
    assert state.factor_ppb(clock.now_us()) == 400_000_000
    assert state.budget.tokens == 4.0
