"""The guards that are measured: four layers with limits that nobody reaches, and what a request looks like that passes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import context, trace

from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Retry

CLIENT: Final = "192.0.2.7"
RATE_PER_S: Final = 1e9
BURST: Final = 1_000_000_000
FILE: Final = """\
version: 1
deadlines: {api: {default: 5s}}
limiters: {api: {rate: 1000000000/s, burst: 1000000000, key: client_address}}
breakers: {api: {}}
pipelines: {api: [{deadline: api}, {limiter: api}, {breaker: api}]}
routes: [{match: {path: "/**"}, pipeline: api}]
"""
"""The same as `inbound()`."""


def inbound(max_keys: int = 100_000) -> Pipeline:
    """What guards a server: deadline, limiter by client address, breaker, and the health signal that these two share."""
    health = HealthSignal()
    limiter = RateLimiter(RATE_PER_S, BURST, key="client_address", max_keys=max_keys, health=health)
    return Pipeline("api", Deadline(default_s=5.0), limiter, CircuitBreaker(health=health))


def outgoing() -> Pipeline:
    """What guards calls: deadline, limiter, retry, breaker."""
    health = HealthSignal()
    limiter = RateLimiter(RATE_PER_S, BURST, health=health)
    return Pipeline("stock", Deadline(default_s=5.0), limiter, Retry(health=health), CircuitBreaker(health=health))


@contextmanager
def not_sampled() -> Iterator[None]:
    """Under a span that is valid and does not record, as under a tracing middleware that has left this request out."""
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))
    token: Any = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)
