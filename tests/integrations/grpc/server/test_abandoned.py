"""A generator that the server gives up in the middle of a write: it hears nothing, and lives on while somebody refers to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from resilience.testing import nothing_leaks
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import TASKS
from tests.integrations.grpc.server.served import METHOD, eventually, interceptor_of, serving

TOO_MUCH = b"x" * 2_000_000


class Keeping(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Keeps the generator of every stream, as a debugger might."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        behavior = (await continuation(handler_call_details)).unary_stream

        async def keeping(request: Any, context: Any) -> AsyncIterator[bytes]:
            self.kept.append(behavior(request, context))
            async for message in self.kept[-1]:
                yield message

        return grpc.unary_stream_rpc_method_handler(keeping)


class Pouring(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Yields more than a client takes that does not read."""

    def __init__(self) -> None:
        self.yielded = 0
        self.closed = False

    async def pour(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The handler."""
        try:
            while True:
                self.yielded += 1
                yield TOO_MUCH
        finally:
            self.closed = True

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(self.pour)


def test_the_end_of_the_task_settles_it() -> None:
    bench, keeping, pouring = Layers(), Keeping(), Pouring()
    with serving(TASKS, pouring, keeping, interceptor_of(TASKS, pipeline=bench.pipeline)) as served:
        with nothing_leaks(wait_s=5.0):
            call = served.channel.unary_stream(METHOD)(b"")
            eventually(lambda: pouring.yielded > 0)
            call.cancel()
            eventually(call.done)
        assert len(keeping.kept) == 1
        assert not pouring.closed, "the server was writing; the handler was not at work"
