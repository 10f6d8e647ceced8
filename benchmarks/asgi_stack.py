"""What the layers cost an ASGI request: a raw application, the hand-fused floor, and the real middleware with the same layers.

All in one process and one run, in interleaved rounds; the figure is a ratio of medians, so the machine's speed cancels out. No span
is recorded: the current span is valid and not sampled, as under a tracing middleware in production.

Run with `make bench`. Exit status 1: the middleware adds more than `LIMIT` times what the floor adds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opentelemetry import context, trace

from fused_floor import FusedAsgi
from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware

LIMIT = 2.5
ROUNDS = 41
REQUESTS_A_ROUND = 2_000
OUT = Path(__file__).parent / "out" / "asgi_stack.json"

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]
SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/orders/7",
    "headers": [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"bench"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip"),
        (b"connection", b"keep-alive"),
    ],
    "client": ("192.0.2.7", 51_234),
}


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def guarded_app() -> App:
    """Deadline with its timer, keyed limiter, breaker and health: the layers of the floor, with limits nobody reaches."""
    health = HealthSignal()
    pipeline = Pipeline(
        "api",
        Deadline(default_s=5.0),
        RateLimiter(rate_per_s=1e8, burst=1_000_000, key="client_address", health=health),
        CircuitBreaker(health=health),
    )
    return ResilienceMiddleware(raw_app, pipeline=pipeline)


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    pass


async def round_us(app: App) -> float:
    """Microseconds a request in one round."""
    began = time.perf_counter()
    for _ in range(REQUESTS_A_ROUND):
        await app(SCOPE, receive, send)
    return (time.perf_counter() - began) / REQUESTS_A_ROUND * 1e6


async def measure(apps: dict[str, App]) -> dict[str, float]:
    """The median of each application over interleaved rounds."""
    unsampled = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    context.attach(trace.set_span_in_context(unsampled))
    samples: dict[str, list[float]] = {name: [] for name in apps}
    gc.disable()
    for number in range(ROUNDS + 3):
        for name, app in apps.items():
            taken = await round_us(app)
            if number >= 3:  # the first rounds warm up the interpreter's specialisations
                samples[name].append(taken)
        gc.collect()
    gc.enable()
    return {name: statistics.median(taken) for name, taken in samples.items()}


def main() -> int:
    medians = asyncio.run(measure({"raw": raw_app, "floor": FusedAsgi(raw_app), "resilience": guarded_app()}))
    added = {name: median - medians["raw"] for name, median in medians.items()}
    ratio = added["resilience"] / added["floor"]
    versions = {name: version(name) for name in ("resilience-middleware", "opentelemetry-api")}
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {found}' for name, found in versions.items())}")
    print(f"{'application':<12} {'µs a request':>13} {'added':>8} {'x floor':>8}")
    for name, median in medians.items():
        print(f"{name:<12} {median:>13.2f} {added[name]:>8.2f} {added[name] / added['floor']:>8.2f}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"versions": versions, "median_us": medians, "ratio": ratio, "limit": LIMIT}, indent=2) + "\n")
    verdict = "ok" if ratio <= LIMIT else "FAILED"
    print(f"four layers add {ratio:.2f} x what the floor adds; at most {LIMIT} is promised: {verdict}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
