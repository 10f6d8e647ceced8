"""What ends in a way that nobody would write on purpose: interrupts, errors of callbacks and of adapters, strangers that cancel."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, Pipeline
from resilience.batch import BatchCaller, CallCancelled, Err, FunctionBackend, Kind, RequestNotMade
from tests.batch.acts import Acts, Fan, in_tasks

Make = Callable[..., BatchCaller]
FATAL = [KeyboardInterrupt, SystemExit]


class Interrupted(Acts):
    """Raises `error` for "stop"."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def _end(self, act: Any) -> Any:
        if act == "stop":
            raise self.error
        return super()._end(act)


@pytest.mark.parametrize("fatal", FATAL)
@pytest.mark.parametrize("guarded", [False, True])
def test_what_ends_the_process_leaves_a_call_and_the_batch(fan: Fan, make: Make, fatal: type[BaseException], guarded: bool) -> None:
    caller = make(concurrency=2, pipeline=Pipeline("stock", CircuitBreaker()) if guarded else None)
    acts = Interrupted(fatal)
    with pytest.raises(fatal):
        fan(caller, acts, ["a", "stop", *range(200)])
    for _ in range(1000):
        if not acts.inside:  # a thread may need a moment more
            break
        threading.Event().wait(0.01)
    assert (acts.inside, caller.status()["in_flight"]) == (0, 0)
    assert len(acts.calls) < 200  # no further call begins


@pytest.mark.parametrize("fatal", FATAL)
def test_it_leaves_a_request_that_is_drawn(fan: Fan, make: Make, fatal: type[BaseException]) -> None:
    def requests() -> Iterator[str]:
        yield "a"
        raise fatal

    with pytest.raises(fatal):
        fan(make(concurrency=1), Acts(), requests())


@pytest.mark.parametrize("fatal", FATAL)
def test_it_leaves_a_request_that_is_made(fan: Fan, make: Make, fatal: type[BaseException]) -> None:
    acts = Acts()

    class Picky(FunctionBackend[Any, Any]):
        def prepare(self, request: Any) -> Any:
            if request == "b":
                raise fatal
            return request

    acts.acall = acts.call = Picky(acts.acall if fan is in_tasks else acts.call)  # type: ignore[assignment, method-assign]
    caller = make(concurrency=1)
    with pytest.raises(fatal):
        fan(caller, acts, ["a", "b", "c"])
    assert caller.status()["in_flight"] == 0


@pytest.mark.parametrize("fatal", FATAL)
def test_it_leaves_a_callback(fan: Fan, make: Make, fatal: type[BaseException]) -> None:
    def told(progress: Any) -> None:
        raise fatal

    with pytest.raises(fatal):
        fan(make(concurrency=1), Acts(), ["a", "b"], on_progress=told)


def test_it_leaves_a_plain_function_in_a_batch_of_tasks(make: Make) -> None:
    async def run() -> Any:
        return await make().acall(lambda request: sys.exit(3) if request == "b" else request, "abc")

    with pytest.raises(SystemExit):
        asyncio.run(run())


def test_it_leaves_an_asynchronous_iterator(make: Make) -> None:
    async def requests() -> AsyncIterator[str]:
        yield "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(make().acall(Acts().acall, requests()))


# --- cancellations that nobody has asked for --------------------------------------------------------------------------------------


def test_requests_that_end_by_a_cancellation_do_not_seem_to_be_whole(fan: Fan, make: Make) -> None:
    def requests() -> Iterator[str]:
        yield "a"
        raise asyncio.CancelledError

    first, second = fan(make(concurrency=1), Acts(), requests())
    assert first.ok
    assert isinstance(second, Err)
    assert (second.kind, type(second.error)) == (Kind.BUSINESS, RequestNotMade)


def test_nor_do_those_of_an_asynchronous_iterator(make: Make) -> None:
    async def requests() -> AsyncIterator[str]:
        yield "a"
        raise asyncio.CancelledError

    first, second = asyncio.run(make().acall(Acts().acall, requests()))
    assert first.ok
    assert isinstance(second, Err)
    assert type(second.error) is RequestNotMade


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("debug", [False, True], ids=["plain loop", "debugged loop"])
def test_a_task_that_a_stranger_cancels_before_its_first_step_is_settled_at_once(make: Make, guarded: bool, debug: bool) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=0.001)
    acts = Acts()

    async def run() -> Any:
        caller = make(pipeline=Pipeline("stock", Deadline(30.0), breaker) if guarded else None)
        before = asyncio.all_tasks()
        batch = asyncio.create_task(caller.acall(acts.acall, ["a", "b"]))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - before - {batch}:
            task.cancel()
        return await batch

    results = asyncio.run(run(), debug=debug)
    assert acts.calls == []
    assert [(failure.kind, type(failure.error)) for failure in results.errors()] == [(Kind.CANCELLED, CallCancelled)] * 2
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("guarded", [False, True])
def test_eager_tasks_are_tasks(make: Make, guarded: bool) -> None:
    async def run() -> Any:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]

        async def at_once(request: str) -> str:
            return request

        caller = make(concurrency=2, timeout_s=0.2, pipeline=Pipeline("stock", CircuitBreaker()) if guarded else None)
        assert (await caller.acall(at_once, "abcde")).values() == [*"abcde"]
        return await caller.acall(Acts().acall, ["a", "hangs", "b"])

    results = asyncio.run(run())
    assert [result.ok for result in results] == [True, False, True]


# --- adapters and requests that raise ---------------------------------------------------------------------------------------------


def test_an_adapter_that_cannot_tell_whether_to_repeat_is_not_asked_to(
    fan: Fan, make: Make, caplog: pytest.LogCaptureFixture, released: threading.Event
) -> None:
    acts = Acts(released)

    class Unsure(FunctionBackend[Any, Any]):
        def may_hedge(self, request: Any) -> bool:
            raise RuntimeError("no idea")

    acts.acall = acts.call = Unsure(acts.acall if fan is in_tasks else acts.call)  # type: ignore[assignment, method-assign]
    results = fan(make(hedge_after_s=0.02, timeout_s=0.1), acts, ["a", "hangs"])
    assert [result.ok for result in results] == [True, False]
    assert ([failure.kind for failure in results.errors()], results.report.hedged) == ([Kind.TIMEOUT], 0)
    assert "cannot tell whether a request may be sent a second time" in caplog.text


class Torn:
    """Raises when it is taken apart."""

    def __iter__(self) -> Iterator[Any]:
        raise KeyError("sku")


def test_a_pair_that_raises_when_it_is_taken_apart_fails_alone(make: Make) -> None:
    first, second, third = make().call([(str, 1), Torn(), (str, 2)])  # type: ignore[list-item]
    assert (first.ok, third.ok) == (True, True)
    assert isinstance(second, Err)
    assert isinstance(second.error.__cause__, KeyError)


def test_more_requests_than_can_be_counted(make: Make) -> None:
    stream = make(concurrency=2).stream(int, range(1 << 70))
    found = {next(stream).index for _ in range(2)}
    assert len(found) == 2
    assert max(found) < 100, "no more are drawn than results wait, however long one of the first takes"
    stream.close()  # type: ignore[attr-defined]
