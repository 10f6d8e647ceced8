"""What the layers cost an RPC in process: a handler as it is, the hand-fused floor, and the real interceptors with the same layers.

Threads and asyncio, one response to one request, no sockets: the contexts are stand-ins that tell what grpcio's tell, so that the
figure is what we add and not what gRPC costs. Interleaved rounds in one run; the figure is a ratio of medians of processor time, so
the machine's speed cancels out. No span is recorded: the current span is valid and not sampled, as under a tracing interceptor.

Run it with the Python of `make test`. Exit status 1: an interceptor adds more than `LIMIT` times what its floor adds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from opentelemetry import context, trace

from fused_floor import Core, fused_grpc
from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter
from resilience.integrations.grpc import ServerInterceptor, aio

LIMIT = 2.3
ROUNDS = 61
WARM_UP = 3
CALLS_A_ROUND = 1_000
OUT = Path(__file__).parent / "out" / "grpc_floor.json"
METHOD = "/bench.v1.Echo/Call"
PEER = "ipv4:192.0.2.7:51234"
METADATA = (("user-agent", "grpc-python/1.85.1 grpc-c/55.0.0 (linux; chttp2)"), ("x-request-id", "7f9c2ba4e88f827d"))
UNBOUND_S = 9.2e18
"""What a server of threads says is left where the client set no deadline; one of asyncio says None."""


class ThreadContext:
    """As of a server of threads."""

    def __init__(self, left_s: float) -> None:
        self._deadline_s = time.time() + left_s
        self._condition = threading.Condition()

    def is_active(self) -> bool:
        with self._condition:
            return True

    def time_remaining(self) -> float:
        return max(self._deadline_s - time.time(), 0)

    def invocation_metadata(self) -> Any:
        return METADATA

    def peer(self) -> str:
        return PEER

    def code(self) -> None:
        return None


class TaskContext(ThreadContext):
    """As of an asyncio server."""

    def __init__(self, left_s: float | None) -> None:
        super().__init__(left_s or 0.0)
        self._is_bound = left_s is not None

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return super().time_remaining() if self._is_bound else None

    def done(self) -> bool:
        return False


def guarded() -> Pipeline:
    """Deadline, keyed limiter, breaker and health: the layers of the floor, with limits nobody reaches."""
    health = HealthSignal()
    limiter = RateLimiter(rate_per_s=1e8, burst=1_000_000, key="client_address", health=health)
    return Pipeline("api", Deadline(default_s=5.0), limiter, CircuitBreaker(health=health))


class Details:
    """What an interceptor is told of an RPC."""

    method = METHOD
    invocation_metadata = METADATA


def echo(request: bytes, context: Any) -> bytes:
    return request


async def aecho(request: bytes, context: Any) -> bytes:
    return request


Behaviours = dict[str, Callable[[bytes, Any], Any]]
HANDLER = grpc.unary_unary_rpc_method_handler(echo)
AHANDLER = grpc.unary_unary_rpc_method_handler(aecho)


def sync_behaviours() -> Behaviours:
    interceptor = ServerInterceptor(pipeline=guarded())

    def intercept(request: bytes, context: Any) -> Any:
        return interceptor.intercept_service(lambda _: HANDLER, Details).unary_unary(request, context)

    served = interceptor.intercept_service(lambda _: HANDLER, Details).unary_unary
    return {"raw": echo, "floor": fused_grpc(echo, Core()), "resilience": served, "and the interception": intercept}


async def aio_behaviours() -> Behaviours:
    interceptor = aio.ServerInterceptor(pipeline=guarded())

    async def found(_: Any) -> Any:
        return AHANDLER

    async def intercept(request: bytes, context: Any) -> Any:
        return await (await interceptor.intercept_service(found, Details)).unary_unary(request, context)

    served = (await interceptor.intercept_service(found, Details)).unary_unary
    return {"raw": aecho, "floor": fused_grpc(aecho, Core(), aio=True), "resilience": served, "and the interception": intercept}


def round_us(behaviour: Callable[[bytes, Any], Any], context: Any) -> float:
    """Microseconds of processor time an RPC in one round."""
    began = time.process_time()
    for _ in range(CALLS_A_ROUND):
        behaviour(b"x", context)
    return (time.process_time() - began) / CALLS_A_ROUND * 1e6


async def around_us(behaviour: Callable[[bytes, Any], Awaitable[Any]], context: Any) -> float:
    """The same under asyncio."""
    began = time.process_time()
    for _ in range(CALLS_A_ROUND):
        await behaviour(b"x", context)
    return (time.process_time() - began) / CALLS_A_ROUND * 1e6


def sync_medians(left_s: float) -> dict[str, float]:
    """The median of each behaviour over interleaved rounds."""
    behaviours, bound = sync_behaviours(), ThreadContext(left_s)
    samples: dict[str, list[float]] = {name: [] for name in behaviours}
    for number in range(ROUNDS + WARM_UP):
        for name, behaviour in behaviours.items():
            taken = round_us(behaviour, bound)
            if number >= WARM_UP:  # the first rounds warm up the interpreter's specialisations
                samples[name].append(taken)
        gc.collect()
    return {name: statistics.median(taken) for name, taken in samples.items()}


async def aio_medians(left_s: float | None) -> dict[str, float]:
    """The same under asyncio."""
    behaviours, bound = await aio_behaviours(), TaskContext(left_s)
    samples: dict[str, list[float]] = {name: [] for name in behaviours}
    for number in range(ROUNDS + WARM_UP):
        for name, behaviour in behaviours.items():
            taken = await around_us(behaviour, bound)
            if number >= WARM_UP:
                samples[name].append(taken)
        gc.collect()
    return {name: statistics.median(taken) for name, taken in samples.items()}


def measured() -> dict[str, dict[str, float]]:
    """The medians of all ways. Where the client has set no deadline, we arm a timer under asyncio, which the floor does not."""
    unsampled = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    context.attach(trace.set_span_in_context(unsampled))
    gc.disable()
    return {
        "threads, the client's deadline": sync_medians(600.0),
        "threads, the default": sync_medians(UNBOUND_S),
        "asyncio, the client's deadline": asyncio.run(aio_medians(600.0)),
        "asyncio, the default (a timer)": asyncio.run(aio_medians(None)),
    }


def main() -> int:
    medians = measured()
    versions = {name: version(name) for name in ("resilience-middleware", "grpcio", "opentelemetry-api")}
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {found}' for name, found in versions.items())}")
    ratios: dict[str, float] = {}
    for way, found in medians.items():
        print(f"{way:<32} {'µs an RPC':>10} {'added':>8} {'x floor':>8}")
        added = {name: median - found["raw"] for name, median in found.items()}
        ratios[way] = added["resilience"] / added["floor"]
        for name, median in found.items():
            print(f"  {name:<30} {median:>10.2f} {added[name]:>8.2f} {added[name] / added['floor']:>8.2f}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"versions": versions, "median_us": medians, "ratios": ratios, "limit": LIMIT}, indent=2) + "\n")
    worst = max(ratios, key=ratios.__getitem__)
    verdict = "ok" if ratios[worst] <= LIMIT else "FAILED"
    print(f"four layers add at most {ratios[worst]:.2f} x what the floor adds ({worst}); {LIMIT} is promised: {verdict}")
    return 0 if ratios[worst] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
