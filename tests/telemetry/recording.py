"""Spans as a test sees them: recorded only while it asks, and shown as a tree of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-00"


class Switch(Sampler):
    """Samples by the parent while it is on, nothing while it is off. Counts what it is asked: every span that is started."""

    def __init__(self) -> None:
        self.is_on = False
        self.started: list[str] = []
        self._sampler = ParentBased(ALWAYS_ON)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if not self.is_on:
            return SamplingResult(Decision.DROP)
        self.started.append(name)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return "Switch"


class Recording:
    """What one test has recorded."""

    def __init__(self, exporter: InMemorySpanExporter, switch: Switch, reader: InMemoryMetricReader) -> None:
        self._exporter = exporter
        self._switch = switch
        self._reader = reader

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self._exporter.clear()
        self._switch.started.clear()

    @property
    def started(self) -> list[str]:
        """The names of all spans that were started, recorded or not."""
        return self._switch.started

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """The one span of that name."""
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def tree(self) -> str:
        """All spans: each under its parent, with kind, status, our attributes and its events."""
        return "\n".join(_lines(self.spans, None, ""))

    def points(self, metric: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """The values of one metric by their labels."""
        data = self._reader.get_metrics_data()
        found: dict[tuple[tuple[str, Any], ...], Any] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for one in scope.metrics:
                    if one.name == metric:
                        found |= {tuple(sorted((p.attributes or {}).items())): p.value for p in one.data.data_points}  # type: ignore[union-attr]
        return found


def _lines(spans: list[ReadableSpan], parent: ReadableSpan | None, indent: str) -> list[str]:
    ids = {_id(span) for span in spans}
    children = [span for span in spans if _parent(span, ids) == (None if parent is None else _id(parent))]
    lines = []
    for span in sorted(children, key=lambda span: span.start_time or 0):
        remote = "" if span.parent is None or _parent(span, ids) else f" under {format_span_id(span.parent.span_id)}"
        lines.append(f"{indent}{span.name} {span.kind.name}{_status(span)}{remote}{_shown(span.attributes)}")
        lines += [f"{indent}  ! {event.name}{_shown(event.attributes)}" for event in span.events]
        lines += _lines(spans, span, f"{indent}  ")
    return lines


def _id(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"


def _parent(span: ReadableSpan, ids: set[str]) -> str | None:
    if span.parent is None:
        return None
    parent = f"{format_trace_id(span.parent.trace_id)}-{format_span_id(span.parent.span_id)}"
    return parent if parent in ids else None


def _status(span: ReadableSpan) -> str:
    if span.status.status_code is StatusCode.UNSET:
        return ""
    return f" {span.status.status_code.name} ({span.status.description})"


def _shown(attributes: Any) -> str:
    ours = {name.removeprefix("resilience."): value for name, value in (attributes or {}).items() if name.startswith("resilience.")}
    return "".join(f" {name}={value}" for name, value in sorted(ours.items()))
