"""The whole stack on a gRPC call, in process, not sampled, in threads and asyncio: beside the fused floor.

The handler is called as grpcio calls it, with a context that answers at once what grpcio's own would ask its C core for. Over real
servers gRPC itself costs hundreds of microseconds a call: the group `servers` shows that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import grpc

from benchmarks import guards
from benchmarks.fused_floor import Core, fused_grpc
from benchmarks.harness import Size, Subject, Table, Take, awaited, called, measure
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor

METHOD: Final = "/bench.v1.Echo/Call"
METADATA: Final = (("user-agent", "grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),)
REQUEST: Final = b"x"


class Context:
    """What both kinds of server hand to a handler, as far as anybody here asks."""

    unset_s: float | None = None

    def invocation_metadata(self) -> Any:
        return METADATA

    def time_remaining(self) -> float | None:
        return self.unset_s

    def peer(self) -> str:
        return f"ipv4:{guards.CLIENT}:51234"

    def code(self) -> Any:
        return None

    def trailing_metadata(self) -> Any:
        return None


class ThreadContext(Context):
    unset_s = 9.2e18  # what grpcio says where the client set no deadline

    def is_active(self) -> bool:
        return True

    def add_callback(self, callback: Any) -> bool:
        return True


class AioContext(Context):
    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False


def echo(request: Any, context: Any) -> Any:
    return request


async def aecho(request: Any, context: Any) -> Any:
    return request


def guarded() -> Any:
    handler = grpc.unary_unary_rpc_method_handler(echo)
    interceptor = ServerInterceptor(pipeline=guards.inbound())
    return interceptor.intercept_service(lambda details: handler, SimpleNamespace(method=METHOD)).unary_unary


async def aguarded() -> Any:
    handler = grpc.unary_unary_rpc_method_handler(aecho)

    async def continuation(details: Any) -> Any:
        return handler

    interceptor = AioServerInterceptor(pipeline=guards.inbound())
    return (await interceptor.intercept_service(continuation, SimpleNamespace(method=METHOD))).unary_unary


def calls(make: Callable[[], Any]) -> Take:
    behavior = make()
    return called(lambda: behavior(REQUEST, ThreadContext()))


def acalls(make: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> Take:
    behavior = make()
    return awaited(loop, lambda: behavior(REQUEST, AioContext()))


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    threads: dict[str, Callable[[], Any]] = {
        "raw": lambda: echo,
        "fused floor": lambda: fused_grpc(echo, Core()),
        "resilience": guarded,
    }
    tasks: dict[str, Callable[[], Any]] = {
        "raw": lambda: aecho,
        "fused floor": lambda: fused_grpc(aecho, Core(), aio=True),
        "resilience": lambda: loop.run_until_complete(aguarded()),
    }
    subjects = [Subject(f"threads: {name}", partial(calls, make)) for name, make in threads.items()]
    subjects += [Subject(f"asyncio: {name}", partial(acalls, make, loop)) for name, make in tasks.items()]
    with guards.not_sampled():
        table = measure(subjects, size)
    loop.close()
    for kind in ("threads", "asyncio"):
        table.ratio(f"{kind}: four layers / fused floor", f"{kind}: resilience", f"{kind}: fused floor", without=f"{kind}: raw")
    return table
