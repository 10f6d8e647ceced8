"""Handlers that are plain functions, which an asyncio server runs in its thread pool, with a context that knows less."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from resilience.edges import Guarded, RouteSource
from resilience.integrations.grpc.answers import RpcAnswer
from resilience.integrations.grpc.call import Metadata
from resilience.integrations.grpc.exchange import Behavior, StreamExchange, ThreadExchange, UnaryExchange
from resilience.integrations.grpc.server import wrapped


class ThreadHandler:
    """A handler of plain functions. Each RPC gets one of its own, bound to the task that serves it: only that knows its end."""

    def __init__(self, source: RouteSource, method: str, handler: Any) -> None:
        self._source = source
        self._method = method
        self._handler = handler

    def bound_to(self, task: asyncio.Task[Any] | None) -> Any:
        """The handler for one RPC."""
        guarded = self._source.find_grpc(self._method)
        if guarded is None or task is None:
            return self._handler
        bound = task

        def wrap(behavior: Behavior, streams: bool) -> Behavior:
            def unary(request: Any, context: Any) -> Any:
                return ThreadUnaryExchange(guarded, self._method, ThreadContext(context, bound)).run(behavior, request)

            def stream(request: Any, context: Any) -> Any:
                exchange = ThreadStreamExchange(guarded, self._method, ThreadContext(context, bound), behavior, request)
                bound.add_done_callback(exchange.gone)  # here, in the thread of the loop
                return exchange

            return stream if streams else unary

        return wrapped(self._handler, wrap)


class ThreadContext:
    """The context of a handler in a thread of an asyncio server, with what servers of threads tell and that one does not."""

    __slots__ = ("_code", "_context", "_task", "_trailing")

    def __init__(self, context: Any, task: asyncio.Task[Any]) -> None:
        self._context = context
        self._task = task
        self._code: grpc.StatusCode | None = None
        self._trailing: Metadata = ()

    def is_active(self) -> bool:
        """Whether the RPC is still wanted."""
        return not self._task.done() and not self._task.cancelling()

    def code(self) -> grpc.StatusCode | None:
        """The code that was set or aborted with, or None."""
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code that the RPC ends with."""
        self._code = code
        self._context.set_code(code)

    def trailing_metadata(self) -> Metadata:
        """The trailing metadata that was set."""
        return self._trailing

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set the trailing metadata, in the place of what was set before."""
        self._trailing = tuple(metadata)
        self._context.set_trailing_metadata(metadata)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the RPC now with this status."""
        self._code = code
        self._context.abort(code, details, tuple(trailing_metadata))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class ThreadUnaryExchange(UnaryExchange):
    """One with a single response. Where its status is no OK, that is not used."""

    __slots__ = ()

    def abort(self, answer: RpcAnswer) -> None:
        _end_with(self, answer)


class ThreadStreamExchange(StreamExchange):
    """A stream that is admitted when its first message is drawn: the thread that makes it is that of the event loop."""

    __slots__ = ("_start",)

    def __init__(self, guarded: Guarded, method: str, context: ThreadContext, behavior: Behavior, request: Any) -> None:
        StreamExchange.__init__(self, guarded, method, context)
        self._start: Callable[[], None] | None = partial(self.start, behavior, request)

    def __next__(self) -> Any:
        if self._start is not None:
            start, self._start = self._start, None
            start()
        if self.context.is_active():
            message = StreamExchange.__next__(self)
            if self.context.is_active():
                return message
        # Nobody takes messages any more. A further one would hold this thread for ever: grpcio waits for room in its queue.
        self.close()
        raise StopIteration

    def abort(self, answer: RpcAnswer) -> None:
        _end_with(self, answer)


def _end_with(exchange: ThreadExchange, answer: RpcAnswer) -> None:
    """Let the RPC end so when the handler is done. `abort` would send the status at once, while the loop may be sending a message:
    the core refuses that, and the client would never hear of an end."""
    context = exchange.context
    context.set_trailing_metadata(exchange.trailing(answer))
    context.set_code(answer.code)
    context.set_details(answer.details)
