"""Results as they come, from as many requests as there may be, with only a few at a time in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest

from resilience import CircuitBreaker, Pipeline, current_deadline
from resilience.batch import BatchCaller, Kind, Ok, Settled
from resilience.testing import ManualClock
from tests.batch.acts import TIMEOUT_S, Acts, eventually

Make = Callable[..., BatchCaller]
Streamed = Callable[..., list[Settled[Any, Any]]]


def astreamed(caller: BatchCaller, acts: Acts, requests: Iterable[Any], *, most: int | None = None) -> list[Settled[Any, Any]]:
    async def run() -> list[Settled[Any, Any]]:
        found = []
        async with contextlib.aclosing(caller.astream(acts.acall, requests)) as stream:  # type: ignore[type-var]
            async for settled in stream:
                found.append(settled)
                if len(found) == most:
                    break
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    return asyncio.run(run())


def streamed(caller: BatchCaller, acts: Acts, requests: Iterable[Any], *, most: int | None = None) -> list[Settled[Any, Any]]:
    with contextlib.closing(caller.stream(acts.call, requests)) as stream:  # type: ignore[type-var]
        return list(itertools.islice(stream, most))


both = pytest.mark.parametrize("stream", [astreamed, streamed], ids=["tasks", "threads"])


@both
def test_each_result_says_of_which_request_it_is(stream: Streamed, make: Make) -> None:
    found = stream(make(concurrency=3), Acts(), ["a", "fails", "b", "open"])
    assert sorted((settled.index, settled.request, settled.result.ok) for settled in found) == [
        (0, "a", True),
        (1, "fails", False),
        (2, "b", True),
        (3, "open", False),
    ]


@both
def test_quick_ones_overtake_slow_ones(stream: Streamed, make: Make, released: threading.Event) -> None:
    found = stream(make(concurrency=2, timeout_s=0.25), Acts(released), ["hangs", "a", "b", "c"])
    assert [settled.index for settled in found] == [1, 2, 3, 0]
    assert found[-1].result.kind is Kind.TIMEOUT  # type: ignore[union-attr]


@both
def test_no_requests_are_no_results(stream: Streamed, make: Make) -> None:
    assert stream(make(), Acts(), []) == []


@both
def test_no_more_is_drawn_than_its_reader_keeps_up_with(stream: Streamed, make: Make) -> None:
    drawn = 0

    def endless() -> Iterator[int]:
        nonlocal drawn
        for number in itertools.count():
            drawn += 1
            yield number

    acts = Acts()
    found = stream(make(concurrency=4), acts, endless(), most=20)
    assert len({settled.index for settled in found}) == 20
    assert drawn <= 20 + 2 * 4
    assert (acts.inside, acts.peak <= 4) == (0, True)


@both
def test_a_reader_who_leaves_leaves_nothing_behind(stream: Streamed, make: Make, released: threading.Event) -> None:
    released.set()  # threads cannot be told to end
    caller, acts = make(concurrency=4), Acts(released)
    assert len(stream(caller, acts, ["a", "hangs", "hangs", "hangs", "b"], most=1)) == 1
    assert caller.status()["in_flight"] == 0
    assert caller.status()["batches"]["cancelled"] == 1
    assert caller.status()["abandoned"]["now"] == 0


@both
def test_at_the_time_limit_a_collection_is_settled_to_its_end(stream: Streamed, make: Make, released: threading.Event) -> None:
    found = stream(make(concurrency=1, timeout_s=0.1), Acts(released), ["hangs"] + ["a"] * 50)
    assert sorted(settled.index for settled in found) == list(range(51))
    assert not any(settled.result.ok for settled in found)


@both
def test_and_an_iterator_which_may_be_endless_is_left(stream: Streamed, make: Make, released: threading.Event) -> None:
    found = stream(make(concurrency=1, timeout_s=0.1), Acts(released), itertools.repeat("hangs"))
    assert [settled.index for settled in found] == [0]


def test_an_asynchronous_iterator_feels_the_back_pressure(make: Make) -> None:
    drawn = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal drawn
        for number in itertools.count():
            drawn += 1
            yield number

    found = astreamed(make(concurrency=4), Acts(), endless(), most=20)  # type: ignore[arg-type]
    assert len(found) == 20
    assert drawn <= 20 + 2 * 4 + 1


def test_requests_that_come_slowly_hold_up_no_results(make: Make) -> None:
    async def run() -> None:
        asked = asyncio.Event()

        async def requests() -> AsyncIterator[str]:
            yield "a"
            await asked.wait()
            yield "b"

        async with contextlib.aclosing(make().astream(Acts().acall, requests())) as stream:  # type: ignore[type-var]
            first = await anext(stream)
            assert first.result == Ok(("done", "a"))
            asked.set()
            assert [settled.request async for settled in stream] == ["b"]

    asyncio.run(run())


def test_pairs_can_be_streamed(make: Make) -> None:
    acts = Acts()
    found = list(make().stream([(acts.call, "a"), (acts.call, "b")]))
    assert sorted(settled.request for settled in found) == ["a", "b"]

    async def run() -> list[Any]:
        return [settled.request async for settled in make().astream([(acts.acall, "a"), (acts.call, "b")])]

    assert sorted(asyncio.run(run())) == ["a", "b"]


def test_calls_that_are_refused_at_once_reach_a_reader_that_waits(make: Make) -> None:
    breaker = CircuitBreaker()
    breaker.force("open")
    caller = make(concurrency=4, pipeline=Pipeline("stock", breaker))

    async def run() -> int:
        async def requests() -> AsyncIterator[int]:
            for number in range(50):
                yield number

        return len([settled async for settled in caller.astream(Acts().acall, requests())])

    async def bounded() -> int:
        return await asyncio.wait_for(run(), TIMEOUT_S)

    assert asyncio.run(bounded()) == 50


@both
def test_no_more_results_wait_than_calls_may_be_in_flight(stream: Streamed, make: Make) -> None:
    """Whoever reads slowly finds at most as many."""
    acts, waiting = Acts(), []
    caller = make(concurrency=4)

    def requests() -> Iterator[int]:
        for number in itertools.count():
            waiting.append(number)
            yield number

    if stream is streamed:
        reader = caller.stream(acts.call, requests())
        next(reader)
        threading.Event().wait(0.05)
        assert len(waiting) <= 4 + 1
        reader.close()  # type: ignore[attr-defined]
        return

    async def run() -> None:
        async with contextlib.aclosing(caller.astream(acts.acall, requests())) as reader:  # type: ignore[type-var]
            await anext(reader)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(waiting) <= 4 + 1

    asyncio.run(run())


def test_requests_that_are_slow_to_draw_hold_up_no_results(make: Make) -> None:
    drawn: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(2_000):
            threading.Event().wait(0.001)
            drawn.append(number)
            yield number

    stream = make(concurrency=2_000, threads=2).stream(Acts().call, requests())
    assert next(stream).index == 0
    assert len(drawn) < 2_000
    stream.close()  # type: ignore[attr-defined]


def test_each_call_has_its_whole_time_however_long_the_next_takes_to_draw(make: Make, clock: ManualClock) -> None:
    begun = threading.Semaphore(0)

    def requests() -> Iterator[int]:
        for number in range(10):
            if number:
                assert begun.acquire(timeout=TIMEOUT_S)
            clock.advance(0.5)
            yield number

    left: list[float] = []

    def call(number: int) -> int:
        deadline = current_deadline(clock)
        assert deadline is not None
        left.append(deadline.remaining_s())
        begun.release()
        return number

    results = make(concurrency=10, call_timeout_s=1.0, clock=clock).call(call, requests())
    assert left == [1.0] * 10
    assert [result.ok for result in results] == [True] * 10


def test_no_call_begins_after_the_limit_though_its_request_is_drawn_late(make: Make, clock: ManualClock) -> None:
    begun = threading.Semaphore(0)
    calls: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(10):
            if 0 < number <= 3:
                assert begun.acquire(timeout=TIMEOUT_S)
            clock.advance(0.5)
            yield number

    def call(number: int) -> None:
        calls.append(number)
        begun.release()

    results = make(concurrency=10, timeout_s=2.0, clock=clock).call(call, requests())
    assert sorted(calls) == [0, 1, 2]
    assert (len(results), results.report.stopped) == (10, "timeout")


def test_what_ended_in_time_is_not_late_because_its_reader_is(make: Make, clock: ManualClock) -> None:
    caller = make(concurrency=2, call_timeout_s=1.0, clock=clock)
    stream = caller.stream(Acts().call, ["a", "fails"])
    found = [next(stream)]
    caller.close()
    eventually(lambda: caller.status()["threads"] == 0)  # both calls have ended
    clock.advance(5.0)
    found += stream
    assert sorted((settled.request, settled.result.ok) for settled in found) == [("a", True), ("fails", False)]
    (failure,) = (settled.result for settled in found if not settled.result.ok)
    assert failure.kind is Kind.BUSINESS
