"""Spans: a leaf for each layer that acts, one around each attempt, and one around a call that nobody else traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from operator import attrgetter
from typing import Any, Final

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
)

from resilience.call import Call
from resilience.clock import wall_ns
from resilience.tracing import CallTrace, Leaf


def _reader() -> Callable[[], Context]:
    """What reads the current context: the variable that it is kept in, where it is in one as by default.

    The public function does the same at three times the price, and each request pays it.
    """
    keeper = getattr(context, "_RUNTIME_CONTEXT", None)
    variable = getattr(keeper, "_current_context", None)
    return variable.get if type(keeper) is ContextVarsRuntimeContext and isinstance(variable, ContextVar) else context.get_current


_tracer = trace.get_tracer("resilience")
_current_context: Final = _reader()
_INTERNAL: Final = SpanKind.INTERNAL
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(INVALID_SPAN, Context())))
"""Where a context has its span. `trace.get_current_span` looks there too, at three times the price, and each request pays it."""
_IS_VALID: Final = [*SpanContext(trace_id=2, span_id=2, is_remote=False)].index(True)
"""Where a span context, which is a tuple, says whether it is valid. Its property says so at twice the price, to each request."""
_context_of: Final[Callable[[Any], SpanContext]] = (
    attrgetter("_context") if hasattr(INVALID_SPAN, "_context") else NonRecordingSpan.get_span_context
)
"""Reads the span context of a span that does not record. Its method does so at twice the price, to each request."""
_has_sdk = False


def begin(pipeline: str, call: Call) -> CallTrace | None:
    """Decide whether to record `call`.

    A current span that records is the parent of all its spans. One that is valid and does not record: nothing is built. Without a
    valid one, and with an SDK, the call opens an internal span of its own, under the trace context that it brought along; not
    within a call that is not recorded itself, or a sampler would be asked again for each part of what it has left out.
    """
    current: Any = _current_context().get(_SPAN_KEY)
    if current.__class__ is NonRecordingSpan:  # the invalid one is one of these
        if _context_of(current)[_IS_VALID]:
            return None
    elif current is not None:
        if current.is_recording():
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
    has_own_span = False

    def layer(
        self,
        kind: str,
        pipeline: str,
        policy: str,
        began_ns: int,
        decision: str,
        attributes: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        """Record the leaf span of a layer. An error stands on it alone, not on the spans around it.

        It is made when it has ended, and then has all its attributes: a sampler sees them. Nothing can come between, since it is
        never the current one. What it costs to make is not in it.
        """
        ended_ns = wall_ns()
        told = {"resilience.pipeline": pipeline, "resilience.policy": policy, "resilience.decision": decision, **attributes}
        # The SDK looks for the context twice where it is not told.
        span = _tracer.start_span("resilience." + kind, _current_context(), _INTERNAL, told, None, began_ns)
        if error is not None:
            span.set_status(_failed(error))
        span.end(ended_ns)

    def leaves(self, leaves: Sequence[Leaf], error: BaseException | None = None) -> None:
        """Record the leaf spans of layers that have all decided by now. See `layer`."""
        start_span, around = _tracer.start_span, _current_context()
        for name, told, began_ns, ended_ns in leaves if error is None else leaves[:-1]:
            start_span(name, around, _INTERNAL, told, None, began_ns).end(ended_ns)
        if error is not None:
            name, told, began_ns, ended_ns = leaves[-1]
            span = start_span(name, around, _INTERNAL, told, None, began_ns)
            span.set_status(_failed(error))
            span.end(ended_ns)

    def attempt(self, number: int, pipeline: str, policy: str) -> AttemptSpan:
        return AttemptSpan("resilience.retry", pipeline, policy)

    def work(self, kind: str, pipeline: str, policy: str) -> AttemptSpan:
        return AttemptSpan(f"resilience.{kind}", pipeline, policy)

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
    has_own_span = True

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


class AttemptSpan:
    """The span around one attempt or task: the current one until it ends, so that what is done in it nests under it."""

    __slots__ = ("_pipeline", "_policy", "_span", "_token")

    def __init__(self, name: str, pipeline: str, policy: str) -> None:
        around = _current_context()
        self._span = span = _tracer.start_span(name, around)
        self._pipeline = pipeline
        self._policy = policy
        self._token = context.attach(trace.set_span_in_context(span, around))

    def end(self, decision: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        context.detach(self._token)
        self._span.set_attributes(_told(self._pipeline, self._policy, decision, attributes))
        if error is not None:
            self._span.set_status(_failed(error))
        self._span.end()


def _told(pipeline: str, policy: str, decision: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"resilience.pipeline": pipeline, "resilience.policy": policy, "resilience.decision": decision, **attributes}


def _failed(error: BaseException) -> Status:
    """With the class and, for our own errors, the reason; the text of others may hold what a client sent."""
    reason = getattr(error, "reason", "")
    name = type(error).__name__
    return Status(StatusCode.ERROR, f"{name}: {reason}" if reason and isinstance(reason, str) else name)
