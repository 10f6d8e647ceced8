"""Handlers of every kind that do what a script says: in threads, in tasks, and as plain functions of an asyncio server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

RESPONSE = b"response"
ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
THREADS, TASKS, WRITERS, FUNCTIONS = "threads", "tasks", "tasks that write", "functions in asyncio"
KINDS = (THREADS, TASKS, WRITERS, FUNCTIONS)
Act = Callable[[Any], Any]
"""What a handler does with its context between its first and its last messages. In a task, what it returns is awaited."""


def nothing(context: Any) -> None:
    """Go on."""


class Script:
    """What a handler does: consumes the requests, yields `before` messages, acts, yields `after` more, or returns one response."""

    def __init__(self, act: Act = nothing, *, before: int = 0, after: int = 2) -> None:
        self.act = act
        self.before = before
        self.after = after
        self.requests: list[bytes] = []
        self.calls = 0
        self.closed = threading.Event()

    def handler(self, kind: str, arity: str) -> Any:
        """The handler for grpcio."""
        streams = arity.endswith("_stream")
        behavior: Any = {
            THREADS: self.stream if streams else self.unary,
            FUNCTIONS: self.stream if streams else self.unary,
            TASKS: self.astream if streams else self.aunary,
            WRITERS: self.awriter if streams else self.aunary,
        }[kind]
        return getattr(grpc, f"{arity}_rpc_method_handler")(behavior)

    def unary(self, request: Any, context: Any) -> bytes:
        """One response, in a thread."""
        self.calls += 1
        self.requests += [request] if isinstance(request, bytes) else list(request)
        self.act(context)
        return RESPONSE

    def stream(self, request: Any, context: Any) -> Iterator[bytes]:
        """A stream, in a thread."""
        self.calls += 1
        try:
            self.requests += [request] if isinstance(request, bytes) else list(request)
            for _ in range(self.before):
                yield RESPONSE
            self.act(context)
            for _ in range(self.after):
                yield RESPONSE
        finally:
            self.closed.set()

    async def aunary(self, request: Any, context: Any) -> bytes:
        """One response, in a task."""
        self.calls += 1
        await self._take(request)
        await self._aact(context)
        return RESPONSE

    async def astream(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        """A stream that is yielded, in a task."""
        self.calls += 1
        try:
            await self._take(request)
            for _ in range(self.before):
                yield RESPONSE
            await self._aact(context)
            for _ in range(self.after):
                yield RESPONSE
        finally:
            self.closed.set()

    async def awriter(self, request: Any, context: Any) -> None:
        """A stream that is written, in a task."""
        self.calls += 1
        try:
            await self._take(request)
            for _ in range(self.before):
                await context.write(RESPONSE)
            await self._aact(context)
            for _ in range(self.after):
                await context.write(RESPONSE)
        finally:
            self.closed.set()

    async def _take(self, request: Any) -> None:
        self.requests += [request] if isinstance(request, bytes) else [part async for part in request]

    async def _aact(self, context: Any) -> None:
        awaited = self.act(context)
        if awaited is not None:
            await awaited


class Hold:
    """An act that lasts until the test lets go; in a task it can be cancelled."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.cancelled = threading.Event()
        self.context: Any = None

    def in_thread(self, context: Any) -> None:
        """Hold a thread."""
        self.context = context
        self.entered.set()
        assert self.let_go.wait(10)

    def is_known_to_be_unwanted(self) -> bool:
        """Whether the context of the thread that is held says that its client has gone."""
        return self.context is not None and not self.context.is_active()

    async def in_task(self, context: Any) -> None:
        """Hold a task."""
        self.entered.set()
        try:
            while not self.let_go.is_set():  # noqa: ASYNC110 - the test sets it from another thread
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def act(self, kind: str) -> Act:
        """What a handler of that kind does."""
        return self.in_thread if kind in (THREADS, FUNCTIONS) else self.in_task
