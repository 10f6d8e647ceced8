"""One RPC that is served in a thread: with one response, or with a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, TypeVar

from resilience import Rejected
from resilience.edges import CURRENT, Call, Guarded, Permit, SoleCall, drive
from resilience.integrations.grpc.answers import RpcAnswer
from resilience.integrations.grpc.serving import Exchange

T = TypeVar("T")
Behavior = Callable[[Any, Any], Any]
"""What serves a method: takes a request, or an iterator of them, and the context."""


class ThreadExchange(Exchange):
    """What both kinds share."""

    __slots__ = ()

    def admitted(self) -> Permit:
        """Take the permits of all layers. Blocks where a limiter lets calls wait.

        Raises:
            Rejected: a layer refused.
        """
        pipeline = self._guarded.pipeline
        return pipeline.outer.admit(self) if self.begun_by(pipeline.begin) else self.admitted_by_steps()

    def admitted_by_steps(self) -> Permit:
        """The same for a call that is recorded, or that may have to wait."""
        pipeline = self._guarded.pipeline
        outer = pipeline.outer
        try:
            if outer.has_effects:
                return self.recorded(lambda: drive(outer.steps(self), pipeline.clock))
            return self.recorded(outer.admit, self)
        except BaseException:
            self.end_span()
            raise

    def abort(self, answer: RpcAnswer) -> None:
        """End the RPC so. This raises, as `abort` does, unless a subclass knows a way that does not."""
        self.context.set_trailing_metadata(self.trailing(answer))
        self.context.abort(answer.code, answer.details)

    def settle_ended(self, permit: Permit | SoleCall, error: BaseException | None = None) -> None:
        """Settle now that the handler has returned, or raised `error`."""
        if not self.context.is_active():
            self.settle_gone(permit)
        elif error is None:
            self.settle_returned(permit)
        else:
            self.settle_raised(permit, error)


class UnaryExchange(ThreadExchange):
    """One with a single response."""

    __slots__ = ()

    def run(self, behavior: Behavior, request: Any) -> Any:
        """Admit, call the handler and settle. Nothing stops a thread: a response that comes too late passes, counted as expired."""
        context = self.context
        try:
            permit = self if self.begun_by(self._guarded.pipeline.enter) else self.admitted_by_steps()
        except Rejected as refusal:
            return self.abort(self.refused(refusal))
        trace = self.trace
        if trace is not None:
            trace.enter()
        mark = CURRENT.set(self)
        try:
            response = behavior(request, context)
        except BaseException as error:
            CURRENT.reset(mark)
            self.settle_ended(permit, error)
            answer = self.answer_to(error)
            if answer is None:
                raise
            return self.abort(answer)
        else:
            CURRENT.reset(mark)
            if context.is_active():
                self.settle_returned(permit)
            else:
                self.settle_gone(permit)
            return response
        finally:
            if trace is not None:
                trace.exit()
                self.end_span()


class StreamExchange(ThreadExchange):
    """One with a stream of responses, which the server draws from it.

    A class rather than a generator: one that is never drawn from runs no `finally`. The call is the current one only while code of
    the handler runs: an asyncio server draws each message in whatever thread is free.
    """

    __slots__ = ("_is_gone", "_is_over", "_permit", "_responses", "_surroundings", "_within")

    def __init__(self, guarded: Guarded, method: str, context: Any) -> None:
        ThreadExchange.__init__(self, guarded, method, context)
        self.has_begun = False
        self._permit: Permit | None = None
        self._responses: Iterator[Any] | None = None
        self._within: Call | None = None  # a call that an earlier step has begun within this one
        self._surroundings: Context | None = None  # those of the spans, for what happens in a thread of the server
        self._is_gone = False
        self._is_over = False

    def start(self, behavior: Behavior, request: Any) -> None:
        """Admit and call the handler, whose messages are drawn later."""
        try:
            self._permit = permit = self.admitted()
        except Rejected as refusal:
            self._is_over = True
            self.abort(self.refused(refusal))
            return
        if self.trace is not None:
            self._surroundings = self.recorded(copy_context)
        if self._is_gone:
            self._settle(lambda: self.settle_gone(permit))
        try:
            self._responses = self._as_current(lambda: iter(behavior(request, self.context)))
        except BaseException as error:
            answer = self._broke_off(error)
            if answer is None:
                raise
            self.abort(answer)

    def __iter__(self) -> StreamExchange:
        return self

    def __next__(self) -> Any:
        if self._is_over or self._responses is None:
            raise StopIteration
        try:
            response = self._as_current(self._responses.__next__)
        except StopIteration:
            self._ended()
            raise
        except BaseException as error:
            answer = self._broke_off(error)
            if answer is None:
                raise
            self.abort(answer)
            raise StopIteration from None
        permit = self._permit
        if permit is None or self.settled:
            return response
        if self.deadline_us is not None and self._guarded.pipeline.clock.now_us() >= self.deadline_us:
            return self._expire(permit)
        if not self.has_begun:
            self.begins(permit)
        return response

    def close(self) -> None:
        """Whoever drew from it has had enough."""
        self._close_responses()
        self.gone()

    def gone(self, _: object = None) -> None:
        """The RPC has ended, whether all of the stream was drawn or not. May be called in any thread."""
        self._is_gone = True
        permit = self._permit
        if permit is not None and not self.settled:
            self._settle(lambda: self.settle_gone(permit))

    def _as_current(self, step: Callable[[], T]) -> T:
        if self.settled:
            return step()
        mark = CURRENT.set(self._within or self)
        try:
            return self.recorded(step)
        finally:
            within = CURRENT.get()
            self._within = None if within is self else within
            CURRENT.reset(mark)

    def _ended(self) -> None:
        self._is_over = True
        permit = self._permit
        if permit is not None and not self.settled:
            self._settle(lambda: self.settle_ended(permit))

    def _broke_off(self, error: BaseException) -> RpcAnswer | None:
        """The handler raised: answered where that is a refusal. The status of an RPC comes last, so no message is in its way."""
        self._is_over = True
        answer = self.recorded(self.answer_to, error)
        permit = self._permit
        if permit is not None and not self.settled:
            self._settle(lambda: self.settle_ended(permit, error))
        return answer

    def _expire(self, permit: Permit) -> Any:
        """The time is over while it still binds: what follows would be made for nobody."""
        self._is_over = True
        error = self.recorded(self.time_out)
        self._settle(lambda: self.settle_raised(permit, error))
        self._close_responses()
        self.abort(self.refused(error))
        raise StopIteration

    def _close_responses(self) -> None:
        close = getattr(self._responses, "close", None)
        if close is not None:
            self._as_current(close)

    def _settle(self, step: Callable[[], object]) -> None:
        surroundings = self._surroundings
        try:
            if surroundings is None:
                step()
            else:
                surroundings.copy().run(step)  # a copy: the stream may be at work in it in another thread
        finally:
            self._permit = self._within = self._surroundings = None
            self.end_span()
