"""Real servers of both kinds on the loopback, each with one script behind every method, and what a client saw of a call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from resilience.clock import SYSTEM_CLOCK
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from tests.integrations.grpc.server.handlers import THREADS, Script

METHOD = "/shop.v1.Orders/Get"
GRACE_S = 5.0
_PATIENCE_S = 5.0


class Scripted(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Serves every method with the handler of one script."""

    def __init__(self, kind: str, arity: str, script: Script) -> None:
        self.handler = script.handler(kind, arity)

    def service(self, handler_call_details: Any) -> Any:
        return self.handler


def interceptor_of(kind: str, **options: Any) -> Any:
    """Ours for a server that runs handlers of that kind."""
    return ServerInterceptor(**options) if kind == THREADS else AioServerInterceptor(**options)


@contextlib.contextmanager
def serving(kind: str, handler: Any, *interceptors: Any, threads: int = 4) -> Iterator[Served]:
    """A server of the kind that runs such handlers, and a channel to it."""
    with ThreadPoolExecutor(threads) as pool, contextlib.ExitStack() as stack:
        start = _threads if kind == THREADS else _asyncio
        port, run = stack.enter_context(start(handler, interceptors, pool))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        yield Served(channel, port, run)


class Served(NamedTuple):
    """A server that runs. `run` calls a function where its handlers run, the loop of asyncio, and waits for it."""

    channel: grpc.Channel
    port: int
    run: Callable[[Callable[[], object]], None]

    def call(self, arity: str, method: str = METHOD, **options: Any) -> Any:
        """Begin a call."""
        request: Any = iter([b"one", b"two"]) if arity.startswith("stream_") else b"one"
        multi = getattr(self.channel, arity)(method)
        return multi(request, **options) if arity.endswith("_stream") else multi.future(request, **options)

    def seen(self, arity: str, method: str = METHOD, **options: Any) -> Seen:
        """Make a call and see it through."""
        return seen(arity, self.call(arity, method, **options))


class Seen(NamedTuple):
    """What a client has seen of a call."""

    code: str
    messages: int
    details: str
    trailers: dict[str, Any]
    reason: str | None
    policy: str | None
    retry_delay_s: float | None


def seen(arity: str, call: Any) -> Seen:
    """What a client sees of a call that it has begun."""
    messages = 0
    try:
        for _ in call if arity.endswith("_stream") else [call.result()]:
            messages += 1
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass
    trailers = dict(call.trailing_metadata() or ())
    info, retry = ErrorInfo(), RetryInfo()
    status = rpc_status.from_call(call) if trailers else None
    for detail in status.details if status else ():
        for message in (info, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry.HasField("retry_delay") else None
    assert info.domain == ("resilience" if info.reason else "")
    return Seen(call.code().name, messages, call.details(), trailers, info.reason or None, info.metadata.get("policy"), delay_s)


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    until_us = SYSTEM_CLOCK.now_us() + int(_PATIENCE_S * 1e6)
    while not condition():
        assert SYSTEM_CLOCK.now_us() < until_us, "it never came"
        SYSTEM_CLOCK.sleep(0.002)


@contextlib.contextmanager
def _threads(handler: Any, interceptors: tuple[Any, ...], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Any]]:
    server = grpc.server(pool, handlers=[handler], interceptors=interceptors)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, lambda function: function()
    finally:
        server.stop(GRACE_S).wait()


@contextlib.contextmanager
def _asyncio(handler: Any, interceptors: tuple[Any, ...], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Any]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="the loop of the server")
    thread.start()

    async def begin() -> tuple[Any, int]:
        server = grpc.aio.server(pool, handlers=[handler], interceptors=interceptors)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    async def run(function: Callable[[], object]) -> None:
        function()

    server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    try:
        yield port, lambda function: asyncio.run_coroutine_threadsafe(run(function), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(GRACE_S), loop).result()
        pool.shutdown()  # its threads hand ends to the loop, and would wait for ever for one that has stopped
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def refuses_the_call_after(limit: int, server: Any) -> None:
    """Start a server of threads that was guarded elsewhere, see that it does, and stop it."""
    server.add_generic_rpc_handlers([Scripted(THREADS, "unary_unary", Script())])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            served = Served(channel, port, lambda function: None)
            assert [served.seen("unary_unary").code for _ in range(limit + 1)] == ["OK"] * limit + ["RESOURCE_EXHAUSTED"]
            assert served.seen("unary_unary", "/grpc.health.v1.Health/Check").code == "OK"
    finally:
        server.stop(None).wait()
