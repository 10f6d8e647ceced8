"""Spans of gRPC calls that go out: OpenTelemetry's own client spans nest under the try that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import aio_client_interceptors, client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import ReadableSpan

from resilience import CircuitBreaker, CircuitOpen, Deadline, Pipeline, Retry
from resilience.integrations.grpc import ClientInterceptor
from resilience.integrations.grpc.aio import client_interceptors
from resilience.testing import ManualClock
from tests.integrations.grpc.client.peer import KINDS, SERVICE, UNAVAILABLE, Peer, served
from tests.integrations.grpc.server.served import eventually
from tests.telemetry.recording import Recording

tracer = trace.get_tracer("shop")


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The service that is called: its first answer is UNAVAILABLE."""
    with served() as found:
        found.script = [UNAVAILABLE]
        yield found


def stock() -> Pipeline:
    """A pipeline with a retry whose wait takes no time."""
    clock = ManualClock()
    retry = Retry(backoff_s=2.0, jitter="none", budget=(100, 1.0), name="out", clock=clock)
    breaker = CircuitBreaker(min_calls=10, window_calls=10, name="out", clock=clock)
    return Pipeline("stock", Deadline(default_s=5.0, streams=True, name="out", clock=clock), retry, breaker)


def call_in_thread(peer: Peer, kind: str) -> None:
    channel = intercept_channel(grpc.insecure_channel(peer.target), client_interceptor())
    with grpc.intercept_channel(channel, ClientInterceptor(pipeline=stock())) as guarded:
        request: Any = [b"a"] if kind.startswith("stream") else b"a"
        response = getattr(guarded, kind)(f"/{SERVICE}/{kind}")(request)
        if kind.endswith("stream"):
            list(response)


def call_in_task(peer: Peer, kind: str) -> None:
    async def run() -> None:
        interceptors = [*client_interceptors(pipeline=stock()), *aio_client_interceptors()]
        async with grpc.aio.insecure_channel(peer.target, interceptors=interceptors) as channel:
            request: Any = [b"a"] if kind.startswith("stream") else b"a"
            call = getattr(channel, kind)(f"/{SERVICE}/{kind}")(request)
            if kind.endswith("stream"):
                async for _ in call:
                    pass
            else:
                await call

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [call_in_thread, call_in_task])
def test_each_try_has_a_span_and_the_client_span_under_it(call: Any, kind: str, peer: Peer, recorded: Recording) -> None:
    with tracer.start_as_current_span("shop"):
        call(peer, kind)
    trace_id = recorded.span("shop").get_span_context().trace_id  # type: ignore[union-attr]
    # OpenTelemetry's interceptor for asyncio ends a span from a callback, a little later.
    eventually(lambda: len(_of(recorded, trace_id)) == 8)
    spans = _of(recorded, trace_id)
    names = {span.get_span_context().span_id: span.name for span in spans}  # type: ignore[union-attr]
    seen = [
        (
            span.name,
            None if span.parent is None else names[span.parent.span_id],
            (span.attributes or {}).get("resilience.decision"),
            span.status.status_code.name,
        )
        for span in spans
    ]
    client = f"/{SERVICE}/{kind}"
    assert seen == [
        ("shop", None, None, "UNSET"),
        ("resilience.deadline", "shop", "admitted", "UNSET"),
        ("resilience.retry", "shop", "admitted", "ERROR"),
        ("resilience.breaker", "resilience.retry", "admitted", "UNSET"),
        (client, "resilience.retry", None, "ERROR"),
        ("resilience.retry", "shop", "retried", "UNSET"),
        ("resilience.breaker", "resilience.retry", "admitted", "UNSET"),
        (client, "resilience.retry", None, "UNSET"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_span_in_front_ends_also_where_the_call_is_refused(kind: str, peer: Peer, recorded: Recording) -> None:
    breaker = CircuitBreaker(name="out")
    breaker.force("open")

    async def run() -> None:
        interceptors = [*aio_client_interceptors(), *client_interceptors(pipeline=Pipeline("stock", breaker))]
        async with grpc.aio.insecure_channel(peer.target, interceptors=interceptors) as channel:
            call = getattr(channel, kind)(f"/{SERVICE}/{kind}")([b"a"] if kind.startswith("stream") else b"a")
            with pytest.raises(CircuitOpen):
                await anext(aiter(call)) if kind.endswith("stream") else await call

    asyncio.run(run())
    assert recorded.span(f"/{SERVICE}/{kind}").status.status_code.name == "ERROR"


def _of(recorded: Recording, trace_id: int) -> list[ReadableSpan]:
    """The spans of one trace in the order of their starts."""
    spans = [span for span in recorded.spans if span.get_span_context().trace_id == trace_id]  # type: ignore[union-attr]
    return sorted(spans, key=lambda span: span.start_time or 0)
