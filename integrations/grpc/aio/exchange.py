"""One RPC that is served by a task: with one response, with an asynchronous generator of them, or by a handler that writes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from resilience import DeadlineExceeded, Rejected
from resilience.edges import CURRENT, CancelTimer, Guarded, Permit, SoleCall, adrive, within
from resilience.integrations.grpc.answers import RpcAnswer, refusal_answer
from resilience.integrations.grpc.serving import Exchange

log = logging.getLogger("resilience")
Behavior = Callable[[Any, Any], Awaitable[Any]]
"""What serves a method: takes a request, or an asynchronous iterator of them, and the context."""


class TaskExchange(Exchange):
    """One with a single response, and what all kinds share."""

    __slots__ = ()

    def interrupted(self, permit: Permit | SoleCall, timer: CancelTimer | None, error: BaseException) -> RpcAnswer | None:
        """The handler raised, or was stopped. Returns how the RPC is to end instead, where that is for us to say."""
        if timer is not None:
            was_stopped = isinstance(error, asyncio.CancelledError) and timer.takes_back()
            timer.disarm()
            if was_stopped:
                error = self.time_out()
        return self.settle_error(permit, error)

    async def admitted_by_steps(self) -> Permit:
        """Take the permits of a call that is recorded, or that may have to wait."""
        pipeline, trace = self._guarded.pipeline, self.trace
        if trace is not None:
            trace.enter()
        try:
            outer = pipeline.outer
            return await adrive(outer.steps(self), pipeline.clock) if outer.has_effects else outer.admit(self)
        except BaseException:
            self.end_span()
            raise
        finally:
            if trace is not None:
                trace.exit()

    def needs_timer(self) -> bool:
        """Whether it has a deadline that gRPC does not know. At the one that the client set, gRPC itself cancels the task."""
        deadline_us = self.deadline_us
        if deadline_us is None or self._guarded.deadline is None:
            return False
        client_us = self._client_deadline_us
        return client_us is None or deadline_us < client_us

    def timer(self, begun: tuple[asyncio.Task[Any], int] | None = None) -> CancelTimer | None:
        """A timer that stops this task at the deadline; None where it needs none. `begun`: as for `CancelTimer`."""
        if self.deadline_us is None or not self.needs_timer():
            return None
        return CancelTimer(self._guarded.pipeline.clock, self.deadline_us, begun)

    def settle_error(self, permit: Permit | SoleCall, error: BaseException) -> RpcAnswer | None:
        """Settle by what the handler raised. Returns how the RPC is to end instead, where that is for us to say."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)) or _is_cancelled():
            self.settle_gone(permit)
            return None
        expiry = self.time_out() if self._expiry is not None or self.is_out_of_time() else None
        self.settle_raised(permit, error)
        if self.context.done():  # the handler has aborted it
            return None
        if expiry is None or not isinstance(error, Exception):
            return self.answer_to(error)
        if not isinstance(error, DeadlineExceeded):
            log.info("the handler raised %s while it was stopped at its deadline", type(error).__name__)
        return refusal_answer(expiry, own=True)

    async def abort(self, answer: RpcAnswer) -> None:
        """End the RPC so; raises, as `abort` does. The server keeps that error, whose traceback refers back to this call."""
        aborted = self.context.abort(answer.code, answer.details, self.trailing(answer))
        self.context = None
        await aborted


class StreamExchange(TaskExchange):
    """One with a stream of responses. It is settled by its end, or by that of its task, which the server may just cancel."""

    __slots__ = ("_permit", "_task", "_timer", "is_timed")
    _permit: Permit

    def __init__(self, guarded: Guarded, method: str, context: Any) -> None:
        TaskExchange.__init__(self, guarded, method, context)
        self.has_begun = self.is_timed = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: CancelTimer | None = None

    async def start(self) -> None:
        """Admit. From here on the call is the current one in this task, which serves no other."""
        try:
            pipeline = self._guarded.pipeline
            self._permit = pipeline.outer.admit(self) if self.begun_by(pipeline.begin) else await self.admitted_by_steps()
        except Rejected as refusal:
            await self.abort(self.refused(refusal))
        if self.trace is not None:
            self.trace.enter()
        CURRENT.set(self)
        self.is_timed = self.needs_timer()
        self._task = task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._task_done)

    async def draw(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """Take one more message from the handler, inside the deadline."""
        clock = self._guarded.pipeline.clock
        if self.deadline_us is not None and clock.now_us() >= self.deadline_us:
            raise self.time_out()
        return await within(self, self.time_out, clock, step)

    def first(self) -> None:
        """The first message is there."""
        if not self.settled:
            self.begins(self._permit)
        else:
            self.has_begun = True
        if self.deadline_us is None:
            self.is_timed = False
            if self._timer is not None:
                self._timer.disarm()
                self._timer = None

    async def write_all(self, behavior: Behavior, request: Any) -> None:
        """Await a handler that writes its messages to the context by itself."""
        self._timer = self.timer()
        try:
            await behavior(request, WritingContext(self.context, self))
        except asyncio.CancelledError as error:
            if self._timer is not None and self._timer.takes_back():
                raise self.time_out() from error
            raise
        finally:
            if self._timer is not None:
                self._timer.disarm()
                self._timer = None

    def ended(self) -> None:
        """The handler is done."""
        if not self.settled:
            self.settle_returned(self._permit)
            self._finish()

    def broke_off(self, error: BaseException) -> RpcAnswer | None:
        """The handler raised, or nobody wants more of it. Returns how the RPC is to end instead, where that is for us to say."""
        if self.settled:
            return None
        try:
            return self.settle_error(self._permit, error)
        finally:
            self._finish()

    def _task_done(self, _: object) -> None:
        if not self.settled:
            self.settle_gone(self._permit)
            self._finish()

    def _finish(self) -> None:
        del self._permit
        trace = self.trace
        if trace is not None:
            if _current_task() is self._task:  # else its context is gone with it
                trace.exit()
            self.end_span()
        self._task = None


class WritingContext:
    """The context of a handler that writes its messages: sees the first one. All else is the server's."""

    __slots__ = ("_context", "_exchange")

    def __init__(self, context: Any, exchange: StreamExchange) -> None:
        self._context = context
        self._exchange = exchange

    def write(self, message: Any) -> Awaitable[None]:
        """Send a message of the response stream."""
        if not self._exchange.has_begun:
            self._exchange.first()
        written: Awaitable[None] = self._context.write(message)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _is_cancelled() -> bool:
    task = _current_task()
    return task is not None and task.cancelling() > 0


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a callback of a loop that is closing
        return None
