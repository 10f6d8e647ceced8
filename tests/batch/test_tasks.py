"""What only tasks can do: be cancelled, in a context of their own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, CircuitOpen, Deadline, Pipeline, Retry, current_call, current_deadline
from resilience.batch import BatchCaller, CallCancelled, Err, FunctionBackend, Kind, Ok, RequestNotMade
from resilience.testing import ManualClock
from tests.batch.acts import Acts, until

Make = Callable[..., BatchCaller]
item: ContextVar[str] = ContextVar("item", default="none")


def test_time_is_that_of_the_clock(make: Make, clock: ManualClock) -> None:
    """Two limits and the deadline of the caller: at the instant of the earliest, and not before."""

    async def run(caller: BatchCaller, deadline_s: float | None) -> tuple[float, Any]:
        async def limited() -> Any:
            with Pipeline("page", Deadline(deadline_s, clock=clock)).guard():
                return await caller.acall(Acts().acall, ["a", "hangs"])

        began_us = clock.now_us()
        task = asyncio.create_task(limited())
        while not task.done():
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(0.1)
        return round((clock.now_us() - began_us) / 1e6 - 0.1, 1), await task

    for timeout_s, call_timeout_s, deadline_s, expected_s in [
        (1.0, 2.0, 3.0, 1.0),
        (2.0, 1.0, 3.0, 1.0),
        (3.0, 2.0, 1.0, 1.0),
        (None, None, 1.5, 1.5),
    ]:
        caller = make(timeout_s=timeout_s, call_timeout_s=call_timeout_s, clock=clock)
        took_s, results = asyncio.run(run(caller, deadline_s))
        assert took_s == expected_s
        assert [result.ok for result in results] == [True, False]
        assert results[1].kind is Kind.TIMEOUT


def test_a_cancelled_batch_cancels_its_calls(make: Make) -> None:
    acts = Acts()

    async def run() -> None:
        task = asyncio.create_task(make(concurrency=3).acall(acts.acall, ["hangs"] * 5))
        await until(lambda: acts.inside == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (acts.inside, len(acts.calls)) == (0, 3)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_cancelled_batch_says_nothing_of_the_back_end(make: Make) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    acts = Acts()

    async def run() -> None:
        caller = make(pipeline=Pipeline("stock", Deadline(30.0), breaker))
        task = asyncio.create_task(caller.acall(acts.acall, ["hangs"] * 5))
        await until(lambda: acts.inside == 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert breaker.state is BreakerState.CLOSED


def test_asyncio_timeout_around_it_works(make: Make) -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await make().acall(Acts().acall, ["hangs"])

    asyncio.run(run())


def test_a_call_that_cancels_itself_is_cancelled(make: Make) -> None:
    async def cancels(request: str) -> None:
        raise asyncio.CancelledError

    (result,) = asyncio.run(make().acall(cancels, ["a"]))
    assert isinstance(result, Err)
    assert (result.kind, type(result.error)) == (Kind.CANCELLED, CallCancelled)


@pytest.mark.parametrize("guarded", [False, True])
def test_a_task_that_swallows_its_cancellation_is_abandoned(make: Make, guarded: bool) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    caller = make(timeout_s=0.2, pipeline=Pipeline("stock", breaker) if guarded else None)

    async def run() -> None:
        released = asyncio.Event()

        async def stubborn(request: str) -> str:
            while request == "stubborn" and not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return request

        results = await caller.acall(stubborn, ["a", "stubborn", "b"])
        assert results.values() == ["a", "b"]
        (failure,) = results.errors()
        assert (failure.kind, failure.abandoned, results.report.abandoned) == (Kind.TIMEOUT, True, 1)
        assert caller.status()["abandoned"] == {"now": 1, "total": 1}
        assert (breaker.state is BreakerState.OPEN) == guarded
        released.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await asyncio.sleep(0)
        assert caller.status()["abandoned"] == {"now": 0, "total": 1}

    asyncio.run(run())


def test_beyond_the_bound_an_abandoned_task_keeps_its_place(make: Make) -> None:
    caller = make(call_timeout_s=0.03, concurrency=1, abandoned_max=1, grace_s=0.0)

    async def run() -> Any:
        released = asyncio.Event()

        async def stubborn(request: str) -> str:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return request

        results = await caller.acall(stubborn, "abcd")
        released.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        return results

    results = asyncio.run(run())
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [
        (Kind.TIMEOUT, True),
        (Kind.TIMEOUT, True),
        (Kind.REFUSED, False),
        (Kind.REFUSED, False),
    ]
    assert results.report.stopped == "threads"
    assert caller.status()["abandoned"] == {"now": 0, "total": 2}


def test_an_answer_within_the_grace_is_still_taken(make: Make) -> None:
    async def late(request: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return f"late {request}"
        return "never"

    assert asyncio.run(make(timeout_s=0.02).acall(late, ["a"])).values() == ["late a"]


def test_what_a_call_sets_in_its_context_stays_there(make: Make) -> None:
    seen: list[str] = []

    async def sets(request: str) -> None:
        seen.append(item.get())
        item.set(request)
        await asyncio.sleep(0)

    async def run() -> None:
        item.set("outer")
        await make(concurrency=1).acall(sets, ["a", "b", "c"])
        await make(concurrency=1, pipeline=Pipeline("stock", CircuitBreaker())).acall(sets, ["a", "b", "c"])
        assert item.get() == "outer"

    asyncio.run(run())
    assert seen == ["outer"] * 6


def test_plain_functions_are_called_in_threads_with_the_context(make: Make) -> None:
    def where(request: str) -> tuple[str, bool]:
        return item.get(), threading.current_thread() is threading.main_thread()

    async def run() -> Any:
        item.set("outer")
        return await make().acall(where, ["a"])

    assert asyncio.run(run()).values() == [("outer", False)]


def test_a_plain_function_that_hangs_is_abandoned(make: Make, released: threading.Event) -> None:
    caller = make(timeout_s=0.3)
    results = asyncio.run(caller.acall(Acts(released).call, ["a", "hangs", "b"]))
    assert results.values() == [("done", "a"), ("done", "b")]
    assert results.errors()[0].abandoned
    assert caller.status()["abandoned"] == {"now": 1, "total": 1}
    released.set()


def test_a_function_that_returns_an_awaitable_is_told_what_to_do(make: Make) -> None:
    async def fetch(sku: str) -> str:
        return sku

    (failure,) = asyncio.run(make().acall(lambda sku: fetch(sku.strip()), ["a"])).errors()
    assert "wrap it in FunctionBackend(fn, is_async=True)" in str(failure.error)
    wrapped: Any = FunctionBackend(lambda sku: fetch(sku.strip()), "prices", is_async=True)
    assert asyncio.run(make().acall(wrapped, ["a"])).values() == ["a"]


def test_partials_and_objects_are_seen_for_what_they_are(make: Make) -> None:
    async def fetch(prefix: str, sku: str) -> str:
        return prefix + sku

    class Client:
        async def __call__(self, sku: str) -> str:
            return sku

    assert asyncio.run(make().acall(functools.partial(fetch, "x"), ["a"])).values() == ["xa"]
    assert asyncio.run(make().acall(Client(), ["a"])).values() == ["a"]


@pytest.mark.parametrize("layers", [(), (CircuitBreaker(),), (Retry(),)], ids=["none", "plain", "retry"])
def test_code_within_finds_its_deadline(make: Make, layers: tuple[Any, ...]) -> None:
    left: list[float] = []

    async def looks(request: str) -> None:
        found = current_deadline()
        assert found is not None
        left.append(found.remaining_s())

    asyncio.run(make(timeout_s=5.0, pipeline=Pipeline("stock", *layers)).acall(looks, ["a"]))
    assert 4.0 < left[0] <= 5.0


def test_code_within_still_finds_the_request_it_serves(make: Make) -> None:
    async def looks(request: str) -> str:
        found = current_call()
        return "none" if found is None else found.pipeline

    async def run() -> Any:
        async with Pipeline("page", Deadline(5.0)).guard():
            return await make().acall(looks, ["a"])

    assert asyncio.run(run()).values() == ["page"]


def test_a_breaker_met_by_the_page_already_is_passed(make: Make) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    page, stock = Pipeline("page", breaker), Pipeline("stock", breaker)

    async def run() -> Any:
        async with page.guard():
            return await make(pipeline=stock).acall(Acts().acall, ["fails"])

    assert [failure.kind for failure in asyncio.run(run()).errors()] == [Kind.BUSINESS]
    assert breaker.state is BreakerState.CLOSED


def test_the_deadline_of_the_pipeline_counts_too(make: Make, clock: ManualClock) -> None:
    deadline = Deadline(0.5, name="stock", clock=clock)
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    caller = make(pipeline=Pipeline("stock", deadline, breaker), timeout_s=5.0)

    async def run() -> Any:
        acts = Acts()
        task = asyncio.create_task(caller.acall(acts.acall, ["hangs"]))
        await until(lambda: acts.inside == 1)
        clock.advance(0.5)
        return await task

    (failure,) = asyncio.run(run()).errors()
    assert (failure.kind, getattr(failure.error, "policy", "")) == (Kind.TIMEOUT, "stock")
    assert breaker.state is BreakerState.OPEN
    assert deadline.decisions()["expired"] == 1


def test_a_call_with_little_time_left_is_no_evidence(make: Make, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    caller = make(pipeline=Pipeline("stock", breaker), timeout_s=1.0, call_timeout_s=1.0, concurrency=1)

    async def run() -> Any:
        async def fetch(sku: str) -> str:
            if sku == "slow":
                await clock.asleep(0.8)
                return sku
            return str(await asyncio.Event().wait())

        task = asyncio.create_task(caller.acall(fetch, ["slow", "hangs"]))
        for _ in range(12):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            clock.advance(0.1)
        return await task

    results = asyncio.run(run())
    assert [result.ok for result in results] == [True, False]
    assert breaker.state is BreakerState.CLOSED


def test_requests_may_come_from_an_asynchronous_iterator(make: Make) -> None:
    async def requests() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0)
            yield number

    results = asyncio.run(make(concurrency=3).acall(Acts().acall, requests()))
    assert results.values() == [("done", number) for number in range(10)]


def test_one_that_raises_ends_the_input_and_loses_nothing(make: Make) -> None:
    async def requests() -> AsyncIterator[str]:
        yield "a"
        raise KeyError("sku")

    first, second = asyncio.run(make().acall(Acts().acall, requests()))
    assert first == Ok(("done", "a"))
    assert isinstance(second, Err)
    assert (type(second.error), type(second.error.__cause__)) == (RequestNotMade, KeyError)


def test_one_that_hangs_is_left_at_the_time_limit(make: Make) -> None:
    async def requests() -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    results = asyncio.run(make(timeout_s=0.1).acall(Acts().acall, requests()))
    assert (results.values(), results.report.stopped) == ([("done", "a")], "timeout")


def test_the_traceback_of_an_error_ends_with_the_code_that_raised(make: Make) -> None:
    async def fails(request: str) -> None:
        raise ValueError(request)

    for pipeline in (None, Pipeline("stock", CircuitBreaker())):
        (failure,) = asyncio.run(make(pipeline=pipeline).acall(fails, ["a"])).errors()
        traceback = failure.error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback is not None
        assert traceback.tb_frame.f_code.co_name == "fails"


def test_a_refused_call_begins_no_task(make: Make) -> None:
    breaker = CircuitBreaker()
    breaker.force("open")
    acts = Acts()
    results = asyncio.run(make(pipeline=Pipeline("stock", breaker)).acall(acts.acall, range(5)))
    assert acts.calls == []
    assert {type(failure.error) for failure in results.errors()} == {CircuitOpen}


@pytest.mark.parametrize("streamed", [False, True])
def test_very_many_calls_that_are_refused_at_once_let_others_on_the_loop_in(make: Make, streamed: bool) -> None:
    breaker = CircuitBreaker()
    breaker.force("open")
    caller = make(concurrency=2_000, pipeline=Pipeline("stock", breaker))
    turns = 0

    async def run() -> int:
        async def beats() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(beats())
        await asyncio.sleep(0)
        if streamed:
            found = len([settled async for settled in caller.astream(Acts().acall, range(3_000))])
        else:
            found = len((await caller.acall(Acts().acall, range(3_000))).errors())
        other.cancel()
        return found

    assert asyncio.run(run()) == 3_000
    assert turns >= 10
