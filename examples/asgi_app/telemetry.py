"""Where spans go: the OpenTelemetry SDK is the application's to set up. Here they are written to a file, one JSON a line."""

from __future__ import annotations

from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased


def write_spans_to(file: Path, *, service: str) -> None:
    """Append the spans of every request whose caller asks for it (with a sampled `traceparent`) to `file`."""
    out = file.open("a", encoding="utf-8")  # stays open as long as the process lives
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=_json_line)))
    trace.set_tracer_provider(provider)


def _json_line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)) + "\n"
