"""A pool of threads, as its user sees it."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait
from typing import Any

import pytest

from resilience import (
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    HealthSignal,
    Pipeline,
    RateLimited,
    RateLimiter,
    Rejected,
    Retry,
    current_call,
    current_deadline,
)
from resilience.health import Hold
from resilience.testing import ManualClock
from resilience.workers import (
    FailedTaskStore,
    PayloadError,
    PoolClosed,
    PoolFull,
    TasksNotKept,
    TaskTimedOut,
    WorkerPool,
    WorkerPoolSettings,
    current_task,
)
from resilience.workers.plan import PoolPlan
from tests.workers.helpers import Blocked, Storage, until

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


def double(number: int) -> int:
    return 2 * number


def fail(text: str = "no") -> None:
    raise ValueError(text)


def test_results_and_errors_come_through_futures() -> None:
    with WorkerPool(max_workers=3) as pool:
        futures = [pool.submit(double, number) for number in range(100)]
        failed = pool.submit(fail, "this one")
        assert [future.result(10) for future in futures] == [2 * number for number in range(100)]
        with pytest.raises(ValueError, match="this one"):
            failed.result(10)
        assert all(future.done() and not future.running() for future in as_completed(futures))
    status = pool.status()
    assert (status["accepted"], status["done"], status["failed"], status["pending"]) == (101, 100, 1, 0)


def test_the_context_of_whoever_submits_comes_along_and_stays_apart() -> None:
    def read_and_write() -> str:
        before = TENANT.get()
        TENANT.set("changed")
        return before

    with WorkerPool(max_workers=1) as pool:
        TENANT.set("blue")
        first = pool.submit(read_and_write)
        TENANT.set("green")
        second = pool.submit(read_and_write)
        assert (first.result(10), second.result(10), TENANT.get()) == ("blue", "green", "green")


def test_the_lower_number_goes_first_and_each_priority_in_order() -> None:
    order: list[str] = []
    blocked = Blocked()
    with WorkerPool(max_workers=1) as pool:
        pool.submit(blocked)
        blocked.wait_begun()
        for name, priority in (("b1", 5), ("c1", 9), ("a1", 0), ("b2", 5), ("a2", 0)):
            pool.options(priority=priority).submit(order.append, name)
        blocked.open.set()
    assert order == ["a1", "a2", "b1", "b2", "c1"]


@pytest.mark.parametrize(
    "options", [{"priority": 10}, {"priority": -1}, {"priority": True}, {"timeout_s": 0.0}, {"idempotency_key": ""}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with WorkerPool() as pool, pytest.raises(ValueError, match=f"^{next(iter(options))}: must be"):
        pool.options(**options)


def test_one_more_than_may_wait_is_refused_as_full() -> None:
    blocked = Blocked()
    with WorkerPool("mail", max_workers=2, min_workers=2, queue=3) as pool:
        futures = [pool.submit(blocked, number) for number in range(5)]
        with pytest.raises(PoolFull) as caught:
            pool.submit(blocked)
        assert isinstance(caught.value, Rejected)
        assert (caught.value.policy, caught.value.reason, str(caught.value)[:22]) == ("mail", "full", "mail: the pool is full")
        blocked.open.set()
        assert [future.result(10) for future in futures] == [0, 1, 2, 3, 4]
    assert pool.status()["rejected"] == {"rate": 0, "full": 1, "closed": 0, "expired": 0}


def test_a_queue_of_nothing_takes_what_a_worker_is_free_for() -> None:
    blocked = Blocked()
    with WorkerPool(min_workers=2, max_workers=2, queue=0) as pool:
        futures = [pool.submit(blocked), pool.submit(blocked)]
        with pytest.raises(PoolFull):
            pool.submit(blocked)
        blocked.open.set()
        wait(futures, 10)
        until(lambda: pool.status()["idle"] == 2)
        assert pool.submit(double, 2).result(10) == 4


def test_what_is_over_the_rate_is_refused_by_the_limiter() -> None:
    clock = ManualClock()
    limiter = RateLimiter(1.0, burst=2, name="mail", clock=clock)
    with WorkerPool(limiter=limiter, clock=clock) as pool:
        pool.submit(double, 1)
        pool.submit(double, 2)
        with pytest.raises(RateLimited) as caught:
            pool.submit(double, 3)
        assert caught.value.retry_after_s == 1.0
        clock.advance(1.0)
        pool.submit(double, 3)
    assert (pool.status()["accepted"], pool.status()["rejected"]["rate"]) == (3, 1)


def test_a_limiter_by_key_and_cost_is_told_both() -> None:
    clock = ManualClock()
    limiter = RateLimiter(1.0, burst=2, key=lambda call: str(call.args[0]), clock=clock)  # type: ignore[attr-defined]
    with WorkerPool(limiter=limiter, clock=clock) as pool:
        pool.options(cost=2).submit(double, 1)
        with pytest.raises(RateLimited):
            pool.submit(double, 1)
        pool.submit(double, 2)
        with pytest.raises(RateLimited):
            pool.options(key="1").submit(double, 7)


def test_a_full_pool_takes_no_token() -> None:
    blocked = Blocked()
    limiter = RateLimiter(1000.0, burst=10)
    with WorkerPool(max_workers=1, queue=0, limiter=limiter) as pool:
        pool.submit(blocked)
        for _ in range(20):
            with pytest.raises(PoolFull):
                pool.submit(blocked)
        blocked.open.set()
    assert limiter.decisions()["admitted"] == 1


def test_a_limiter_with_patience_delays_whoever_submits() -> None:
    clock = ManualClock()
    with WorkerPool(limiter=RateLimiter(1.0, burst=1, max_wait_s=5.0, clock=clock), clock=clock) as pool:
        pool.submit(double, 1)
        pool.submit(double, 2)
    assert clock.slept_s == [1.0]


def test_time_runs_out_in_the_queue_and_at_work(caplog: pytest.LogCaptureFixture) -> None:
    clock, blocked = ManualClock(), Blocked()
    with WorkerPool("mail", max_workers=1, timeout_s=10.0, clock=clock) as pool:
        at_work = pool.submit(blocked, "late")
        blocked.wait_begun()
        waiting = pool.submit(double, 1)
        patient = pool.options(timeout_s=60.0).submit(double, 2)
        clock.advance(10.0)
        pool.look()
        assert (type(at_work.exception(10)), type(waiting.exception(10))) == (TaskTimedOut, TaskTimedOut)
        reasons = [future.exception().reason for future in (at_work, waiting)]  # type: ignore[union-attr]
        assert reasons == ["expired", "expired_on_arrival"]
        assert isinstance(at_work.exception(), TimeoutError)
        assert patient.result(10) == 4, "another thread stands in for the one that cannot be stopped"
        assert pool.status()["abandoned"] == 1
        assert "timed out and cannot be stopped" in caplog.text
        blocked.open.set()
        until(lambda: pool.status()["abandoned"] == 0)
        assert pool.status()["workers"] == 1
    assert (pool.status()["timed_out"], pool.status()["done"]) == (2, 1)


def test_threads_that_stand_in_are_bounded() -> None:
    clock, blocked = ManualClock(), Blocked()
    with WorkerPool("stand-in", min_workers=2, max_workers=2, queue=10, max_abandoned=1, timeout_s=1.0, clock=clock) as pool:
        for _ in range(5):
            pool.submit(blocked)
            clock.advance(1.0)
            pool.look()
        status, ours = pool.status(), [thread.name for thread in threading.enumerate() if "stand-in" in thread.name]
        blocked.open.set()  # before anything is asserted: a test that fails ends at once
    assert (status["abandoned"], status["workers"]) == (1, 2)
    assert sorted(ours) == [*["resilience-stand-in"] * 3, "resilience-stand-in-looks"]


def test_the_time_of_the_whole_pool_runs_out() -> None:
    clock, blocked = ManualClock(), Blocked()
    with WorkerPool(max_workers=1, pool_timeout_s=60.0, clock=clock) as pool:
        clock.advance(50.0)
        future = pool.options(timeout_s=30.0).submit(blocked)
        blocked.wait_begun()
        clock.advance(10.0)
        pool.look()
        assert isinstance(future.exception(10), TaskTimedOut)
        with pytest.raises(TaskTimedOut) as caught:
            pool.submit(double, 1)
        assert caught.value.reason == "expired_on_arrival"
        blocked.open.set()
    assert pool.status()["rejected"]["expired"] == 1


def test_the_real_clock_ends_a_task_by_itself() -> None:
    """The one test that waits: that the pool looks by itself, in the time that it says."""
    blocked = Blocked()
    with WorkerPool(max_workers=1) as pool:
        pool.submit(double, 1).result(10)
        until(lambda: pool._looks_next_us > 0)  # it sleeps: there is nothing to do
        began_s = time.monotonic()
        future = pool.options(timeout_s=0.05).submit(blocked)
        assert isinstance(future.exception(10), TaskTimedOut)
        assert time.monotonic() - began_s < 5
        blocked.open.set()


def test_a_task_is_bounded_by_its_own_deadline_and_not_by_that_of_its_request() -> None:
    clock = ManualClock()
    seen: list[float | None] = []

    def look() -> None:
        deadline = current_deadline(clock)
        seen.append(None if deadline is None else deadline.remaining_s())
        seen.append(None if current_call() is None else 1.0)

    with WorkerPool(max_workers=1, clock=clock) as pool, Pipeline("api", Deadline(5.0, clock=clock)).guard():
        pool.submit(look).result(10)
        pool.options(timeout_s=60.0).submit(look).result(10)
    assert seen == [None, None, 60.0, None]


def test_each_task_goes_through_the_pipeline() -> None:
    clock = ManualClock()
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        return "done"

    pipeline = Pipeline("jobs", Retry(attempts=3, backoff_s=1.0, jitter="none", clock=clock), CircuitBreaker(clock=clock))
    with WorkerPool(pipeline=pipeline, clock=clock) as pool:
        assert pool.submit(flaky).result(10) == "done"
    assert (len(tries), clock.slept_s) == (3, [1.0, 1.0])


def test_a_coroutine_function_is_refused_by_name() -> None:
    async def work() -> None: ...

    with WorkerPool() as pool, pytest.raises(TypeError, match="AsyncWorkerPool"):
        _ = pool.submit(work).result(10)


def test_a_thousand_tasks_that_raise_leave_all_workers_alive() -> None:
    errors = [ValueError, KeyError, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, MemoryError, BaseException]

    def raises(number: int) -> None:
        raise errors[number % len(errors)](number)

    blocked = Blocked()
    with WorkerPool(min_workers=4, max_workers=4, queue=2_000) as pool:
        before = [pool.submit(blocked) for _ in range(4)]
        blocked.wait_begun(4)
        threads = {worker.thread for worker in pool._crew}
        blocked.open.set()
        wait(before, 10)
        futures = [pool.submit(raises, number) for number in range(1_000)]
        for number, future in enumerate(futures):
            assert type(future.exception(10)) is errors[number % len(errors)]
        until(lambda: pool.status()["idle"] == 4)
        assert {worker.thread for worker in pool._crew} == threads
        assert all(thread is not None and thread.is_alive() for thread in threads)
        assert pool.submit(double, 4).result(10) == 8
    assert (pool.status()["failed"], pool.status()["workers"]) == (1_000, 0)


def test_a_future_is_cancelled_while_it_waits_and_not_later() -> None:
    blocked = Blocked()
    with WorkerPool(max_workers=1) as pool:
        at_work = pool.submit(blocked)
        blocked.wait_begun()
        waiting = pool.submit(double, 1)
        assert at_work.running()
        assert (waiting.cancel(), waiting.cancel(), at_work.cancel(), pool.status()["queue_length"]) == (True, True, False, 0)
        with pytest.raises(CancelledError):
            waiting.result(10)
        assert wait([waiting], 0).done == {waiting}
        blocked.open.set()
    assert (pool.status()["cancelled"], pool.status()["done"]) == (1, 1)
    assert not at_work.cancel()


def test_drain_finishes_what_waits_and_refuses_what_comes() -> None:
    pool = WorkerPool(max_workers=2)
    futures = [pool.submit(double, number) for number in range(50)]
    assert pool.drain() is True
    assert all(future.done() for future in futures)
    with pytest.raises(PoolClosed) as caught:
        pool.submit(double, 1)
    assert (caught.value.reason, str(caught.value)) == ("shutting_down", "workers: the pool is shutting down")
    assert pool.drain() is True, "once more changes nothing"


def test_drain_gives_up_what_is_not_finished_in_time() -> None:
    blocked = Blocked()
    store = Storage()
    pool = WorkerPool(max_workers=1, failed=FailedTaskStore(store))
    at_work, waiting = pool.submit(blocked), pool.submit(double, 1)
    blocked.wait_begun()
    assert pool.drain(0.0) is False
    assert [future.exception(10).reason for future in (at_work, waiting)] == ["cut_off", "shutting_down"]  # type: ignore[union-attr]
    assert sorted(task.error.partition(":")[0] for task in store.tasks.values()) == ["resilience.workers.refusals.PoolClosed"] * 2
    blocked.open.set()
    until(lambda: not pool._crew)
    assert pool.status()["pending"] == 0


def test_a_block_that_raises_drains_all_the_same() -> None:
    with pytest.raises(LookupError), WorkerPool(max_workers=1) as pool:  # noqa: PT012  # the block is what raises
        future = pool.submit(double, 2)
        raise LookupError
    assert future.result(0) == 4


def test_it_works_no_more_than_health_allows() -> None:
    clock, blocked = ManualClock(), Blocked()
    health = HealthSignal(clock=clock)
    hold = Hold()
    health.opened(hold, clock.now_us(), None)
    with WorkerPool(min_workers=10, max_workers=10, health=health, clock=clock) as pool:
        for _ in range(10):
            pool.submit(blocked)
        blocked.wait_begun(3)
        status = pool.status()
        assert (status["busy"], status["queue_length"], status["workers_allowed_by_health"]) == (3, 7, 3)
        health.closed(hold, clock.now_us())
        clock.advance(14 * 60)
        pool.look()
        blocked.wait_begun(7)
        assert pool.status()["busy"] == 10
        blocked.open.set()


def test_failed_tasks_are_kept_with_what_is_known_of_them() -> None:
    clock, store = ManualClock(), Storage()
    pipeline = Pipeline("jobs", Retry(attempts=2, on=ValueError, backoff_s=1.0, jitter="none", clock=clock))
    with WorkerPool("mail", pipeline=pipeline, failed=FailedTaskStore(store), clock=clock) as pool:
        future = pool.options(idempotency_key="order-7").submit(fail, "x" * 5_000)
        assert isinstance(future.exception(10), ValueError)
        pool.submit(double, 1)
    (task,) = store.tasks.values()
    assert (task.name, task.pool, task.idempotency_key) == ("tests.workers.test_threads.fail", "mail", "order-7")
    assert task.payload == '{"args":["' + "x" * 5_000 + '"],"kwargs":{}}'
    assert (task.attempts, len(task.error), len(task.traceback)) == (2, 2_000, 2_000)
    assert task.error.startswith("ValueError: xxx")
    assert task.failed_s - task.submitted_s == pytest.approx(1.0)
    assert pool.status()["failed_kept"] == 1


def test_a_task_whose_breaker_stays_open_is_kept() -> None:
    store = Storage()
    with WorkerPool(pipeline=Pipeline("jobs", _open_breaker()), failed=FailedTaskStore(store)) as pool:
        assert isinstance(pool.submit(double, 1).exception(10), CircuitOpen)
    (task,) = store.tasks.values()
    assert (task.attempts, task.error.partition(":")[0]) == (0, "resilience.errors.CircuitOpen")


def _open_breaker() -> CircuitBreaker:
    breaker = CircuitBreaker(name="db")
    breaker.force("open")
    return breaker


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({1, 2}, "argument 0 is a set"),
        ({"lines": [1, (2, 3)]}, "argument 0['lines'][1] is a tuple, which would come back as a list"),
        ({7: "seven"}, "a key of argument 0 is a int, not a text"),
        (float("nan"), "argument 0 is nan"),
        (b"bytes", "argument 0 is a bytes"),
        (object, "argument 0 is a type"),
        ("x" * 1_000_001, "at most 1000000 are stored"),
    ],
)
def test_what_is_not_json_is_refused_before_it_is_accepted(argument: Any, told: str) -> None:
    with WorkerPool(failed=FailedTaskStore(Storage())) as pool:
        with pytest.raises(PayloadError) as caught:
            pool.submit(str, argument)
        assert told in str(caught.value)
        assert str(caught.value).startswith("builtins.str: its arguments")
    assert pool.status()["accepted"] == 0


def test_without_a_store_anything_can_be_passed() -> None:
    with WorkerPool() as pool:
        assert pool.submit(len, {1, 2}).result(10) == 2
        assert pool.submit(lambda found: found[0], [{1: (2, {3})}]).result(10) == {1: (2, {3})}


def test_failed_tasks_that_cannot_be_stored_fill_the_pool_and_are_stored_later(caplog: pytest.LogCaptureFixture) -> None:
    store = Storage()
    store.broken = True
    with WorkerPool("mail", max_workers=1, queue=3, failed=FailedTaskStore(store)) as pool:
        for number in range(3):
            error = pool.submit(fail, str(number)).exception(10)
            assert error is not None
            assert "is held in memory until it can" in error.__notes__[0]
        with pytest.raises(PoolFull) as caught:
            pool.submit(double, 1)
        assert (caught.value.reason, "cannot be stored" in str(caught.value)) == ("not_kept", True)
        assert (pool.status()["failed_not_kept"], len(store.tasks)) == (3, 0)
        assert caplog.text.count("failed tasks wait in memory") == 1, "it is told once"
        store.broken = False
        pool.look()
        until(lambda: len(store.tasks) == 3)
        assert pool.submit(double, 1).result(10) == 2
    assert pool.status()["failed_kept"] == 3


def test_failed_tasks_that_cannot_be_stored_at_the_end_are_handed_over() -> None:
    store = Storage()
    store.broken = True
    with pytest.raises(TasksNotKept) as caught, WorkerPool(failed=FailedTaskStore(store)) as pool:
        pool.submit(fail, "lost?")
    assert [task.payload for task in caught.value.tasks] == ['{"args":["lost?"],"kwargs":{}}']
    assert "1 failed tasks could not be stored" in str(caught.value)


def test_a_storage_that_raises_what_it_should_not_costs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    store = Storage()
    store.keep = lambda task: 1 / 0  # type: ignore[method-assign,assignment]
    with WorkerPool(max_workers=1, failed=FailedTaskStore(store)) as pool:
        assert isinstance(pool.submit(fail).exception(10), ValueError)
        assert pool.submit(double, 1).result(10) == 2
    assert "could not be kept" in caplog.text


def test_an_error_whose_text_raises_is_kept_by_its_class() -> None:
    class Worst(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def raises() -> None:
        raise Worst

    store = Storage()
    with WorkerPool(failed=FailedTaskStore(store)) as pool:
        assert isinstance(pool.submit(raises).exception(10), Worst)
    (task,) = store.tasks.values()
    assert "Worst" in task.error


def test_a_task_knows_itself() -> None:
    assert current_task() is None
    with WorkerPool() as pool:
        found = pool.options(idempotency_key="order-7").submit(current_task).result(10)
        other = pool.submit(current_task).result(10)
    assert found is not None
    assert other is not None
    assert (found.idempotency_key, found.replay, len(found.id)) == ("order-7", 0, 32)
    assert other.idempotency_key == other.id != found.id


def test_a_thread_that_cannot_be_started_loses_no_task(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with WorkerPool(max_workers=1) as pool:
        pool.submit(double, 1).result(10)
        until(lambda: pool.status()["idle"] == 1)
        blocked = Blocked()
        pool.submit(blocked)
        blocked.wait_begun()
        pool.configure(PoolPlan(WorkerPoolSettings(min_workers=2)))
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", _no_thread)
            future = pool.submit(double, 2)
        assert "no thread can be started" in caplog.text
        blocked.open.set()
        assert future.result(10) == 4


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_settings_that_change_hold_at_once(caplog: pytest.LogCaptureFixture) -> None:
    blocked = Blocked()
    caplog.set_level(logging.INFO)
    with WorkerPool(min_workers=1, max_workers=1, queue=5) as pool:
        for _ in range(6):
            pool.submit(blocked)
        blocked.wait_begun()
        with pytest.raises(PoolFull):
            pool.submit(blocked)
        pool.configure(PoolPlan(WorkerPoolSettings(min_workers=4, max_workers=4, queue=50)))
        blocked.wait_begun(3)  # three more at once
        pool.submit(blocked)
        pool.configure(PoolPlan(WorkerPoolSettings(min_workers=1, max_workers=1, queue=1)))
        with pytest.raises(PoolFull):
            pool.submit(blocked)
        blocked.open.set()
        until(lambda: pool.status()["workers"] == 1)
    assert pool.status()["done"] == 7


def test_a_callback_that_ends_its_thread_costs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    def leave(future: object) -> None:
        raise SystemExit(3)

    clock, blocked = ManualClock(), Blocked()
    with WorkerPool(max_workers=1, clock=clock) as pool:
        pool.submit(blocked).add_done_callback(leave)
        following = pool.submit(double, 1)
        blocked.wait_begun()
        blocked.open.set()
        assert following.result(10) == 2, "the worker went on, with the task that it had been given already"
        blocked.open.clear()
        late = pool.options(timeout_s=1.0).submit(blocked)
        late.add_done_callback(leave)
        blocked.wait_begun()
        clock.advance(1.0)
        pool.look()
        assert isinstance(late.exception(10), TaskTimedOut), "and so did the thread that looks"
        blocked.open.set()
    assert caplog.text.count("tried to end the thread") == 2


def test_a_drain_that_is_interrupted_still_tells_everybody() -> None:
    store, blocked = Storage(), Blocked()
    pool = WorkerPool(max_workers=1, failed=FailedTaskStore(store))
    running, waiting = pool.submit(blocked), pool.submit(double, 1)
    blocked.wait_begun()
    pool._drained.wait = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        pool.drain()
    assert isinstance(running.exception(0), PoolClosed)
    assert isinstance(waiting.exception(0), PoolClosed)
    assert len(store.tasks) == 2, "nothing that was accepted is lost"
    blocked.open.set()
    assert pool.drain()


def interrupted(timeout_s: float | None = None) -> bool:
    raise KeyboardInterrupt


def test_while_the_store_is_away_it_is_not_asked_for_each_task() -> None:
    """A file that another process holds costs five seconds a try, and a pool that is told to stop may hold a thousand tasks."""
    store, blocked = Storage(), Blocked()
    store.broken = True
    pool = WorkerPool(max_workers=1, failed=FailedTaskStore(store))
    futures = [pool.submit(blocked), *(pool.submit(double, number) for number in range(100))]
    blocked.wait_begun()
    with pytest.raises(TasksNotKept) as caught:
        pool.drain(0)
    blocked.open.set()
    assert len(caught.value.tasks) == 101
    assert store.tries <= 4
    notes = [getattr(future.exception(0), "__notes__", [""])[0] for future in futures]
    assert all("it was told so" in note for note in notes), "each is told why"
