"""What stands behind the proxy: a server of bytes, of either kind, whose methods are each guarded in another way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc

from resilience import current_deadline
from tests.integrations.grpc.server.handlers import THREADS

CONFIG: Final = """\
version: 1
deadlines:
  api: {max: 20s}
limiters:
  tight: {rate: 1/m, burst: 1, health: none}
  cut: {rate: 1/m, burst: 1}
breakers:
  broken: {window: 1, open_for: 10m}
pipelines:
  api: [{deadline: api}]
  limited: [{deadline: api}, {limiter: tight}]
  cut: [{deadline: api}, {limiter: cut}]
  refused: [{deadline: api}, {breaker: broken}]
routes:
  - {match: {grpc: "/test.v1.Behind/Limited"}, pipeline: limited}
  - {match: {grpc: "/test.v1.Behind/Cut"}, pipeline: cut}
  - {match: {grpc: "/test.v1.Behind/Refused"}, pipeline: refused}
  - {match: {grpc: "/**"}, pipeline: api}
"""
SERVICE: Final = "test.v1.Behind"
INITIAL: Final = (("x-shard", "7"), ("x-shard-bin", bytes(range(256))))
TRAILING: Final = (("x-cost", "3"), ("x-cost", "4"), ("x-cost-bin", bytes(range(255, -1, -1))))


def deadlines_seen(context: Any) -> bytes:
    """What a handler can learn of its time, in seconds: by gRPC, and by us."""
    deadline = current_deadline()
    return json.dumps([context.time_remaining(), None if deadline is None else deadline.remaining_s()]).encode()


class Behind(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """The methods, in threads or in tasks.

    Echo answers as it is asked, with metadata before and after. Abort ends with the code and text that it is asked for, and
    Stream does so after three messages. Refused is never well, so that its breaker opens with the first call. Hang waits until
    nobody wants it any more. All others tell what they know of their deadline.
    """

    def __init__(self, kind: str) -> None:
        self.ended = threading.Event()
        """Set when a call of Hang has ended."""
        self._in_threads = kind == THREADS

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2].lower()
        behavior = getattr(self, name if self._in_threads else f"a{name}", None)
        if behavior is None:
            behavior = self.time if self._in_threads else self.atime
        make = grpc.unary_stream_rpc_method_handler if name == "stream" else grpc.unary_unary_rpc_method_handler
        return make(behavior)

    # --- in threads -------------------------------------------------------------------------------------------------------------

    def echo(self, request: bytes, context: Any) -> bytes:
        context.send_initial_metadata(INITIAL)
        context.set_trailing_metadata(TRAILING)
        return request

    def time(self, request: bytes, context: Any) -> bytes:
        return deadlines_seen(context)

    def abort(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(TRAILING)
        return bytes(context.abort(*_code_and_text(request)))

    def refused(self, request: bytes, context: Any) -> bytes:
        return self.abort(b"UNAVAILABLE out of order", context)

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.set_trailing_metadata(TRAILING)
        yield from (b"%d" % number for number in range(3))
        context.abort(*_code_and_text(request))

    def hang(self, request: bytes, context: Any) -> bytes:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(10)
        self.ended.set()
        return b""

    # --- in tasks ---------------------------------------------------------------------------------------------------------------

    async def aecho(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata(INITIAL)
        context.set_trailing_metadata(TRAILING)
        return request

    async def atime(self, request: bytes, context: Any) -> bytes:
        return deadlines_seen(context)

    async def aabort(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(TRAILING)
        return bytes(await context.abort(*_code_and_text(request)))

    async def arefused(self, request: bytes, context: Any) -> bytes:
        return await self.aabort(b"UNAVAILABLE out of order", context)

    async def astream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata(TRAILING)
        for number in range(3):
            yield b"%d" % number
        await context.abort(*_code_and_text(request))

    async def ahang(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(10)
        finally:
            self.ended.set()
        return b""


def _code_and_text(request: bytes) -> tuple[grpc.StatusCode, str]:
    name, _, text = request.decode().partition(" ")
    return grpc.StatusCode[name], text
