"""Deadlines of ours while a handler is at work: tasks are stopped, threads cannot be, and streams let go once they have begun."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from resilience import current_call, current_deadline
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import ARITIES, FUNCTIONS, TASKS, THREADS, WRITERS, Hold, Script
from tests.integrations.grpc.server.served import Scripted, interceptor_of, serving

STREAMS = ("unary_stream", "stream_stream")
IN_TASKS = [(kind, arity) for kind in (TASKS, WRITERS) for arity in ARITIES if kind != WRITERS or arity in STREAMS]
IN_THREADS = [(kind, arity) for kind in (THREADS, FUNCTIONS) for arity in ARITIES]
LATE = ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "api")


@pytest.fixture
def hold() -> Iterator[Hold]:
    held = Hold()
    yield held
    held.let_go.set()


def serve(kind: str, arity: str, bench: Layers, script: Script) -> Any:
    return serving(kind, Scripted(kind, arity, script), interceptor_of(kind, pipeline=bench.pipeline))


def passing(bench: Layers, duration_s: float) -> Any:
    """A handler that takes so long."""
    return lambda context: bench.clock.advance(duration_s)


@pytest.mark.parametrize(("kind", "arity"), IN_TASKS)
def test_a_task_is_stopped_at_the_deadline(kind: str, arity: str, hold: Hold) -> None:
    bench = Layers()
    bench.half_open()
    with serve(kind, arity, bench, Script(hold.in_task)) as served:
        call = served.call(arity)
        assert hold.entered.wait(5)
        served.run(lambda: bench.clock.advance(5.0))
        assert call.code().name == "DEADLINE_EXCEEDED"
        assert call.details() == "api: the time for the RPC ran out"
        assert hold.cancelled.wait(5)
    assert bench.outcome() == "failed"
    assert bench.deadline.status()["expired"] == 1


@pytest.mark.parametrize(("kind", "arity"), IN_TASKS)
def test_whatever_a_task_raises_when_it_is_stopped_its_client_hears_of_the_deadline(kind: str, arity: str, hold: Hold) -> None:
    bench = Layers()
    bench.half_open()

    async def act(context: Any) -> None:
        try:
            await hold.in_task(context)
        except asyncio.CancelledError:
            raise ValueError("stopped in the middle") from None

    with serve(kind, arity, bench, Script(act)) as served:
        call = served.call(arity)
        assert hold.entered.wait(5)
        served.run(lambda: bench.clock.advance(5.0))
        assert (call.code().name, call.details()) == ("DEADLINE_EXCEEDED", "api: the time for the RPC ran out")
    assert bench.outcome() == "failed"
    assert bench.deadline.status()["expired"] == 1


class Compiled:
    """A coroutine function as Cython makes them: what it returns can be awaited, but is no coroutine of Python's own."""

    def __init__(self, fn: Any) -> None:
        self._fn = fn
        for name in ("__name__", "__code__", "__defaults__", "__kwdefaults__", "__annotations__"):
            setattr(self, name, getattr(fn, name))

    def __call__(self, request: Any, context: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self._fn(request, context))


def test_a_handler_that_is_compiled_is_stopped_at_the_deadline_too(hold: Hold) -> None:
    bench = Layers()
    bench.half_open()
    script = Script(hold.in_task)
    scripted = Scripted(TASKS, "unary_unary", script)
    scripted.handler = grpc.unary_unary_rpc_method_handler(Compiled(script.aunary))
    with serving(TASKS, scripted, interceptor_of(TASKS, pipeline=bench.pipeline)) as served:
        call = served.call("unary_unary")
        assert hold.entered.wait(5)
        served.run(lambda: bench.clock.advance(5.0))
        assert call.code().name == "DEADLINE_EXCEEDED"
        assert hold.cancelled.wait(5)
    assert bench.outcome() == "failed"


@pytest.mark.parametrize(("kind", "arity"), [cell for cell in IN_THREADS if cell[1] not in STREAMS])
def test_a_thread_passes_its_late_response_and_it_is_counted(kind: str, arity: str) -> None:
    bench = Layers()
    bench.half_open()
    with serve(kind, arity, bench, Script(passing(bench, 5.0))) as served:
        saw = served.seen(arity)
        assert (saw.code, saw.messages) == ("OK", 1)
        assert bench.outcome() == "failed"
    assert bench.deadline.status()["expired"] == 1


@pytest.mark.parametrize(("kind", "arity"), [cell for cell in IN_THREADS if cell[1] in STREAMS])
def test_a_stream_of_a_thread_that_begins_too_late_does_not_begin(kind: str, arity: str) -> None:
    bench = Layers()
    bench.half_open()
    script = Script(passing(bench, 5.0))
    with serve(kind, arity, bench, script) as served:
        saw = served.seen(arity)
        assert (saw.code, saw.reason, saw.policy) == LATE
        assert saw.messages == 0
        assert bench.outcome() == "failed"
        assert script.closed.wait(5), "the handler's generator is closed"
    assert bench.deadline.status()["expired"] == 1


@pytest.mark.parametrize(("kind", "arity"), [cell for cell in IN_THREADS + IN_TASKS if cell[1] in STREAMS])
def test_a_stream_that_has_begun_is_free_of_the_deadline(kind: str, arity: str) -> None:
    bench = Layers()
    bench.half_open()
    with serve(kind, arity, bench, Script(passing(bench, 50.0), before=1)) as served:
        saw = served.seen(arity)
        assert (saw.code, saw.messages) == ("OK", 3)
    assert bench.outcome() == "ok"
    assert bench.deadline.status()["expired"] == 0


@pytest.mark.parametrize(("kind", "arity"), [cell for cell in IN_THREADS + IN_TASKS if cell[1] in STREAMS])
def test_a_stream_is_bound_to_its_end_where_that_is_asked(kind: str, arity: str, hold: Hold) -> None:
    bench = Layers(streams=True)
    bench.half_open()
    in_task = kind not in (THREADS, FUNCTIONS)
    with serve(kind, arity, bench, Script(hold.in_task if in_task else passing(bench, 5.0), before=1)) as served:
        call = served.call(arity)
        assert next(call)
        if in_task:
            assert hold.entered.wait(5)
            served.run(lambda: bench.clock.advance(5.0))
        assert call.code().name == "DEADLINE_EXCEEDED"
        assert call.details() == "api: the time for the RPC ran out"
    assert bench.outcome() == "ok", "it has voted at its start"
    assert bench.deadline.status()["expired"] == 1


@pytest.mark.parametrize(("kind", "arity"), IN_THREADS + IN_TASKS)
def test_a_handler_knows_its_deadline_and_its_call(kind: str, arity: str) -> None:
    bench = Layers()
    known: list[Any] = []

    def act(context: Any) -> None:
        deadline, call = current_deadline(bench.clock), current_call()
        known.append((deadline and deadline.remaining_s(), call and (call.pipeline, call.attempt)))

    with serve(kind, arity, bench, Script(act)) as served:
        metadata = (("x-envoy-expected-rq-timeout-ms", "2000"), ("x-retry-attempt", "2"))
        assert served.seen(arity, metadata=metadata, timeout=30).code == "OK"
        assert served.seen(arity, timeout=30).code == "OK"
    assert known[0] == (2.0, ("api", 2)), "the earliest of all that came"
    (remaining_s, call) = known[1]
    assert 29.0 < remaining_s <= 30.1, "what the client asked for, which its core rounds up, goes before the default"
    assert call == ("api", 0)


@pytest.mark.parametrize("kind", [THREADS, TASKS])
def test_what_the_client_asks_for_is_bound_by_the_most(kind: str) -> None:
    bench = Layers()
    known: list[float] = []

    def act(context: Any) -> None:
        deadline = current_deadline(bench.clock)
        assert deadline is not None
        known.append(deadline.remaining_s())

    with serve(kind, "unary_unary", bench, Script(act)) as served:
        assert served.seen("unary_unary", timeout=3_600).code == "OK"
    assert known == [60.0]


@pytest.mark.parametrize("kind", [THREADS, TASKS])
def test_metadata_that_is_no_duration_is_counted_and_says_nothing(kind: str) -> None:
    bench = Layers()
    with serve(kind, "unary_unary", bench, Script()) as served:
        assert served.seen("unary_unary", metadata=(("connect-timeout-ms", "soon"),)).code == "OK"
    assert bench.deadline.status()["malformed_headers"] == 1


@pytest.mark.parametrize("kind", [THREADS, TASKS])
def test_a_handler_that_is_done_early_leaves_no_timer(kind: str) -> None:
    bench = Layers()
    with serve(kind, "unary_unary", bench, Script()) as served:
        assert served.seen("unary_unary").code == "OK"
        assert bench.clock.pending_timers == 0


def test_the_clients_own_deadline_needs_no_timer_of_ours() -> None:
    bench = Layers()
    pending: list[int] = []

    async def look(context: Any) -> None:
        pending.append(bench.clock.pending_timers)
        await asyncio.sleep(0)
        pending.append(bench.clock.pending_timers)

    with serve(TASKS, "unary_unary", bench, Script(look)) as served:
        assert served.seen("unary_unary", timeout=3).code == "OK"
        assert served.seen("unary_unary").code == "OK"
    assert pending == [0, 0, 0, 1], "gRPC cancels the task itself at the client's deadline; ours waits for a handler that waits"


def test_a_server_that_stops_cancels_what_is_at_work_and_that_says_nothing(hold: Hold) -> None:
    bench = Layers()
    bench.half_open()

    async def go() -> None:
        server = grpc.aio.server(
            handlers=[Scripted(TASKS, "unary_unary", Script(hold.in_task))],
            interceptors=[interceptor_of(TASKS, pipeline=bench.pipeline)],
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/shop.v1.Orders/Get")(b"")
            await asyncio.to_thread(hold.entered.wait, 5)
            await server.stop(0.05)
            assert await call.code() == grpc.StatusCode.UNAVAILABLE

    with asyncio.Runner() as runner:
        runner.run(go())
    assert bench.outcome() == "ignored"
