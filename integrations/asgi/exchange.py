"""One HTTP request on its way through a pipeline and the application: a slotted object that is also its call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio import current_task
from collections.abc import Awaitable, Iterable
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Final

from resilience import Rejected
from resilience.edges import (
    CURRENT,
    Answers,
    Guarded,
    Outcome,
    Permit,
    Slot,
    SoleCall,
    adrive,
    judge_error,
    judge_relayed,
    judge_status,
    ratelimit_fields,
    read_inbound,
    relayed_in,
    resumed,
    settle_error,
    wheel_of,
)
from resilience.integrations.asgi.request import RequestCall, encoded, send_answer, text_headers
from resilience.integrations.asgi.threads import waits_for_thread
from resilience.integrations.asgi.types import App, Message, Receive, Scope, Send

log = logging.getLogger("resilience")
_NOTHING: Final = (None,) * 5  # to unpack this takes two thirds of the steps of one assignment after the other
_CONTENT_TYPE: Final = b"content-type"
_LENGTH: Final = len(_CONTENT_TYPE)
_EVENT_STREAM: Final = b"text/event-stream"


class HttpExchange(RequestCall, SoleCall):
    """Admits the request, runs the application inside its deadline, settles with its last body, answers refusals.

    Where no layer needs a driver it is its own permit. All that settles it happens in the thread
    of its loop, but for an application that calls `send` in another.
    """

    __slots__ = (
        "_answering",
        "_cancelled",
        "_cancelling",
        "_client_gone",
        "_context",
        "_expired",
        "_guarded",
        "_permit",
        "_receive",
        "_send",
        "_slot",
        "_start",
        "_task",
    )
    name = "the request"
    retrying = False  # what a server is asked is not tried again
    _permit: Permit | SoleCall
    _task: asyncio.Task[None]  # set where there is a deadline, as `_cancelling`; `_context` with the timer
    _context: Context
    _cancelling: int
    _cancelled: bool  # set when the timer fires, as `_answering`
    _answering: asyncio.Task[None] | None

    def __init__(self, guarded: Guarded, scope: Scope, receive: Receive, send: Send) -> None:
        # What `Call` writes, written out, but for `held`, which `enter` does: it is made for every request.
        self.now_us = self.attempt = 0
        self.deadline_counts = True
        self.settled = False
        self.key, self.cost, self.timeout_s, self.deadline_us, self.response_us = _NOTHING
        self.parent, self.pipeline, self.error, self.status, self.trace = _NOTHING
        self.scope = scope
        self._guarded = guarded
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._slot: Slot | None = None
        self._client_gone = self._expired = False

    @property
    def answers(self) -> Answers:
        return self._guarded.answers

    def run(self, app: App) -> Awaitable[None]:
        """Serve the request."""
        guarded = self._guarded
        read = guarded.inbound_headers
        for name, _ in self.scope["headers"]:
            if name in read:
                read_inbound(guarded, self, text_headers(self.scope))
                break
        pipeline = guarded.pipeline
        try:
            if pipeline.enter(self):
                self._permit = self
                return self._serve(app)
            trace = self.trace
            if trace is None or trace.has_own_span or pipeline.outer.has_effects:
                return self._run_with_effects(app)
            self._permit = pipeline.outer.enter(self)
        except Rejected as refusal:
            return self._refuse(refusal)
        return self._serve(app)

    async def _run_with_effects(self, app: App) -> None:
        """The same for a call that has a span of its own, or that may have to wait."""
        pipeline, trace = self._guarded.pipeline, self.trace
        outer = pipeline.outer
        if trace is not None:
            trace.enter()
        try:
            self._permit = await adrive(outer.steps(self), pipeline.clock) if outer.has_effects else outer.enter(self)
        except Rejected as refusal:
            await self._refuse(refusal)
        else:
            await self._serve(app)
        finally:
            if trace is not None:
                trace.exit()
                trace.finish()

    async def _refuse(self, refusal: Rejected) -> None:
        await send_answer(self._send, self.answers.to(refusal, own=True))

    async def _serve(self, app: App) -> None:  # noqa: C901, PLR0912  # one coroutine: each would cost every request its own
        mark = None
        try:
            context: Context | None = None
            if self.deadline_us is not None and self._guarded.deadline is not None:
                task = current_task()
                if task is not None:
                    self._task, self._cancelling = task, task.cancelling()
                    context = copy_context()  # before the call is the current one, which the context would hold
            mark = CURRENT.set(self)
            serving = app(self.scope, self.receive, self.send)
            if context is None:
                await serving
            elif type(serving) is not CoroutineType:
                self._arm(context)
                await serving
            else:
                try:
                    awaited = serving.send(None)  # nothing can cancel it before it waits: until then it needs no timer
                except StopIteration:
                    pass
                else:
                    rest = resumed(serving, awaited)
                    del awaited  # it may have a result, which is the application's alone
                    self._arm(context)
                    await rest
        except BaseException as error:
            if not await self._handled(error):
                raise
        else:
            if not self.settled:
                self._settle_by_start()
        finally:
            if mark is not None:
                CURRENT.reset(mark)
            if self._slot is not None:
                self._disarm()
            if self._expired:
                await self._finish_expiry()
            del self._permit  # the two refer to each other, and need not wait for the collector

    async def _handled(self, error: BaseException) -> bool:
        """Settle by what the application raised. False: it goes on to the server."""
        if isinstance(error, asyncio.CancelledError):
            self._permit.settle(Outcome.IGNORED)
            return self._takes_back_cancellation()
        if self._client_gone:
            self._permit.settle(Outcome.IGNORED)
        else:
            settle_error(self._permit, error, judge_relayed if self._start is None else judge_error)
        if self._expired:
            self._takes_back_cancellation()
            log.info("the handler raised %s while it was stopped at its deadline", type(error).__name__)
            return isinstance(error, Exception)
        refusal = relayed_in(error) if self._start is None else None
        if refusal is None:
            return False
        # A refusal by an outgoing pipeline, or by a service further in, left the handler: answered as long as nothing was sent.
        await send_answer(self._send, self.answers.to(refusal, own=False))
        return True

    # --- the application's side ---------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """The application's `send`."""
        kind = message["type"]
        if self._expired:
            return self._drop(message)
        if kind == "http.response.start":
            self._start = message
            return self._send_start(message)
        if kind == "http.response.body":
            if message.get("more_body", False):
                return self._send_part(message)
        elif kind != "http.response.pathsend":
            return self._send(message)
        slot = self._slot
        if slot is not None:  # `_disarm`, written out
            self._slot = None
            slot.leave(self)
        if not self.settled:
            self._settle_by_start()
        return self._send(message)

    async def receive(self) -> Message:
        """The application's `receive`: takes note of a client that has gone before its answer was complete."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._client_gone = True
        return message

    async def _send_start(self, message: Message) -> None:
        guarded = self._guarded
        headers = message.get("headers", ())
        if guarded.times_start:
            self.response_us = guarded.pipeline.clock.now_us()
        if guarded.quota_limiters or type(headers) is not list:  # the message is the application's: it may send it again
            headers = [*headers, *self._fields()]
            message = {**message, "headers": headers}
        if _begins_event_stream(headers):
            self._release_stream()
        try:
            await self._send(message)
        except OSError:
            self._client_gone = True
            raise

    async def _send_part(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # how a server says that the client has gone (ASGI 2.4)
            self._client_gone = True
            raise

    async def _drop(self, message: Message) -> None:
        """What a handler sends after its deadline goes nowhere; one that streams on is stopped at the first chance."""
        if self._start is not None or message.get("more_body", False):
            if self._cancelled:
                raise ConnectionAbortedError("the deadline of this request has passed")
            self._cancel()
        await asyncio.sleep(0)

    def _fields(self) -> list[tuple[bytes, bytes]]:
        quotas = [limiter.quota(self) for limiter in self._guarded.quota_limiters]
        return encoded(ratelimit_fields(quotas)) if quotas else []

    def _release_stream(self) -> None:
        """An event stream has begun: it votes now, and its deadline ends here unless it was asked to hold."""
        now_us = self._guarded.pipeline.clock.now_us()
        self._permit.vote(self._judge_start(), now_us)
        if not self._guarded.streams_have_deadline:
            self._disarm()
            self.deadline_us = None

    # --- settling -----------------------------------------------------------------------------------------------------------

    def _judge_start(self) -> Outcome:
        if self._client_gone:
            return Outcome.IGNORED
        if self.error is not None:  # a refusal that the framework's handler turned into this response
            return judge_relayed(self, self.error)
        if self._start is None:
            return Outcome.FAILED
        self.status = self._start["status"]
        return judge_status(self._start["status"])

    def _settle_by_start(self) -> None:
        """The application is done. Without a start the server will make an error of that, unless the client has gone."""
        start = self._start
        if start is None or self.error is not None or self._client_gone:
            self._permit.settle(self._judge_start())
            self.error = None  # its traceback refers back to the call
        else:
            self.status = status = start["status"]
            self._permit.settle(judge_status(status))

    # --- the deadline -------------------------------------------------------------------------------------------------------

    def _arm(self, context: Context) -> None:
        deadline_us = self.deadline_us
        if deadline_us is None or self.settled:  # its first step has begun an event stream, or sent the whole response
            return
        self._context = context
        self._slot = wheel_of(self._task.get_loop(), self._guarded.pipeline.clock).join(self, deadline_us)

    def _disarm(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.leave(self)

    def expire(self) -> None:
        """Called by the timer, which others share: what follows belongs into this request's own context."""
        self._context.run(self._expire)

    def _expire(self) -> None:
        """The time is over. The client gets its 504 now, however long the handler takes to stop."""
        timeout = self._guarded.pipeline.outer.timeout
        if self.settled or timeout is None:
            return
        self._expired = True
        self._cancelled = False
        self._answering = None
        error = timeout(self)
        settle_error(self._permit, error)
        self.settled = False  # until the handler has ended: what it still does, in a thread say, sees that its time is over
        if self._start is None:
            answer = send_answer(self._send, self.answers.to(error, own=True))
            self._answering = asyncio.get_running_loop().create_task(answer)
        if not waits_for_thread(self._task):
            self._cancel()

    async def _finish_expiry(self) -> None:
        """See the 504 through. A handler that swallowed the cancellation leaves it to be taken back here."""
        self.settled = True
        self._takes_back_cancellation()
        if self._answering is not None:
            with contextlib.suppress(OSError):  # the client has gone before its 504
                await self._answering

    def _cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def _takes_back_cancellation(self) -> bool:
        """Whether the cancellation of this task is ours alone, by the rules of `asyncio.timeout`."""
        if not self._expired or not self._cancelled:
            return False
        self._cancelled = False
        return self._task.uncancel() <= self._cancelling


def _begins_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name == _CONTENT_TYPE or (len(name) == _LENGTH and name.lower() == _CONTENT_TYPE):
            return value.lower().startswith(_EVENT_STREAM)
    return False
