"""A gRPC server of one echoing method: `python -m benchmarks.served.grpc_server threads|asyncio raw|floor|resilience`.

It prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from benchmarks import guards
from benchmarks.fused_floor import Core, fused_grpc
from benchmarks.rows.grpc import aecho, echo
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor


def handlers(behavior: Any) -> Any:
    return grpc.method_handlers_generic_handler("bench.v1.Echo", {"Call": grpc.unary_unary_rpc_method_handler(behavior)})


def serve(kind: str) -> None:
    interceptors = [ServerInterceptor(pipeline=guards.inbound())] if kind == "resilience" else []
    server = grpc.server(ThreadPoolExecutor(2), interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers(fused_grpc(echo, Core()) if kind == "floor" else echo),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


async def aserve(kind: str) -> None:
    interceptors = [AioServerInterceptor(pipeline=guards.inbound())] if kind == "resilience" else []
    server = grpc.aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers(fused_grpc(aecho, Core(), aio=True) if kind == "floor" else aecho),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    model, guarded_by = sys.argv[1:]
    if model == "asyncio":
        asyncio.run(aserve(guarded_by))
    else:
        serve(guarded_by)
