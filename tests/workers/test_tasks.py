"""A pool of asyncio tasks, as its user sees it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience import CircuitBreaker, Deadline, Pipeline, RateLimited, RateLimiter, Retry, current_deadline
from resilience.testing import ManualClock
from resilience.workers import (
    AsyncWorkerPool,
    FailedTaskStore,
    PayloadError,
    PoolClosed,
    PoolFull,
    TasksNotKept,
    TaskTimedOut,
    current_task,
)
from tests.workers.helpers import Storage

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
Test = Callable[..., Coroutine[Any, Any, None]]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail(text: str = "no") -> None:
    await asyncio.sleep(0)
    raise ValueError(text)


class Blocked:
    """A coroutine function that runs until it is let go, or cancelled."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, result: Any = None) -> Any:
        self.begun += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return result


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_results_and_errors_come_through_futures() -> None:
    async def main() -> None:
        async with AsyncWorkerPool(max_workers=3) as pool:
            futures = [pool.submit(double, number) for number in range(100)]
            failed = pool.submit(fail, "this one")
            assert await asyncio.gather(*futures) == [2 * number for number in range(100)]
            with pytest.raises(ValueError, match="this one"):
                await failed
        status = pool.status()
        assert (status["accepted"], status["done"], status["failed"], status["pending"]) == (101, 100, 1, 0)

    run(main())


def test_what_is_called_wrongly_or_gives_no_coroutine() -> None:
    async def main() -> None:
        async with AsyncWorkerPool() as pool:
            with pytest.raises(TypeError, match="positional"):
                await pool.submit(double)  # type: ignore[call-arg]
            with pytest.raises(TypeError):
                await pool.submit(lambda: 7)  # type: ignore[arg-type,return-value]
            assert await pool.submit(lambda: asyncio.ensure_future(double(2))) == 4  # type: ignore[arg-type,return-value]

    run(main())


def test_the_context_of_whoever_submits_comes_along_and_stays_apart() -> None:
    async def read_and_write() -> str:
        before = TENANT.get()
        TENANT.set("changed")
        await asyncio.sleep(0)
        assert TENANT.get() == "changed"
        return before

    async def main() -> None:
        async with AsyncWorkerPool(max_workers=1) as pool:
            TENANT.set("blue")
            first = pool.submit(read_and_write)
            TENANT.set("green")
            second = pool.submit(read_and_write)
            assert (await first, await second, TENANT.get()) == ("blue", "green", "green")

    run(main())


def test_priorities_bounds_and_refusals() -> None:
    async def main() -> None:
        order: list[str] = []
        blocked = Blocked()

        async def note(name: str) -> None:
            order.append(name)

        async with AsyncWorkerPool("mail", max_workers=1, queue=3) as pool:
            pool.submit(blocked)
            for name, priority in (("b", 5), ("c", 9), ("a", 0)):
                pool.options(priority=priority).submit(note, name)
            with pytest.raises(PoolFull):
                pool.submit(note, "d")
            await turns()
            blocked.open.set()
        assert order == ["a", "b", "c"]
        with pytest.raises(PoolClosed):
            pool.submit(note, "late")

    run(main())


def test_limiters_admit_and_those_that_wait_are_refused_by_name() -> None:
    async def main() -> None:
        clock = ManualClock()
        async with AsyncWorkerPool(limiter=RateLimiter(1.0, burst=1, clock=clock), clock=clock) as pool:
            await pool.submit(double, 1)
            with pytest.raises(RateLimited):
                pool.submit(double, 1)
        async with AsyncWorkerPool(limiter=RateLimiter(1.0, max_wait_s=1.0)) as pool:
            with pytest.raises(TypeError, match="submit never waits"):
                pool.submit(double, 1)

    run(main())


def test_a_task_whose_time_is_over_is_cancelled_at_that_instant() -> None:
    async def main() -> None:
        clock = ManualClock(auto_advance=False)
        blocked = Blocked()
        async with AsyncWorkerPool("mail", max_workers=1, timeout_s=10.0, clock=clock) as pool:
            at_work, waiting = pool.submit(blocked), pool.submit(double, 1)
            patient = pool.options(timeout_s=60.0).submit(double, 2)
            await turns()
            clock.advance(9.999)
            await turns()
            assert not at_work.done()
            clock.advance(0.001)
            await turns()
            for future, reason in ((at_work, "expired"), (waiting, "expired_on_arrival")):
                error = future.exception()
                assert isinstance(error, TaskTimedOut)
                assert error.reason == reason
            assert blocked.cancelled == 1
            assert await patient == 4
        assert (pool.status()["timed_out"], pool.status()["abandoned"], clock.pending_timers) == (2, 0, 0)

    run(main())


def test_a_task_that_will_not_be_cancelled_is_stood_in_for() -> None:
    async def main() -> None:
        clock = ManualClock(auto_advance=False)
        gate = asyncio.Event()

        async def stubborn() -> None:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

        async with AsyncWorkerPool(max_workers=1, timeout_s=1.0, clock=clock) as pool:
            future = pool.submit(stubborn)
            await turns()
            clock.advance(1.0)
            await turns()
            assert isinstance(future.exception(), TaskTimedOut)
            assert pool.status()["abandoned"] == 1
            assert await pool.submit(double, 2) == 4
            gate.set()
            await turns()
            assert (pool.status()["abandoned"], pool.status()["workers"]) == (0, 1)

    run(main())


def test_cancelling_a_future_or_its_waiter_cancels_the_task() -> None:
    async def main() -> None:
        blocked = Blocked()
        async with AsyncWorkerPool(max_workers=1) as pool:
            at_work, waiting = pool.submit(blocked), pool.submit(blocked)
            await turns()
            assert waiting.cancel()
            waiter = asyncio.ensure_future(at_work)  # a future is awaited as itself
            assert waiter is at_work

            async def await_it() -> None:
                await at_work

            other = asyncio.create_task(await_it())
            await turns()
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
            assert (at_work.cancelled(), waiting.cancelled(), blocked.cancelled) == (True, True, 1)
            assert not at_work.cancel()
        assert pool.status()["cancelled"] == 2

    run(main())


def test_a_task_cancelled_before_its_first_step_frees_its_place() -> None:
    async def main() -> None:
        async with AsyncWorkerPool(max_workers=1) as pool:
            future = pool.submit(double, 1)
            assert future.cancel()
            assert await pool.submit(double, 2) == 4
            assert future.cancelled()

    run(main())


def test_each_task_goes_through_the_pipeline_and_has_its_deadline() -> None:
    async def main() -> None:
        clock = ManualClock()
        tries: list[int] = []

        async def flaky() -> float:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError
            deadline = current_deadline(clock)
            assert deadline is not None
            return deadline.remaining_s()

        pipeline = Pipeline("jobs", Retry(attempts=3, backoff_s=1.0, jitter="none", clock=clock), CircuitBreaker(clock=clock))
        async with AsyncWorkerPool(pipeline=pipeline, timeout_s=60.0, clock=clock) as pool:
            assert await pool.submit(flaky) == 58.0
            async with Pipeline("api", Deadline(5.0, clock=clock)).guard():
                assert await pool.submit(flaky) == 60.0
        assert len(tries) == 4

    run(main())


def test_drain_gives_up_what_is_not_finished_in_time() -> None:
    async def main() -> None:
        store, blocked = Storage(), Blocked()
        pool = AsyncWorkerPool(max_workers=1, failed=FailedTaskStore(store))
        at_work, waiting = pool.submit(blocked), pool.submit(double, 1)
        await turns()
        assert await pool.drain(0.0) is False
        assert [future.exception().reason for future in (at_work, waiting)] == ["cut_off", "shutting_down"]  # type: ignore[union-attr]
        assert (blocked.cancelled, len(store.tasks), pool.status()["pending"]) == (1, 2, 0)
        assert await pool.drain() is True

    run(main())


def test_a_drain_that_is_cancelled_still_tells_everybody() -> None:
    async def main() -> None:
        blocked = Blocked()
        pool = AsyncWorkerPool(max_workers=1)
        futures = [pool.submit(blocked), pool.submit(blocked)]
        draining = asyncio.create_task(pool.drain())
        await turns()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        await turns()
        assert all(isinstance(future.exception(), PoolClosed) for future in futures)
        assert blocked.cancelled == 1

    run(main())


def test_failed_tasks_are_kept_away_from_the_loop() -> None:
    async def main() -> None:
        store = Storage()
        store.broken = True
        async with AsyncWorkerPool("mail", max_workers=1, queue=2, failed=FailedTaskStore(store)) as pool:
            for text in ("one", "two"):
                with pytest.raises(ValueError, match=text) as caught:
                    await pool.submit(fail, text)
                assert "is held in memory" in caught.value.__notes__[0]
            with pytest.raises(PoolFull):
                pool.submit(double, 1)
            store.broken = False
            pool.look()
            await asyncio.gather(*pool._keepers)
            with pytest.raises(PayloadError):
                pool.submit(fail, {1})  # type: ignore[arg-type]
            assert await pool.submit(double, 1) == 2
        assert sorted(task.payload for task in store.tasks.values()) == [
            '{"args":["one"],"kwargs":{}}',
            '{"args":["two"],"kwargs":{}}',
        ]
        store.broken = True
        with pytest.raises(TasksNotKept):
            async with AsyncWorkerPool(failed=FailedTaskStore(store)) as pool:
                pool.submit(fail)

    run(main())


def test_a_pool_belongs_to_one_loop() -> None:
    pool = AsyncWorkerPool()

    async def use() -> None:
        await pool.submit(double, 1)

    asyncio.run(use())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(use())
    with pytest.raises(RuntimeError, match="no running event loop"):
        pool.submit(double, 1)


def test_a_task_knows_itself() -> None:
    async def who() -> Any:
        return current_task()

    async def main() -> None:
        async with AsyncWorkerPool() as pool:
            found = await pool.options(idempotency_key="order-7").submit(who)
            assert found.idempotency_key == "order-7"
            assert (await pool.options(timeout_s=5.0).submit(who)).name.endswith("who")

    run(main())


def test_settings_that_change_from_another_thread_hold_soon() -> None:
    async def main() -> None:
        blocked = Blocked()
        async with AsyncWorkerPool(max_workers=1, queue=50) as pool:
            for _ in range(6):
                pool.submit(blocked)
            await turns()
            assert blocked.begun == 1
            settings = AsyncWorkerPool(min_workers=4, max_workers=4).plan.settings
            await asyncio.to_thread(pool.configure, pool.plan.of("workers", settings, None, None, None, None))
            await turns()
            assert blocked.begun == 4
            blocked.open.set()
        assert pool.status()["done"] == 6

    run(main())


def test_debuggers_see_the_frame_of_the_task() -> None:
    async def main() -> None:
        blocked = Blocked()
        async with AsyncWorkerPool() as pool:
            pool.submit(blocked)
            await turns()
            (frame,) = {task.get_stack()[0] for task in asyncio.all_tasks() if "Running" in repr(task.get_coro())}
            assert frame.f_code.co_name == "__call__"
            blocked.open.set()

    run(main())


def test_a_loop_that_ends_first_closes_what_runs() -> None:
    async def main() -> None:
        pool = AsyncWorkerPool()
        pool.submit(asyncio.sleep, 60)
        await turns()

    with pytest.MonkeyPatch.context():
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_an_eager_loop_runs_the_queue_on_no_stack_of_its_own() -> None:
    async def at_once(number: int) -> int:
        return number

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        async with AsyncWorkerPool(max_workers=1, queue=5_000) as pool:
            futures = [pool.submit(at_once, number) for number in range(5_000)]
            assert await asyncio.gather(*futures) == list(range(5_000))

    run(main())
