"""Spans: a leaf for each layer that acts, one around each attempt, and one around a call that nobody else traces."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import Any, Final

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
)

from resilience.call import Call
from resilience.clock import wall_ns
from resilience.tracing import CallTrace

_tracer = trace.get_tracer("resilience")
_current_context: Final = context.get_current
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(INVALID_SPAN, Context())))
"""Where a context has its span. `trace.get_current_span` looks there too, at three times the price, and each request pays it."""
_has_sdk = False


def begin(pipeline: str, call: Call) -> CallTrace | None:
    """Decide whether to record `call`.

    A current span that records is the parent of all its spans. One that is valid and does not record: nothing is built. Without a
    valid one, and with an SDK, the call opens an internal span of its own, under the trace context that it brought along; not
    within a call that is not recorded itself, or a sampler would be asked again for each part of what it has left out.
    """
    current: Any = _current_context().get(_SPAN_KEY)
    if current is not None and current is not INVALID_SPAN:
        if type(current) is not NonRecordingSpan and current.is_recording():
            if not _has_sdk:
                _sdk_has_come()
            return RECORDED
        if current.get_span_context().is_valid:
            return None
    if call.parent is not None or not has_sdk():
        return None
    carrier = call.carrier
    around = None if carrier is None else propagate.extract(carrier)
    own = _tracer.start_span(f"resilience {pipeline}", around, kind=SpanKind.INTERNAL, attributes={"resilience.pipeline": pipeline})
    return OwnSpanTrace(own, around) if own.is_recording() else None


def trace_id() -> str:
    """The id of the trace of the current span, recorded or not; empty where there is no valid one."""
    current = trace.get_current_span()
    if current is INVALID_SPAN:
        return ""
    context = current.get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""


def has_sdk() -> bool:
    """Whether spans go anywhere: the user has set a tracer provider."""
    return _has_sdk or _sdk_has_come()


def _sdk_has_come() -> bool:
    global _has_sdk, _tracer
    # While there is no provider, `get_tracer_provider` reads the environment each time, which costs as much as a limiter. What the
    # environment names was loaded when the tracer above was made.
    if getattr(trace, "_TRACER_PROVIDER", trace) is None:
        return False
    _has_sdk = not isinstance(trace.get_tracer_provider(), (ProxyTracerProvider, trace.NoOpTracerProvider))
    if _has_sdk:
        _tracer = trace.get_tracer("resilience")  # not by way of the one above, which would pass each span on to this
    return _has_sdk


class SpanTrace:
    """Records a call under the span that was current when it began."""

    __slots__ = ()

    def layer(self, kind: str, pipeline: str, policy: str) -> LeafSpan:
        return LeafSpan("resilience." + kind, pipeline, policy)

    def attempt(self, number: int, pipeline: str, policy: str) -> AttemptSpan:
        return AttemptSpan(_tracer.start_span("resilience.retry"), pipeline, policy)

    def work(self, kind: str, pipeline: str, policy: str) -> AttemptSpan:
        return AttemptSpan(_tracer.start_span(f"resilience.{kind}"), pipeline, policy)

    def enter(self) -> None:
        """The span is current already."""

    def exit(self) -> None:
        """It is not ours to leave."""

    def finish(self, error: BaseException | None = None) -> None:
        """It is not ours to end."""


RECORDED: Final = SpanTrace()
"""It knows nothing of its call, so that one does for all."""


class OwnSpanTrace(SpanTrace):
    """Records a call that nobody traces yet under a span of its own."""

    __slots__ = ("_around", "_span", "_token")

    def __init__(self, span: Span, around: Context | None) -> None:
        self._span = span
        self._around = around  # with what else came along, such as baggage
        self._token: Token[Context] | None = None

    def enter(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self._span, self._around))

    def exit(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            context.detach(token)

    def finish(self, error: BaseException | None = None) -> None:
        self._span.end()


class LeafSpan:
    """The span of one layer's admission. An error stands on it alone, not on the spans around it.

    It is made when it ends, with the beginning that it had, and then has all its attributes: to add them to a span that was made
    before costs a fifth more. Nothing can come between, since it is never the current one.
    """

    __slots__ = ("_began_ns", "_name", "_pipeline", "_policy")

    def __init__(self, name: str, pipeline: str, policy: str) -> None:
        self._began_ns = wall_ns()
        self._name = name
        self._pipeline = pipeline
        self._policy = policy

    def end(self, decision: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        told = {
            "resilience.pipeline": self._pipeline,
            "resilience.policy": self._policy,
            "resilience.decision": decision,
            **attributes,
        }
        # The SDK looks for the context twice where it is not told.
        span = _tracer.start_span(self._name, _current_context(), SpanKind.INTERNAL, told, None, self._began_ns)
        if error is None:
            span.end()
        else:
            _end(span, error)


class AttemptSpan:
    """The span around one attempt or task: the current one until it ends, so that what is done in it nests under it."""

    __slots__ = ("_pipeline", "_policy", "_span", "_token")

    def __init__(self, span: Span, pipeline: str, policy: str) -> None:
        self._span = span
        self._pipeline = pipeline
        self._policy = policy
        self._token = context.attach(trace.set_span_in_context(span))

    def end(self, decision: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        context.detach(self._token)
        self._span.set_attributes(_told(self._pipeline, self._policy, decision, attributes))
        _end(self._span, error)


def _told(pipeline: str, policy: str, decision: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"resilience.pipeline": pipeline, "resilience.policy": policy, "resilience.decision": decision, **attributes}


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, _describe(error)))
    span.end()


def _describe(error: BaseException) -> str:
    """The class and, for our own errors, the reason; the text of others may hold what a client sent."""
    reason = getattr(error, "reason", "")
    return f"{type(error).__name__}: {reason}" if reason and isinstance(reason, str) else type(error).__name__
