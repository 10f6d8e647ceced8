"""State changes as span events and log records."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

from opentelemetry import trace

from resilience.events import BreakerChanged, ConfigLoaded, ConfigRefused, Event, HealthChanged, StoreChanged
from resilience.registry import enrol

log = logging.getLogger("resilience")
_LONGEST = 1_000


class ChangeReporter:
    """Writes each event to the span that is current where it happened, and to the log with that span's ids."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.configs_loaded = 0
        self.configs_refused = 0
        enrol(self)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._lock = threading.Lock()

    def on_event(self, event: Event) -> None:
        """Report `event`."""
        self._count(event)
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(f"resilience.{_name(event)}", _attributes(event))
        level, text = _describe(event)
        if log.isEnabledFor(level):
            log.log(level, "%s", text, extra=_ids(span))

    def _count(self, event: Event) -> None:
        with self._lock:
            self.configs_loaded += isinstance(event, ConfigLoaded)
            self.configs_refused += isinstance(event, ConfigRefused)


def _name(event: Event) -> str:
    names = {
        BreakerChanged: "breaker.changed",
        HealthChanged: "health.changed",
        ConfigLoaded: "config.loaded",
        ConfigRefused: "config.refused",
        StoreChanged: "store.changed",
    }
    return names[type(event)]


def _attributes(event: Event) -> dict[str, Any]:
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return {f"resilience.{name}": value for name, value in fields.items() if value not in (None, ())}


def _describe(event: Event) -> tuple[int, str]:
    if isinstance(event, BreakerChanged):
        which = event.policy if event.key is None else f"{event.policy} for {event.key!r:.100}"
        level = logging.WARNING if event.new == "open" else logging.INFO
        return level, f"circuit breaker {which}: {event.old} -> {event.new} ({event.reason})"
    if isinstance(event, HealthChanged):
        level = logging.WARNING if event.factor < event.old_factor else logging.INFO
        return level, f"health signal {event.signal}: factor {event.old_factor:g} -> {event.factor:g} ({event.reason})"
    if isinstance(event, ConfigLoaded):
        return _describe_load(event)
    if isinstance(event, StoreChanged):
        if event.answers:
            return logging.INFO, f"store {event.store}: {event.reason}; limits and health are shared again"
        return logging.ERROR, f"store {event.store}: {event.reason}; each limiter goes by its on_store_error until it answers again"
    return logging.ERROR, f"configuration {event.path} is refused:\n{event.error[:_LONGEST]}"


def _describe_load(event: ConfigLoaded) -> tuple[int, str]:
    fates = (("starts fresh", event.added), ("is removed", event.removed), ("restarts in part", event.restarted))
    lines = [f"\n  {fate}: {what}" for fate, policies in fates for what in policies]
    level = logging.WARNING if event.removed or event.restarted else logging.INFO  # state that somebody may miss
    return level, f"configuration {event.path} is in force (sha256 {event.sha256[:12]})" + "".join(lines)[:_LONGEST]


def _ids(span: trace.Span) -> dict[str, str]:
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}
