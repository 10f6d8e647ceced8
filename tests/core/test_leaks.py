"""The leak guard: it names each kind of leak, and passes what is clean however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from resilience import (
    Call,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Outcome,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
)
from resilience.testing import Leaked, ManualClock, nothing_leaks
from tests.core.helpers import Failure, fail, succeed

pytestmark = pytest.mark.may_leak  # on purpose, inside of guards of their own
HERE = __file__


@contextlib.contextmanager
def leaking() -> Iterator[list[str]]:
    """Gives what a guard inside of the block finds, once the block is left."""
    leaks: list[str] = []
    with pytest.raises(Leaked) as caught:
        yield leaks
    leaks += caught.value.leaks
    assert str(caught.value) == "left behind:" + "".join(f"\n  {leak}" for leak in leaks)


def leaks_of(work: Callable[[], Any], **options: Any) -> list[str]:
    """What the guard finds after `work`, which is something."""
    with leaking() as leaks, nothing_leaks(wait_s=0.0, **options):
        work()
    return leaks


def half_open(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    """A breaker that waits for its probes."""
    breaker = CircuitBreaker(min_calls=1, name="orders", clock=clock, uniform=lambda: 0.0, **settings)
    with pytest.raises(Failure):
        Pipeline("direct", breaker).call(fail)
    clock.advance(30.0)
    return breaker


# --- each kind is caught ----------------------------------------------------------------------------------------------------


def test_a_thread_that_runs_on_is_named_with_where_it_stands() -> None:
    may_end = threading.Event()

    def work() -> None:
        may_end.wait()

    thread = threading.Thread(target=work, name="the worker")
    (leak,) = leaks_of(thread.start)
    may_end.set()
    thread.join()
    assert leak.startswith(f"thread: the worker, which stands at {HERE}:")
    assert leak.endswith("work)")


def test_a_thread_that_is_about_to_end_is_waited_for() -> None:
    asked = threading.Event()

    class Looked(threading.Thread):
        """Ends once somebody has looked whether it lives."""

        @property
        def name(self) -> str:
            asked.set()
            return "slow"

        @name.setter
        def name(self, name: str) -> None:
            raise AttributeError

    with nothing_leaks(wait_s=20.0):
        Looked(target=asked.wait).start()


def test_the_poller_of_grpc_aio_is_the_process_own() -> None:
    asked = threading.Event()

    def _poll_wrapper() -> None:
        asked.wait()

    with nothing_leaks(wait_s=0.0):
        poller = threading.Thread(target=_poll_wrapper)
        poller.start()
    asked.set()
    poller.join()


async def _sleeps() -> None:
    await asyncio.Event().wait()


def test_a_task_that_runs_on_is_named() -> None:
    async def scenario() -> list[str]:
        with leaking() as leaks:
            async with nothing_leaks(wait_s=0.0):
                task = asyncio.create_task(_sleeps(), name="the poller")
                await asyncio.sleep(0)
        task.cancel()
        return leaks

    (leak,) = asyncio.run(scenario())
    assert leak.startswith("task: <Task pending name='the poller' coro=<_sleeps()")


def test_a_task_that_asyncio_run_had_to_cancel_is_named() -> None:
    async def scenario() -> None:
        asyncio.create_task(_sleeps(), name="the poller")  # noqa: RUF006 - forgotten on purpose

    (leak,) = leaks_of(lambda: asyncio.run(scenario()))
    assert leak.startswith("task: under way when its event loop was closed: <Task pending name='the poller'")


def test_a_task_of_a_loop_that_somebody_runs_by_hand_is_named() -> None:
    loop = asyncio.new_event_loop()
    tasks = []

    async def scenario() -> None:
        tasks.append(asyncio.create_task(_sleeps(), name="the poller"))
        await asyncio.sleep(0)

    (leak,) = leaks_of(lambda: loop.run_until_complete(scenario()))
    assert "'the poller'" in leak
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(tasks[0])
    loop.close()


def test_a_permit_that_is_kept_is_named_with_where_it_was_admitted_and_what_it_holds(clock: ManualClock) -> None:
    kept = []
    pipeline = Pipeline("api", RateLimiter(1.0, clock=clock), half_open(clock))

    def work() -> None:
        kept.append(pipeline.guard("charge"))
        kept[0].__enter__()

    (leak,) = leaks_of(work)
    assert leak.startswith(f"permit: of charge, admitted at {HERE}:")
    assert leak.endswith("work), never settled; holds breaker 'orders'")
    kept[0].__exit__(None, None, None)


def test_a_permit_that_was_garbage_collected_unsettled_is_named() -> None:
    pipeline = Pipeline("api")

    def work() -> None:
        pipeline.outer.admit(Call("charge"))

    (leak,) = leaks_of(work)
    assert leak.endswith("never settled, and was garbage collected so")


@pytest.mark.parametrize("has_retry", [False, True])
@pytest.mark.parametrize("tries", [0, 1])
def test_a_call_that_is_still_at_work_is_named(has_retry: bool, tries: int, clock: ManualClock) -> None:
    """Also one that needs no permit, in its first try and in those that follow."""
    begun, may_end, made = threading.Event(), threading.Event(), []
    pipeline = Pipeline("api", *([Retry(backoff_s=0.0, clock=clock)] if has_retry else []), half_open(clock, probes=3))
    threads = []

    def charge() -> None:
        made.append(1)
        if len(made) <= tries and has_retry:
            raise ConnectionError
        begun.set()
        may_end.wait()

    def work() -> None:
        threads.append(threading.Thread(target=pipeline.call, args=(charge,)))
        threads[-1].start()
        begun.wait()

    leaks = leaks_of(work, threads=False)
    assert all(leak.startswith("permit: of charge, admitted at ") for leak in leaks)
    assert [leak.endswith("never settled; holds breaker 'orders'") for leak in leaks].count(True) == 1
    assert len(leaks) == (2 if has_retry and tries else 1)  # the call and its second try
    may_end.set()
    for thread in threads:
        thread.join()
    with nothing_leaks(wait_s=0.0):
        pipeline.call(succeed)


def test_a_permit_admitted_inside_asyncio_is_placed_where_the_call_was_made() -> None:
    kept = []

    async def scenario() -> None:
        guard = Pipeline("api").guard()
        kept.append(guard)
        await guard.__aenter__()

    (leak,) = leaks_of(lambda: asyncio.run(scenario()))
    assert leak.startswith(f"permit: of block, admitted at {HERE}:")
    assert "scenario)" in leak
    kept[0].__exit__(None, None, None)


def test_a_probe_that_no_permit_holds_is_named(clock: ManualClock) -> None:
    breaker = half_open(clock)
    call = Call(now_us=clock.now_us())
    assert leaks_of(lambda: breaker.admit(call)) == ["probe: of breaker 'orders', let through half-open and never settled"]
    with nothing_leaks(wait_s=0.0):
        pass  # it was out before this block began
    keyed = CircuitBreaker(min_calls=1, name="hosts", key=lambda call: "shop.example", clock=clock)
    with pytest.raises(Failure):
        Pipeline("direct", keyed).call(fail)
    clock.advance(30.0)
    leaks = leaks_of(lambda: keyed.admit(Call(now_us=clock.now_us())))
    assert leaks == ["probe: of breaker 'hosts' for key 'shop.example', let through half-open and never settled"]


def test_a_place_in_a_queue_that_is_still_waited_in_is_named() -> None:
    clock = ManualClock(auto_advance=False)
    pipeline = Pipeline("api", RateLimiter(1.0, 1, max_wait_s=10.0, clock=clock))

    async def scenario() -> list[str]:
        await pipeline.acall(asyncio.sleep, 0)
        with leaking() as leaks:
            async with nothing_leaks(tasks=False, wait_s=0.0):
                waiter = asyncio.create_task(pipeline.acall(asyncio.sleep, 0))
                await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        return leaks

    permit, reservation = asyncio.run(scenario())
    assert permit.startswith("permit: of sleep, admitted at ")
    assert reservation.startswith("reservation: of tokens that come in 1 s, queued at ")
    assert reservation.endswith("is still waited for")


def test_a_reservation_that_nobody_drives_is_named(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, 1, max_wait_s=10.0, clock=clock)
    limiter.admit(Call(now_us=clock.now_us()))  # takes what is there

    def work() -> None:
        limiter.admit(Call(now_us=clock.now_us()))

    (leak,) = leaks_of(work)
    assert leak.startswith(f"reservation: of tokens that come in 1 s, queued at {HERE}:")
    assert leak.endswith("was neither waited for nor cancelled")


def test_each_kind_can_be_left_out(clock: ManualClock) -> None:
    may_end, breaker = threading.Event(), half_open(clock)
    threads = []

    def work() -> None:
        threads.append(threading.Thread(target=may_end.wait))
        threads[-1].start()
        breaker.admit(Call(now_us=clock.now_us()))
        asyncio.run(_leaves_a_task())

    assert [leak.partition(":")[0] for leak in leaks_of(work)] == ["thread", "task", "probe"]
    assert [leak.partition(":")[0] for leak in leaks_of(work, threads=False, permits=False)] == ["task"]
    assert [leak.partition(":")[0] for leak in leaks_of(work, tasks=False, permits=False)] == ["thread"]
    with nothing_leaks(threads=False, tasks=False, permits=False, wait_s=0.0):
        work()
    may_end.set()
    for thread in threads:
        thread.join()


async def _leaves_a_task() -> None:
    asyncio.create_task(_sleeps())  # noqa: RUF006 - forgotten on purpose


def test_a_block_that_raises_keeps_its_exception_and_gets_a_note() -> None:
    kept = []

    def work() -> None:
        with nothing_leaks(wait_s=0.0):
            kept.append(Pipeline("api").outer.admit(Call("charge")))
            fail()

    with pytest.raises(Failure) as caught:
        work()
    (note,) = caught.value.__notes__
    assert note.startswith("left behind:\n  permit: of charge, admitted at ")


def test_guards_nest_and_each_knows_its_own() -> None:
    pipeline, kept = Pipeline("api"), []
    with leaking() as outer, nothing_leaks(wait_s=0.0):
        kept.append(pipeline.outer.admit(Call("before")))
        with leaking() as inner, nothing_leaks(wait_s=0.0):
            kept.append(pipeline.outer.admit(Call("within")))
        kept.append(pipeline.outer.admit(Call("after")))
        kept[0].settle(Outcome.OK)
    assert [leak.split()[2] for leak in inner] == ["within,"]
    assert [leak.split()[2] for leak in outer] == ["within,", "after,"]
    with nothing_leaks(wait_s=0.0):
        kept[1].settle(Outcome.OK)  # late, and no concern of this guard


# --- what is clean passes ---------------------------------------------------------------------------------------------------


def layers(clock: ManualClock) -> list[Any]:
    """One of each, that may wait, refuse and try again."""
    return [
        Deadline(5.0, clock=clock),
        RateLimiter(1_000.0, 100, max_wait_s=1.0, clock=clock),
        CircuitBreaker(min_calls=1_000, clock=clock),
        Retry(2, backoff_s=(0.1, 0.2), clock=clock),
        Deadline(1.0, clock=clock),
        CircuitBreaker(min_calls=1_000, clock=clock),
    ]


@pytest.mark.parametrize("work", [succeed, fail])
def test_clean_calls_pass_in_threads_and_in_tasks(work: Callable[[], Any], clock: ManualClock) -> None:
    pipeline = Pipeline("api", *layers(clock))

    async def awork() -> Any:
        await asyncio.sleep(0)
        return work()

    def call() -> None:
        with contextlib.suppress(Failure):
            pipeline.call(work)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(_swallow(pipeline.acall(awork)))
        await asyncio.to_thread(call)

    with nothing_leaks():
        call()
        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        asyncio.run(scenario())
        for thread in threads:
            thread.join()


async def _swallow(call: Any) -> None:
    with contextlib.suppress(Failure):
        await call


def test_cancelled_and_expired_calls_pass() -> None:
    clock = ManualClock(auto_advance=False)
    pipeline = Pipeline("api", *layers(clock))

    async def scenario() -> None:
        async with nothing_leaks():
            tasks = [asyncio.create_task(pipeline.acall(_sleeps)) for _ in range(10)]
            await asyncio.sleep(0)
            for task in tasks[:5]:
                task.cancel()
            clock.advance(10.0)
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, (asyncio.CancelledError, DeadlineExceeded))

    with nothing_leaks():
        asyncio.run(scenario())


def test_refused_and_waiting_calls_pass(clock: ManualClock) -> None:
    breaker, limiter = half_open(clock, probes=1), RateLimiter(1.0, 1, max_wait_s=1.5, clock=clock)
    pipeline = Pipeline("api", limiter, breaker)
    with nothing_leaks():
        probe = Pipeline("direct", breaker).outer.admit(Call(now_us=clock.now_us()))
        for _ in range(2):  # the second waits its turn in the queue first
            with pytest.raises(CircuitOpen):
                pipeline.call(succeed)
        probe.settle(Outcome.OK)
        for _ in range(3):
            pipeline.call(succeed)
        assert clock.slept_s == [1.0] * 4
        with pytest.raises(RateLimited):
            Pipeline("dear", RateLimiter(1.0, 1, clock=clock)).guard(cost=2).__enter__()


class Never:
    """Awaited, it never comes."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _waits() -> None:
    await Never()


def test_a_coroutine_that_is_thrown_away_in_the_middle_gives_its_permit_back(clock: ManualClock) -> None:
    with nothing_leaks():
        for pipeline in (Pipeline("plain", CircuitBreaker(clock=clock)), Pipeline("planned", Retry(2, clock=clock))):
            call = pipeline.acall(_waits)
            call.send(None)
            call.close()


def test_an_asynchronous_generator_that_is_given_up_is_the_loop_s_to_close() -> None:
    async def numbers() -> Any:
        yield 1
        yield 2

    async def scenario() -> None:
        async for _ in numbers():
            break

    with nothing_leaks():
        asyncio.run(scenario())


UNTOUCHED = """
import asyncio, sys
sys.modules["pytest"] = None  # not installed
import resilience.layers.limiter.layer as limiter_layer
from resilience import stage
from resilience.call import Permit
from resilience.layers.base import Wait
from resilience.testing import nothing_leaks

def parts():
    return stage.Permit, limiter_layer.Wait, asyncio.BaseEventLoop.create_task, asyncio.Runner.close

plain = parts()
assert plain[:2] == (Permit, Wait)
with nothing_leaks():
    with nothing_leaks():
        pass
    assert not set(parts()) & set(plain)
assert parts() == plain
"""


def test_without_a_guard_everything_is_plain_and_pytest_is_not_needed() -> None:
    subprocess.run([sys.executable, "-c", UNTOUCHED], check=True, timeout=60)
