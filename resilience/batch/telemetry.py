"""What can be seen of batches: one span a batch, one a try, and metrics that are read only when somebody collects them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from resilience.batch.counts import BatchCounts
from resilience.batch.result import Ok, Report, Result
from resilience.call import Call
from resilience.registry import members
from resilience.telemetry.spans import has_sdk

_tracer: Final = trace.get_tracer("resilience")


def begin(name: str, around: Call | None) -> BatchTrace | None:
    """Decide whether to record a batch, by the rules for calls; None: nobody does, and its tries are not recorded either."""
    current = trace.get_current_span()
    if current is INVALID_SPAN or not current.get_span_context().is_valid:
        if around is not None or not has_sdk():
            return None
    elif not current.is_recording():
        return None
    span = _tracer.start_span("resilience.batch", kind=SpanKind.INTERNAL, attributes={"resilience.batch.name": name})
    return BatchTrace(span) if span.is_recording() else None


class BatchTrace:
    """Records one batch."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def enter(self) -> None:
        """Make its span the current one; in a context of the batch's own."""
        context.attach(trace.set_span_in_context(self._span))

    def call(self, back_end: str, index: int, *, second: bool) -> CallSpan:
        """Begin the span of a try, the current one from now on; in a context of the try's own."""
        attributes: dict[str, AttributeValue] = {
            "resilience.batch.back_end": back_end,
            "resilience.batch.index": index,
            "resilience.batch.hedge": second,
        }
        span = _tracer.start_span("resilience.batch.call", attributes=attributes)
        context.attach(trace.set_span_in_context(span))
        return CallSpan(span)

    def end(self, report: Report) -> None:
        """The batch is over."""
        failed = {f"resilience.batch.{kind.value}": count for kind, count in report.failed.items()}
        self._span.set_attributes(
            {
                "resilience.batch.ok": report.ok,
                "resilience.batch.hedged": report.hedged,
                "resilience.batch.abandoned": report.abandoned,
                "resilience.batch.stopped": report.stopped,
                **failed,
            }
        )
        if report.stopped:
            self._span.set_status(Status(StatusCode.ERROR, report.stopped))
        self._span.end()


class CallSpan:
    """The span around one try. An error is told by its kind and class: its text may hold what a client sent."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, result: Result[Any]) -> None:
        """The try has ended."""
        if isinstance(result, Ok):
            self._span.set_attribute("resilience.batch.result", "ok")
        else:
            self._span.set_attribute("resilience.batch.result", result.kind.value)
            self._span.set_status(Status(StatusCode.ERROR, type(result.error).__name__))
        self._span.end()


# --- metrics ---------------------------------------------------------------------------------------------------------------------

Read = Callable[[], Iterable[Observation]]


def observe() -> None:
    """Make the instruments. Before a meter provider is set they wait; without one they cost nothing."""
    meter = metrics.get_meter("resilience")
    meter.create_observable_counter("resilience.batch.calls", [_callback(_calls)], description="calls of batches, by result")
    meter.create_observable_counter("resilience.batch.batches", [_callback(_batches)], description="batches, by how they ended")
    meter.create_observable_counter("resilience.batch.hedges", [_callback(_hedges)], description="second tries sent")
    meter.create_observable_gauge("resilience.batch.in_flight", [_callback(_in_flight)], description="calls in flight")
    meter.create_observable_gauge(
        "resilience.batch.abandoned", [_callback(_abandoned)], description="calls given up at their time limit that have not ended"
    )


def _callback(read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: read()


def _calls() -> Iterator[Observation]:
    counts: Counter[tuple[str, str]] = Counter()
    for caller in members(BatchCounts):
        for result, count in caller.calls().items():
            counts[caller.name, result] += count
    for (name, result), count in counts.items():
        yield Observation(count, {"batch": name, "result": result})


def _batches() -> Iterator[Observation]:
    counts: Counter[tuple[str, str]] = Counter()
    for caller in members(BatchCounts):
        for end, count in caller.ends().items():
            counts[caller.name, end] += count
    for (name, end), count in counts.items():
        yield Observation(count, {"batch": name, "end": end})


def _summed(read: Callable[[BatchCounts], int]) -> Iterator[Observation]:
    counts: Counter[str] = Counter()
    for caller in members(BatchCounts):
        counts[caller.name] += read(caller)
    for name, count in counts.items():
        yield Observation(count, {"batch": name})


def _hedges() -> Iterator[Observation]:
    return _summed(lambda caller: caller.hedged())


def _in_flight() -> Iterator[Observation]:
    return _summed(lambda caller: caller.in_flight())


def _abandoned() -> Iterator[Observation]:
    return _summed(lambda caller: caller.abandoned.now)
