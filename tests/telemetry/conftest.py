"""One SDK for the process, since OpenTelemetry takes only one. It records nothing but what tests ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.telemetry.recording import Recording, Switch


@pytest.fixture(scope="session")
def sdk() -> tuple[InMemorySpanExporter, Switch, InMemoryMetricReader]:
    """The SDK of the whole run."""
    exporter, switch, reader = InMemorySpanExporter(), Switch(), InMemoryMetricReader()
    tracers = TracerProvider(sampler=switch, shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    assert trace.get_tracer_provider() is tracers, "somebody else has set up OpenTelemetry in this process"
    return exporter, switch, reader


@pytest.fixture
def recorded(sdk: tuple[InMemorySpanExporter, Switch, InMemoryMetricReader]) -> Iterator[Recording]:
    """Spans are recorded while the test runs."""
    exporter, switch, reader = sdk
    recording = Recording(exporter, switch, reader)
    recording.clear()
    switch.is_on = True
    try:
        yield recording
        assert context.get_current() == {}, "a span is still current"
    finally:
        switch.is_on = False
        recording.clear()
