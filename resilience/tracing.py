"""The seam to tracing. The core asks it whether anybody is looking; the telemetry room answers with OpenTelemetry spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from resilience.call import Call


Leaf = tuple[str, Mapping[str, Any], int, int]
"""A leaf span: its name, its attributes, and when the layer was asked and had decided, by `clock.wall_ns`."""


class WorkSpan(Protocol):
    """A span that is being recorded around one attempt or task."""

    def end(self, decision: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        """Finish it with what was decided. `error` marks it as failed."""


class CallTrace(Protocol):
    """One call that is being recorded.

    has_own_span: whether it has a span of its own; without one there is nothing to `enter`, to `exit` and to `finish`.
    """

    has_own_span: bool

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
        """Record the leaf span of a layer that has just decided. It never is the current span.

        `began_ns` is when the layer was asked, by `clock.wall_ns`; `error` marks the span as failed.
        """

    def leaves(self, leaves: Sequence[Leaf], error: BaseException | None = None) -> None:
        """Record the leaf spans of layers that have decided one after the other; `error` marks the last of them as failed."""

    def attempt(self, number: int, pipeline: str, policy: str) -> WorkSpan:
        """Start the span of one attempt, which is the current span until it ends."""

    def work(self, kind: str, pipeline: str, policy: str) -> WorkSpan:
        """Start the span of what a layer does itself, which is the current span until it ends."""

    def enter(self) -> None:
        """Make the call's own span current, where it has one."""

    def exit(self) -> None:
        """Undo `enter` in the same context."""

    def finish(self, error: BaseException | None = None) -> None:
        """End the call's own span, where it has one."""


Begin = Callable[[str, "Call"], "CallTrace | None"]


def _untraced(pipeline: str, call: Call) -> CallTrace | None:
    return None


begin: Begin = _untraced
"""Answers, for each call, whether to record it. Replaced by `install`; called as `tracing.begin`."""


def install(answer: Begin) -> None:
    """Put `answer` in the place of `begin` for this process."""
    global begin
    begin = answer


TraceId = Callable[[], str]


def _no_trace() -> str:
    return ""


trace_id: TraceId = _no_trace
"""The id of the trace that this task or thread is in, as 32 hexadecimal digits; empty where it is in none. Called as
`tracing.trace_id`."""


def install_trace_id(answer: TraceId) -> None:
    """Put `answer` in the place of `trace_id` for this process."""
    global trace_id
    trace_id = answer
