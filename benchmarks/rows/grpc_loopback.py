"""What the interceptors add to a gRPC call over loopback, on both sides: beside none at all and beside OpenTelemetry's.

Client and server share one process; the figure is processor time, that of gRPC's own threads included. No span is recorded:
OpenTelemetry has a tracer that samples nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from typing import Any, Final

import grpc
from opentelemetry.instrumentation.grpc import (
    aio_client_interceptors,
    aio_server_interceptor,
    client_interceptor,
    server_interceptor,
)
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from benchmarks import guards
from benchmarks.harness import Size, Subject, Table, Take, measure
from benchmarks.rows.grpc import METHOD, aecho, echo
from benchmarks.served.grpc_server import handlers
from resilience import CircuitBreaker, Deadline, Pipeline, Retry
from resilience.integrations import grpc as sync
from resilience.integrations.grpc import aio

NONE, OUR_SERVER, THEIR_SERVER = "no interceptor", "server: resilience", "server: OpenTelemetry"
OUR_CLIENT, THEIR_CLIENT = "client: resilience", "client: OpenTelemetry"
NAMES: Final = (NONE, OUR_SERVER, THEIR_SERVER, OUR_CLIENT, THEIR_CLIENT)
OFF: Final = TracerProvider(sampler=ALWAYS_OFF)


def outgoing() -> Pipeline:
    """What guards calls that go out: deadline, retry, a breaker for each target."""
    return Pipeline("stock", Deadline(default_s=5.0), Retry(), CircuitBreaker(key="host"))


def calls(name: str, stack: ExitStack) -> Take:
    """Calls through a server of threads and a channel of their own."""
    served = {
        OUR_SERVER: [sync.ServerInterceptor(pipeline=guards.inbound())],
        THEIR_SERVER: [server_interceptor(tracer_provider=OFF)],
    }
    server = grpc.server(ThreadPoolExecutor(2), interceptors=served.get(name, []))
    server.add_generic_rpc_handlers((handlers(echo),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    channel = grpc.insecure_channel(target)
    stack.callback(channel.close)
    if name == OUR_CLIENT:
        channel = grpc.intercept_channel(channel, sync.ClientInterceptor(pipeline=outgoing(), target=target))
    elif name == THEIR_CLIENT:
        channel = intercept_channel(channel, client_interceptor(tracer_provider=OFF))
    method = channel.unary_unary(METHOD)

    def take(count: int) -> float:
        began_s = time.process_time()
        for _ in repeat(None, count):
            method(b"x")
        return time.process_time() - began_s

    return take


def acalls(name: str, stack: ExitStack, loop: asyncio.AbstractEventLoop) -> Take:
    """The same under asyncio."""
    method, close = loop.run_until_complete(asked(name))
    stack.callback(lambda: loop.run_until_complete(close()))

    async def turn(count: int) -> float:
        began_s = time.process_time()
        for _ in repeat(None, count):
            await method(b"x")
        return time.process_time() - began_s

    return lambda count: loop.run_until_complete(turn(count))


async def asked(name: str) -> tuple[Any, Callable[[], Any]]:
    """A method of a server and a channel of its own, and what closes both."""
    served = {
        OUR_SERVER: [aio.ServerInterceptor(pipeline=guards.inbound())],
        THEIR_SERVER: [aio_server_interceptor(tracer_provider=OFF)],
    }
    server = grpc.aio.server(interceptors=served.get(name, []))
    server.add_generic_rpc_handlers((handlers(aecho),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    calling: dict[str, Any] = {
        OUR_CLIENT: aio.client_interceptors(pipeline=outgoing(), target=target),
        THEIR_CLIENT: aio_client_interceptors(tracer_provider=OFF),
    }
    channel = grpc.aio.insecure_channel(target, interceptors=calling.get(name))

    async def close() -> None:
        await channel.close()
        await server.stop(0)

    return channel.unary_unary(METHOD), close


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:
        subjects = [Subject(f"threads: {name}", partial(calls, name, stack)) for name in NAMES]
        subjects += [Subject(f"asyncio: {name}", partial(acalls, name, stack, loop)) for name in NAMES]
        table = measure(subjects, Size(3, 0.05, is_smoke=True) if size.is_smoke else Size(15, 0.1))
    loop.close()
    for kind in ("threads", "asyncio"):
        for ours, theirs, side in ((OUR_SERVER, THEIR_SERVER, "server"), (OUR_CLIENT, THEIR_CLIENT, "client")):
            table.ratio(
                f"{kind}: {side}'s interceptor / OpenTelemetry's", f"{kind}: {ours}", f"{kind}: {theirs}", without=f"{kind}: {NONE}"
            )
    return table
