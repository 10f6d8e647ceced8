"""What the interceptors cost a gRPC call, on both sides, sync and asyncio: beside none at all and beside OpenTelemetry's.

Client and server share one process and one run, in interleaved rounds of calls one after the other over loopback; the figure is
processor time, that of gRPC's own threads included. No span is recorded: OpenTelemetry has a tracer that samples nothing.

Run with `make bench`. It states figures and fails on nothing but a call that fails.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

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

from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Retry
from resilience.integrations import grpc as sync
from resilience.integrations.grpc import aio

ROUNDS = 15
WARM_UP = 2
CALLS_A_ROUND = 400
OUT = Path(__file__).parent / "out" / "grpc_stack.json"
METHOD = "/bench.v1.Echo/Call"
NAMES = ("no interceptor", "server: resilience", "server: OpenTelemetry", "client: resilience", "client: OpenTelemetry")
OFF = TracerProvider(sampler=ALWAYS_OFF)


def guarded() -> Pipeline:
    """What guards a server: deadline, keyed limiter, breaker and health, with limits that nobody reaches."""
    health = HealthSignal()
    limiter = RateLimiter(rate_per_s=1e8, burst=1_000_000, key="client_address", health=health)
    return Pipeline("api", Deadline(default_s=5.0), limiter, CircuitBreaker(health=health))


def outgoing() -> Pipeline:
    """What guards calls that go out: deadline, retry, a breaker for each target."""
    return Pipeline("stock", Deadline(default_s=5.0), Retry(), CircuitBreaker(key="host"))


def handlers(behaviour: Any) -> Any:
    return grpc.method_handlers_generic_handler("bench.v1.Echo", {"Call": grpc.unary_unary_rpc_method_handler(behaviour)})


def sync_call(name: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call through a server and a channel of its own, and what closes both."""
    served = {NAMES[1]: [sync.ServerInterceptor(pipeline=guarded())], NAMES[2]: [server_interceptor(tracer_provider=OFF)]}
    server = grpc.server(ThreadPoolExecutor(2), interceptors=served.get(name, []))
    server.add_generic_rpc_handlers((handlers(lambda request, context: request),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    channel = grpc.insecure_channel(target)
    if name == NAMES[3]:
        channel = grpc.intercept_channel(channel, sync.ClientInterceptor(pipeline=outgoing(), target=target))
    elif name == NAMES[4]:
        channel = intercept_channel(channel, client_interceptor(tracer_provider=OFF))
    method = channel.unary_unary(METHOD)

    def close() -> None:
        channel.close()
        server.stop(0).wait()

    return lambda: method(b"x"), close


async def aio_call(name: str) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    """The same under asyncio."""
    served = {NAMES[1]: [aio.ServerInterceptor(pipeline=guarded())], NAMES[2]: [aio_server_interceptor(tracer_provider=OFF)]}
    server = grpc.aio.server(interceptors=served.get(name, []))

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server.add_generic_rpc_handlers((handlers(echo),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    calling: dict[str, Any] = {
        NAMES[3]: aio.client_interceptors(pipeline=outgoing(), target=target),
        NAMES[4]: aio_client_interceptors(tracer_provider=OFF),
    }
    channel = grpc.aio.insecure_channel(target, interceptors=calling.get(name))
    method = channel.unary_unary(METHOD)

    async def close() -> None:
        await channel.close()
        await server.stop(0)

    async def call() -> object:
        return await method(b"x")

    return call, close


def sync_medians() -> dict[str, float]:
    """Microseconds of processor time a call, the median of interleaved rounds."""
    calls = {name: sync_call(name) for name in NAMES}
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(ROUNDS + WARM_UP):
        for name, (call, _) in calls.items():
            began = time.process_time()
            for _ in range(CALLS_A_ROUND):
                call()
            if number >= WARM_UP:
                samples[name].append((time.process_time() - began) / CALLS_A_ROUND * 1e6)
        gc.collect()
    for _, close in calls.values():
        close()
    return {name: statistics.median(taken) for name, taken in samples.items()}


async def aio_medians() -> dict[str, float]:
    """The same under asyncio."""
    calls = {name: await aio_call(name) for name in NAMES}
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(ROUNDS + WARM_UP):
        for name, (call, _) in calls.items():
            began = time.process_time()
            for _ in range(CALLS_A_ROUND):
                await call()
            if number >= WARM_UP:
                samples[name].append((time.process_time() - began) / CALLS_A_ROUND * 1e6)
        gc.collect()
    for _, close in calls.values():
        await close()
    return {name: statistics.median(taken) for name, taken in samples.items()}


def main() -> None:
    gc.disable()
    medians = {"threads": sync_medians(), "asyncio": asyncio.run(aio_medians())}
    versions = {name: version(name) for name in ("resilience-middleware", "grpcio", "opentelemetry-instrumentation-grpc")}
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {found}' for name, found in versions.items())}")
    print(f"{'µs of processor time a call':<28} {'threads':>9} {'added':>8} {'asyncio':>9} {'added':>8}")
    for name in NAMES:
        row = "".join(f" {found[name]:>9.1f} {found[name] - found[NAMES[0]]:>8.1f}" for found in medians.values())
        print(f"{name:<28}{row}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"versions": versions, "median_us": medians}, indent=2) + "\n")


if __name__ == "__main__":
    main()
