"""With spans: not sampled, and sampled beside the bare cost of the same spans with the same attributes in OpenTelemetry's SDK.

The spans of one request are recorded first, and then made again one after the other by the SDK alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from benchmarks import guards
from benchmarks.harness import Size, Subject, Table, Take, awaited, called, measure
from benchmarks.rows.asgi import raw_app, requests_to
from resilience.integrations.asgi import ResilienceMiddleware

RAW, SAMPLED, UNSAMPLED, BARE = (
    "raw application",
    "resilience, sampled",
    "resilience, not sampled",
    "the same spans by the SDK alone",
)
UNSAMPLED_SPAN: Final = trace.NonRecordingSpan(trace.SpanContext(trace_id=1, span_id=1, is_remote=False))


class Kept(SpanProcessor):
    """Keeps spans that have ended while it is asked to, and drops them otherwise."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if self.spans is not None:
            self.spans.append(span)


def under(span: trace.Span, take: Take) -> Take:
    """`take` while `span` is the current one."""

    def take_under(count: int) -> float:
        token: Any = context.attach(trace.set_span_in_context(span))
        try:
            return take(count)
        finally:
            context.detach(token)

    return take_under


def made_again(tracer: trace.Tracer, spans: list[ReadableSpan]) -> Callable[[], None]:
    """Makes spans of the same names with the same attributes."""
    kinds = [(span.name, span.kind, dict(span.attributes or {})) for span in spans]

    def make() -> None:
        for name, kind, attributes in kinds:
            tracer.start_span(name, kind=kind, attributes=attributes).end()

    return make


def run(size: Size) -> Table:
    provider, kept = TracerProvider(sampler=ALWAYS_ON), Kept()
    provider.add_span_processor(kept)
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("benchmarks")
    parent = tracer.start_span("GET /orders/{number}")
    loop = asyncio.new_event_loop()
    guarded = requests_to(ResilienceMiddleware(raw_app, pipeline=guards.inbound()), loop)
    pipeline = guards.outgoing()

    async def work() -> None:
        pass

    calling = awaited(loop, lambda: pipeline.acall(work))

    def recorded(take: Take) -> list[ReadableSpan]:
        kept.spans = []
        under(parent, take)(1)
        spans, kept.spans = kept.spans, None
        return spans

    request_spans, call_spans = recorded(guarded), recorded(calling)
    table = measure(
        [
            Subject(f"request: {RAW}", lambda: under(UNSAMPLED_SPAN, requests_to(raw_app, loop))),
            Subject(f"request: {UNSAMPLED}", lambda: under(UNSAMPLED_SPAN, guarded)),
            Subject(f"request: {SAMPLED}", lambda: under(parent, guarded)),
            Subject(f"request: {BARE}", lambda: under(parent, called(made_again(tracer, request_spans)))),
            Subject("call: the function alone", lambda: awaited(loop, work)),
            Subject(f"call: {UNSAMPLED}", lambda: under(UNSAMPLED_SPAN, calling)),
            Subject(f"call: {SAMPLED}", lambda: under(parent, calling)),
            Subject(f"call: {BARE}", lambda: under(parent, called(made_again(tracer, call_spans)))),
        ],
        size,
    )
    loop.close()
    for what, base, spans in (("request", RAW, request_spans), ("call", "the function alone", call_spans)):
        added = (table.median(f"{what}: {SAMPLED}") or 0) - (table.median(f"{what}: {base}") or 0)
        bare, unsampled = table.median(f"{what}: {BARE}"), table.median(f"{what}: {UNSAMPLED}")
        if bare and unsampled:
            table.figures[f"{what}: spans"] = float(len(spans))
            table.figures[f"{what}: sampled / SDK alone"] = added / bare
            table.figures[f"{what}: more than not sampled / SDK alone"] = (
                (table.median(f"{what}: {SAMPLED}") or 0) - unsampled
            ) / bare
    return table
