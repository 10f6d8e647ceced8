"""One websocket on its way through a pipeline: its handshake passes limiter and breaker, and votes when it is accepted."""

from __future__ import annotations

from typing import Final

from resilience import Rejected
from resilience.edges import (
    CURRENT,
    Answer,
    Guarded,
    Outcome,
    Permit,
    adrive,
    judge_error,
    judge_relayed,
    judge_status,
    relayed_in,
    settle_error,
    within,
)
from resilience.integrations.asgi.request import RequestCall, send_answer
from resilience.integrations.asgi.types import App, Message, Receive, Scope, Send

DENIAL: Final = "websocket.http.response"
_TRY_AGAIN_LATER: Final = 1013
_FORBIDDEN: Final = 403


class WebsocketExchange:
    """Admits the handshake and settles when the application is done. Exempt from the deadline unless it was asked to hold."""

    __slots__ = ("_call", "_guarded", "_is_accepted", "_is_over", "_permit", "_receive", "_scope", "_send")

    def __init__(self, guarded: Guarded, scope: Scope, receive: Receive, send: Send) -> None:
        self._guarded = guarded
        self._scope = scope
        self._receive = receive
        self._send = send
        self._call = RequestCall(scope)
        self._is_accepted = False
        self._is_over = False

    async def run(self, app: App) -> None:
        """Serve the websocket."""
        call, pipeline = self._call, self._guarded.pipeline
        pipeline.begin(call)
        trace = call.trace
        if trace is not None:
            trace.enter()
        try:
            stage = pipeline.outer
            try:
                self._permit: Permit = await adrive(stage.steps(call), pipeline.clock) if stage.has_effects else stage.admit(call)
            except Rejected as refusal:
                await self._receive()  # the server's websocket.connect: nobody else will take it
                await self._deny(self._guarded.answers.to(refusal, own=True))
                return
            await self._serve(app)
        finally:
            if trace is not None:
                trace.exit()
                trace.finish()

    async def _serve(self, app: App) -> None:
        guarded, call = self._guarded, self._call
        if not guarded.streams_have_deadline:
            call.deadline_us = None
        timeout = guarded.pipeline.outer.timeout
        mark = CURRENT.set(call)
        try:
            await within(call, timeout, guarded.pipeline.clock, lambda: app(self._scope, self.receive, self))
        except Exception as error:
            settle_error(self._permit, error, judge_error if self._is_over else judge_relayed)
            refusal = None if self._is_over else relayed_in(error)
            if refusal is None:
                raise
            await self._deny(guarded.answers.to(refusal, own=False))
        except BaseException as error:
            settle_error(self._permit, error)
            raise
        else:
            answered = self._is_accepted or self._is_over
            self._permit.settle(Outcome.OK if answered else Outcome.FAILED)  # without an answer the server makes a 500 of it
        finally:
            CURRENT.reset(mark)

    async def receive(self) -> Message:
        """The application's `receive`: takes note of a client that has gone."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._is_over = True
            if not self._is_accepted:
                self._permit.settle(Outcome.IGNORED)
        return message

    async def __call__(self, message: Message) -> None:
        """The application's `send`."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._is_accepted = True
            self._vote(Outcome.OK)
        elif kind == "websocket.close":
            if not self._is_accepted:
                self._vote(judge_status(_FORBIDDEN))
            self._is_over = True
        elif kind == f"{DENIAL}.start":
            self._vote(judge_status(message["status"]))
            self._is_over = True
        await self._send(message)

    def _vote(self, outcome: Outcome) -> None:
        self._permit.vote(outcome, self._guarded.pipeline.clock.now_us())

    async def _deny(self, answer: Answer) -> None:
        """Answer a handshake by HTTP where the server can, else close; an open websocket is closed."""
        if self._is_accepted or DENIAL not in (self._scope.get("extensions") or {}):
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "try again later"})
        else:
            await send_answer(self._send, answer, "websocket.http")
