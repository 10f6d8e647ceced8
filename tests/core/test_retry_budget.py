"""The retry budget: the token rule of gRPC's retry design, and what the health signal takes of its earnings."""

from __future__ import annotations

import contextlib
import threading

import pytest

from resilience import Call, HealthSignal, Pipeline, Retry
from resilience.health import Hold
from resilience.layers.retry import RetrySettings
from resilience.layers.retry.budget import RetryBudget
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Drive, Failure, raiser, succeed, vectors


def test_grpc_vectors() -> None:
    table = vectors("retry_budget_grpc_core")
    budget = RetryBudget(table["max_milli"] // 1000, table["ratio_milli"] / 1000)
    for step, tokens, allowed in zip(table["seq"], table["tokens_after"], table["retry_allowed_on_F"], strict=True):
        if step == "S":
            budget.earn()
        else:
            assert budget.spend() is allowed
        assert budget.tokens == tokens


def test_a_new_size_keeps_the_share_that_is_left() -> None:
    replace = vectors("retry_budget_grpc_core")["replace"]
    budget = RetryBudget(4, 0.1)
    budget.spend()
    budget.configure(replace["new_max"], replace["new_ratio"])
    assert budget.tokens == replace["start"]
    budget.earn()
    assert budget.tokens == 10


def test_a_dry_budget_stops_retries_of_all_calls_and_not_the_calls(clock: ManualClock, drive: Drive) -> None:
    pipeline = Pipeline("p", Retry(attempts=2, backoff_s=0, budget=(10, 1.0), clock=clock))
    runs = 0

    def fails() -> None:
        nonlocal runs
        runs += 1
        raise OSError

    for _ in range(6):
        with pytest.raises(OSError):
            drive(pipeline, fails)
    assert runs == 8, "two tries of each call until half is spent, then one"
    for _ in range(10):
        drive(pipeline, succeed)
    with pytest.raises(OSError):
        drive(pipeline, fails)
    assert runs == 10


def test_what_costs_and_what_earns(clock: ManualClock, drive: Drive) -> None:
    retry = Retry(attempts=1, budget=(10, 0.25), clock=clock)
    pipeline = Pipeline("p", retry)

    def tokens_after(error: Exception | None) -> object:
        with contextlib.suppress(OSError, Failure):
            drive(pipeline, raiser([error]))
        return retry.status()["budget_tokens"]

    assert tokens_after(None) == 10, "never above its size"
    assert tokens_after(OSError()) == 9
    assert tokens_after(Failure()) == 9, "what is not retryable neither costs nor earns"
    assert tokens_after(None) == 9.25


def test_earnings_are_cut_with_health_and_nothing_else(clock: ManualClock, drive: Drive) -> None:
    health = HealthSignal(clock=clock)
    retry = Retry(attempts=2, backoff_s=0, budget=(10, 0.5), health=health, clock=clock)
    pipeline = Pipeline("p", retry)
    with pytest.raises(OSError):
        drive(pipeline, raiser([OSError(), OSError()]))
    assert retry.status()["budget_tokens"] == 8
    hold = Hold()
    health.opened(hold, clock.now_us(), None)
    assert retry.status()["budget_tokens"] == 8
    drive(pipeline, succeed)
    assert retry.status()["budget_tokens"] == 8.15
    drive(pipeline, raiser([OSError()]))  # 7.15 and the gate at 5 let it retry; its success earns 0.15
    assert retry.status()["budget_tokens"] == 7.3
    health.closed(hold, clock.now_us())
    clock.advance(60.0)
    drive(pipeline, succeed)
    assert retry.status()["budget_tokens"] == 7.475
    clock.advance(3_600.0)
    drive(pipeline, succeed)
    assert retry.status()["budget_tokens"] == 7.975


def test_a_reload_keeps_the_budget(clock: ManualClock) -> None:
    retry = Retry(attempts=1, budget=(10, 0.1), clock=clock)
    for _ in range(4):
        with pytest.raises(OSError):
            Pipeline("p", retry).call(raiser([OSError()]))
    settings = RetrySettings(attempts=5, budget_tokens=100)
    retry.state.configure(settings, None)
    after = Retry.over(retry.state, settings, name="retry", clock=clock)
    assert after.status()["budget_tokens"] == 60
    assert after.decisions() == {"admitted": 4, "retried": 0, "rejected": 4}


def test_threads_count_exactly() -> None:
    budget = RetryBudget(1_000, 0.5)
    for _ in range(300):
        budget.spend()

    def work() -> None:
        for _ in range(100):
            budget.spend()
            budget.earn()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.tokens == 700 - 400 + 200


def test_a_second_try_costs_a_token_while_more_than_half_are_left_and_nothing_after_that() -> None:
    budget = RetryBudget(4, 0.5)
    assert [(budget.take(), budget.tokens) for _ in range(4)] == [(True, 3.0), (True, 2.0), (False, 2.0), (False, 2.0)]
    budget.earn()
    assert (budget.take(), budget.tokens) == (True, 1.5)


def test_a_call_that_nobody_counted_tries_of_counts_and_earns_once_it_has_succeeded(clock: ManualClock) -> None:
    retry = Retry(budget=(4, 0.5), clock=clock)
    for _ in range(3):
        retry.succeeded_at_once(clock.now_us())
    assert retry.decisions()["admitted"] == 3
    retry.state.budget.spend()
    retry.succeeded_at_once(clock.now_us())
    assert (retry.decisions()["admitted"], retry.state.budget.tokens) == (4, 3.5)


def test_such_a_call_earns_less_while_health_is_cut(clock: ManualClock) -> None:
    health, hold = HealthSignal(clock=clock), Hold()
    retry = Retry(budget=(4, 0.5), health=health, clock=clock)
    retry.state.budget.spend()
    health.opened(hold, clock.now_us(), clock.now_us() + 1)
    retry.succeeded_at_once(clock.now_us())
    assert retry.state.budget.tokens == 3.15


def test_a_call_that_succeeds_at_once_brings_its_signal_up_to_date(clock: ManualClock) -> None:
    """A full budget earns nothing, yet a breaker that nobody calls is let go of by whoever comes."""
    health, hold = HealthSignal(clock=clock), Hold()
    retry = Retry(health=health, clock=clock)
    health.opened(hold, clock.now_us(), clock.now_us() + 1)
    clock.advance(3600.0)
    with RecordingObserver() as observer:
        retry.succeeded_at_once(clock.now_us())
    assert observer.events


def test_a_wait_that_leaves_too_little_for_another_try_is_not_begun(clock: ManualClock) -> None:
    retry = Retry(attempts=3, backoff_s=1.0, jitter="none", on=Failure, clock=clock)
    call = Call(now_us=clock.now_us())
    call.deadline_us = clock.now_us() + 1_020_000
    tries = retry.begin(call)
    tries.least_us = lambda: 20_001
    assert not tries.again(Failure(), None, clock.now_us())
    assert tries.stopped == "the wait would leave too little time for another try"
    tries = retry.begin(call)
    tries.least_us = lambda: 20_000
    assert tries.again(Failure(), None, clock.now_us())
