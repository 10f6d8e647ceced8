"""OpenTelemetry spans, span events, log records and metrics. The API only: the SDK is the user's."""

from __future__ import annotations

from resilience import tracing
from resilience.events import subscribe
from resilience.telemetry.changes import ChangeReporter
from resilience.telemetry.metrics import observe
from resilience.telemetry.spans import begin, trace_id


def install() -> None:
    """Connect the core to OpenTelemetry. Done once, when `resilience` is imported."""
    reporter = ChangeReporter()
    subscribe(reporter)
    tracing.install(begin)
    tracing.install_trace_id(trace_id)
    observe(reporter)
