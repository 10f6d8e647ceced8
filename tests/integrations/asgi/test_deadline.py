"""The deadline: kept by cancellation, answered 504 on time however the handler takes it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilience import Deadline, DeadlineExceeded, Pipeline, current_deadline
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import Bench, answering, with_lifespan
from tests.integrations.asgi.conversation import Conversation, Message, run, turns
from tests.integrations.asgi.server import TIMEOUT_S, received, serving


class Stubborn:
    """A handler that waits until it is cancelled, and then takes as long to stop as the test likes."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.stopped = threading.Event()
        self.may_stop: asyncio.Event
        self.loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop, self.may_stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await self.may_stop.wait()
            self.stopped.set()
            raise


def on_real_time(handler: Any) -> ResilienceMiddleware:
    """`handler` behind a deadline of the real clock."""
    return ResilienceMiddleware(with_lifespan(handler), pipeline=Pipeline("api", Deadline(30.0, name="api")))


def test_a_deadline_header_cancels_the_handler_and_504_does_not_wait_for_its_cleanup() -> None:
    handler = Stubborn()
    with serving(on_real_time(handler)) as server:
        response = server.get("/orders", x_envoy_expected_rq_timeout_ms="50")
        assert response.status_code == 504
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["reason"] == "expired"
        assert handler.cancelled.wait(TIMEOUT_S)
        assert not handler.stopped.is_set()  # the answer was there before the handler had stopped
        handler.loop.call_soon_threadsafe(handler.may_stop.set)
        assert handler.stopped.wait(TIMEOUT_S)
        assert server.get("/orders", x_envoy_expected_rq_timeout_ms="0").status_code == 504


def test_after_the_response_started_the_handler_is_stopped_and_the_connection_is_cut() -> None:
    cancelled = threading.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"first part;", "more_body": True})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    request = "GET / HTTP/1.1\nhost: x\ngrpc-timeout: 50m\n"
    with serving(on_real_time(handler)) as server, server.socket(request) as connection:
        answer = received(connection)  # ends when the server closes, and never with 100 bytes
    assert cancelled.is_set()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"first part;")
    assert b"504" not in answer


def test_an_instant_before_the_deadline_nothing_happens() -> None:
    bench, answer = Bench(), asyncio.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await answer.wait()
        await answering()(scope, receive, send)

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler)).start()
        await turns()
        bench.clock.advance(4.999999)
        await turns()
        assert talk.sent == []
        answer.set()
        await talk.task
        assert talk.status == 200
        bench.clock.advance(10.0)
        await turns()
        assert talk.is_complete

    run(scenario())
    assert bench.clock.pending_timers == 0


async def _waits_for_ever(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def _swallows_cancellation(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def _answers_after_all(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await answering(201)(scope, receive, send)


async def _raises_after_all(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise ValueError("while it was cleaning up")


async def _is_refused_after_all(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        raise DeadlineExceeded("payments: too late", policy="payments", reason="expired") from error


async def _waits_in_a_group(scope: Any, receive: Any, send: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.Event().wait())
        group.create_task(asyncio.Event().wait())


@pytest.mark.parametrize(
    "handler",
    [
        _waits_for_ever,
        _swallows_cancellation,
        _answers_after_all,
        _raises_after_all,
        _is_refused_after_all,
        _waits_in_a_group,
    ],
)
def test_however_the_handler_ends_the_client_gets_one_504(handler: Callable[..., Awaitable[None]]) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        async def outer(scope: Any, receive: Any, send: Any) -> None:
            await bench.guard(handler)(scope, receive, send)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0  # the cancellation was ours, and was taken back
            await asyncio.sleep(0)

        talk = Conversation(outer).start()
        await turns()
        bench.clock.advance(5.0)
        await talk.task
        assert (talk.status, talk.is_complete) == (504, True)

    run(scenario())
    assert bench.outcome() == "failed"
    assert bench.deadline.decisions() == {"admitted": 1, "expired": 1}
    assert bench.clock.pending_timers == 0


def test_a_cancellation_from_elsewhere_in_the_same_instant_is_not_swallowed() -> None:
    bench = Bench()

    async def scenario() -> None:
        talk = Conversation(bench.guard(_waits_for_ever)).start()
        await turns()
        bench.clock.advance(5.0)
        talk.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.task

    run(scenario())


def test_the_deadline_is_void_for_tasks_that_outlive_the_call() -> None:
    bench, seen, tasks = Bench(), [], []
    after = asyncio.Event()

    async def later() -> None:
        await after.wait()
        seen.append(current_deadline(bench.clock))

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await answering()(scope, receive, send)

    async def scenario() -> None:
        await Conversation(bench.guard(handler)).run()
        after.set()
        await tasks[0]

    run(scenario())
    assert seen == [None]


def test_an_outgoing_call_is_bounded_by_what_is_left() -> None:
    bench, seen = Bench(), []
    outgoing = Pipeline("payments", Deadline(60.0, name="payments", clock=bench.clock))

    async def charge() -> None:
        deadline = current_deadline(bench.clock)
        assert deadline is not None
        seen.append(deadline.remaining_s())

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        bench.clock.advance(2.0)
        await outgoing.acall(charge)
        await answering()(scope, receive, send)

    run(Conversation(bench.guard(handler)).run())
    assert seen == [3.0]


def test_a_handler_that_catches_the_cancellation_and_sends_on_is_stopped_at_its_next_message() -> None:
    bench, sends = Bench(), 0

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sends
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        while True:
            sends += 1
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler)).start()
        await turns()
        bench.clock.advance(5.0)
        await talk.task
        assert (talk.status, talk.body, talk.is_complete) == (200, b"", False)

    run(scenario())
    assert sends == 1


def test_a_client_that_has_gone_before_its_504_is_no_error() -> None:
    bench = Bench()

    async def scenario() -> None:
        talk = Conversation(bench.guard(_waits_for_ever)).start()
        await turns()
        talk.gone = ConnectionResetError("the client has gone")
        bench.clock.advance(5.0)
        await talk.task
        assert talk.sent == []

    run(scenario())


def test_what_a_streaming_handler_sends_after_its_deadline_goes_nowhere() -> None:
    bench = Bench()
    sends = 0

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sends
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            sends += 1
            if sends == 3:
                bench.clock.advance(5.0)
                await asyncio.sleep(0)  # the event loop turns, and finds the timer due
            part: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
            await send(part)

    async def scenario() -> None:
        talk = await Conversation(bench.guard(handler)).run()
        assert (talk.status, talk.body, talk.is_complete) == (200, b"xx", False)

    run(scenario())
    assert sends <= 3


@pytest.mark.parametrize("waits_first", [False, True])
def test_a_request_that_is_cancelled_before_it_first_waits_stays_cancelled_whatever_its_deadline_does(waits_first: bool) -> None:
    clock = ManualClock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if waits_first:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            clock.advance(2.0)  # the deadline passes while it cleans up
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    async def scenario() -> tuple[bool, Any]:
        conversation = Conversation(ResilienceMiddleware(app, pipeline=Pipeline("api", Deadline(1.0, clock=clock))))
        conversation.start()
        await asyncio.wait([conversation.task])
        return conversation.task.cancelled(), conversation.sent[0]["status"]

    assert run(scenario()) == (True, 504)
