"""One HTTP request on its way through a pipeline and the application: a slotted object that is also its `send`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable

from resilience import DeadlineExceeded, Rejected
from resilience.edges import (
    CURRENT,
    Guarded,
    Outcome,
    Permit,
    Timer,
    adrive,
    inbound_timeout_s,
    judge_status,
    ratelimit_fields,
    refusal_answer,
    settle_error,
)
from resilience.integrations.asgi.request import RequestCall, encoded, send_answer, text_headers
from resilience.integrations.asgi.threads import waits_for_thread
from resilience.integrations.asgi.types import App, Message, Receive, Scope, Send

log = logging.getLogger("resilience")
_US_PER_S = 1_000_000
_EVENT_STREAM = b"text/event-stream"


class HttpExchange:
    """Admits the request, runs the application inside its deadline, settles with its last body, answers refusals."""

    __slots__ = (
        "_answering",
        "_call",
        "_cancelled",
        "_cancelling",
        "_client_gone",
        "_expired",
        "_guarded",
        "_permit",
        "_receive",
        "_scope",
        "_send",
        "_start",
        "_task",
        "_timer",
    )

    def __init__(self, guarded: Guarded, scope: Scope, receive: Receive, send: Send) -> None:
        self._guarded = guarded
        self._scope = scope
        self._receive = receive
        self._send = send
        self._call = RequestCall(scope)
        self._start: Message | None = None
        self._client_gone = False
        self._expired = False
        self._cancelled = False
        self._timer: Timer | None = None
        self._answering: asyncio.Task[None] | None = None

    async def run(self, app: App) -> None:
        """Serve the request."""
        guarded, call = self._guarded, self._call
        pipeline = guarded.pipeline
        if guarded.deadline is not None:
            for name, _ in self._scope["headers"]:
                if name in guarded.deadline_headers:
                    call.timeout_s = inbound_timeout_s(guarded.deadline, text_headers(self._scope))
                    break
        is_plain = pipeline.begin(call)
        trace = call.trace
        if trace is not None:
            trace.enter()
        try:
            try:
                stage = pipeline.outer
                self._permit = stage.admit(call) if is_plain else await adrive(stage.steps(call), pipeline.clock)
            except Rejected as refusal:
                await send_answer(self._send, refusal_answer(refusal, own=True))
                return
            await self._serve(app)
        finally:
            if trace is not None:
                trace.exit()
                trace.finish()

    async def _serve(self, app: App) -> None:
        mark = CURRENT.set(self._call)
        if self._call.deadline_us is not None and self._guarded.deadline is not None:
            self._arm(self._call.deadline_us)
        try:
            await app(self._scope, self.receive, self)
        except asyncio.CancelledError:
            if not self._takes_back_cancellation():
                self._permit.settle(Outcome.IGNORED)
                raise
        except Rejected as refusal:
            await self._answer_rejected(refusal)
        except BaseException as error:
            self._settle_raised(error)
            if not (self._expired and isinstance(error, Exception)):
                raise
            self._takes_back_cancellation()
            log.info("the handler raised %s while it was stopped at its deadline", type(error).__name__)
        else:
            if self._cancelled:
                self._takes_back_cancellation()
            self._settle_returned()
        finally:
            CURRENT.reset(mark)
            if self._timer is not None:
                self._timer.cancel()
            if self._answering is not None:
                with contextlib.suppress(OSError):  # the client has gone before its 504
                    await self._answering

    # --- the application's side ---------------------------------------------------------------------------------------------

    def __call__(self, message: Message) -> Awaitable[None]:
        """The application's `send`."""
        kind = message["type"]
        if self._expired:
            return self._drop()
        if kind == "http.response.start":
            self._start = message
            if self._guarded.quota_limiters:
                self._add_fields(message)
        elif kind == "http.response.body":
            if message.get("more_body", False):
                return self._send_part(message)
            self._settle_answered()
        elif kind == "http.response.pathsend":
            self._settle_answered()
        return self._send(message)

    async def receive(self) -> Message:
        """The application's `receive`: takes note of a client that has gone before its answer was complete."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._client_gone = True
        return message

    async def _send_part(self, message: Message) -> None:
        if not self._call.settled and self._is_event_stream():
            self._release_stream()
        try:
            await self._send(message)
        except OSError:  # how a server says that the client has gone (ASGI 2.4)
            self._client_gone = True
            raise

    async def _drop(self) -> None:
        """What a handler sends after its deadline goes nowhere; one that streams is stopped at the first chance."""
        if self._start is not None:
            self._cancel()
        await asyncio.sleep(0)

    def _add_fields(self, message: Message) -> None:
        quotas = [limiter.quota(self._call) for limiter in self._guarded.quota_limiters]
        message["headers"] = [*message.get("headers", ()), *encoded(ratelimit_fields(quotas))]

    def _is_event_stream(self) -> bool:
        headers = () if self._start is None else self._start.get("headers", ())
        return any(name.lower() == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers)

    def _release_stream(self) -> None:
        """An event stream has begun: it votes now, and its deadline ends here unless it was asked to hold."""
        now_us = self._guarded.pipeline.clock.now_us()
        self._permit.vote(self._judge_start(), now_us)
        if not self._guarded.streams_have_deadline and self._timer is not None:
            self._timer.cancel()
            self._call.deadline_us = None

    # --- settling -----------------------------------------------------------------------------------------------------------

    def _judge_start(self) -> Outcome:
        if self._client_gone:
            return Outcome.IGNORED
        if self._start is None:
            return Outcome.FAILED
        self._call.status = self._start["status"]
        return judge_status(self._start["status"])

    def _settle_answered(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._permit.settle(self._judge_start())

    def _settle_returned(self) -> None:
        """The application returned without a last body: the server will make an error of that, unless the client has gone."""
        if not self._call.settled:
            self._permit.settle(self._judge_start())

    def _settle_raised(self, error: BaseException) -> None:
        if self._client_gone:
            self._permit.settle(Outcome.IGNORED)
        else:
            settle_error(self._permit, error)

    async def _answer_rejected(self, refusal: Rejected) -> None:
        """A refusal that left the handler, from an outgoing pipeline: answered here as long as nothing was sent."""
        self._settle_raised(refusal)
        if self._expired:
            self._takes_back_cancellation()
        elif self._start is not None:
            raise refusal
        else:
            await send_answer(self._send, refusal_answer(refusal, own=False))

    # --- the deadline -------------------------------------------------------------------------------------------------------

    def _arm(self, deadline_us: int) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._task = task
        self._cancelling = task.cancelling()
        clock = self._guarded.pipeline.clock
        self._timer = clock.call_later((deadline_us - self._call.now_us) / _US_PER_S, self._expire)

    def _expire(self) -> None:
        """The time is over. The client gets its 504 now, however long the handler takes to stop."""
        deadline = self._guarded.deadline
        if self._call.settled or deadline is None:
            return
        self._expired = True
        error = deadline.exceeded(self._call)
        self._record_expiry(error)
        settle_error(self._permit, error)
        if self._start is None:
            answer = send_answer(self._send, refusal_answer(error, own=True))
            self._answering = asyncio.get_running_loop().create_task(answer)
        if not waits_for_thread(self._task):
            self._cancel()

    def _record_expiry(self, error: DeadlineExceeded) -> None:
        trace = self._call.trace
        if trace is not None:
            span = trace.layer("deadline", self._guarded.pipeline.name, error.policy)
            span.end("expired", {"resilience.deadline.remaining_s": 0.0}, error)

    def _cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def _takes_back_cancellation(self) -> bool:
        """Whether the cancellation of this task is ours alone, by the rules of `asyncio.timeout`."""
        if not self._cancelled:
            return False
        self._cancelled = False
        return self._task.uncancel() <= self._cancelling
