"""State changes as log records: levels, words, trace ids, and nothing that a client could have written."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import resilience
from resilience import CircuitBreaker, ConfigError, HealthSignal, Pipeline, RateLimiter
from resilience.testing import ManualClock, RecordingObserver
from tests.integrations.asgi.apps import Bench, answering
from tests.integrations.asgi.conversation import Conversation, run
from tests.telemetry.recording import SAMPLED, TRACE_ID, Recording

tracer = trace.get_tracer("of a server")
CONFIG = """\
version: 1
limiters:
  api: {rate: 10/s}
"""


def ours(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Level and text of our records, each of one line."""
    records = [record for record in caplog.records if record.name == "resilience"]
    return [(record.levelno, record.getMessage()) for record in records]


def fail(pipeline: Pipeline) -> None:
    """One call that fails."""

    def work() -> None:
        raise OSError("the dependency is down")

    with contextlib.suppress(OSError):
        pipeline.call(work)


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resilience")


def test_an_incident_and_its_end_are_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    health = HealthSignal(clock=clock)
    breaker = CircuitBreaker(min_calls=1, probes=1, health=health, name="payments", clock=clock, uniform=lambda: 0.0)
    pipeline = Pipeline("payments", breaker)
    fail(pipeline)
    clock.advance(30.0)
    pipeline.call(str)
    clock.advance(60.0)
    assert health.factor == 0.35
    assert ours(caplog) == [
        (logging.WARNING, "circuit breaker payments: closed -> open (1 of 1 calls failed)"),
        (logging.WARNING, "health signal default: factor 1 -> 0.3 (incident)"),
        (logging.INFO, "circuit breaker payments: open -> half_open (open time over)"),
        (logging.INFO, "circuit breaker payments: half_open -> closed (1 of 1 probes succeeded)"),
        (logging.INFO, "health signal default: factor 0.3 -> 0.35 (recovery)"),
    ]


def test_records_carry_the_ids_of_the_span_that_was_current(recorded: Recording, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER) as span:
        fail(Pipeline("payments", CircuitBreaker(min_calls=1, name="payments", clock=clock)))
    context = span.get_span_context()
    (record,) = (record for record in caplog.records if record.name == "resilience")
    assert vars(record)["trace_id"] == trace.format_trace_id(context.trace_id)
    assert vars(record)["span_id"] == trace.format_span_id(context.span_id)
    assert [event.name for event in recorded.span("GET /orders").events] == ["resilience.breaker.changed"]


def test_records_of_a_request_carry_the_trace_that_it_brought(recorded: Recording, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    run(Conversation(bench.guard(answering(500)), headers=[("traceparent", SAMPLED)]).run())
    records = [record for record in caplog.records if record.name == "resilience"]
    assert len(records) == 2
    assert {vars(record)["trace_id"] for record in records} == {TRACE_ID}


def test_a_trace_that_is_not_sampled_gives_its_ids_to_the_log_all_the_same(
    recorded: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    context = trace.SpanContext(int(TRACE_ID, 16), 1, is_remote=False, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)):
        fail(Pipeline("payments", CircuitBreaker(min_calls=1, clock=ManualClock())))
    (record,) = (record for record in caplog.records if record.name == "resilience")
    assert vars(record)["trace_id"] == TRACE_ID
    assert recorded.started == []


def test_without_a_span_records_have_no_ids(caplog: pytest.LogCaptureFixture) -> None:
    fail(Pipeline("payments", CircuitBreaker(min_calls=1, clock=ManualClock())))
    (record,) = (record for record in caplog.records if record.name == "resilience")
    assert "trace_id" not in vars(record)


def test_a_key_that_a_client_chose_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    evil = "a\nCRITICAL:root:all is lost\x1b[31m" + "x" * 500
    breaker = CircuitBreaker(min_calls=1, key=lambda call: evil, name="hosts", clock=ManualClock())
    fail(Pipeline("hosts", breaker))
    ((level, text),) = ours(caplog)
    assert level == logging.WARNING
    assert text.isprintable()
    assert len(text) < 250


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_no_header_of_a_client_is_in_a_log_a_span_or_an_answer(
    header: str, recorded: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    from resilience.integrations.asgi import ResilienceMiddleware

    clock = ManualClock()
    limiter = RateLimiter(0.1, 1, key=f"header:{header}", name="per_client", clock=clock)
    breaker = CircuitBreaker(min_calls=1, key=f"header:{header}", name="per_client", clock=clock)
    app = ResilienceMiddleware(answering(500), pipeline=Pipeline("api", limiter, breaker))

    async def scenario() -> str:
        talks = [await Conversation(app, headers=[(header, "s3cr3t\tkey")]).run() for _ in range(2)]
        assert [talk.status for talk in talks] == [500, 429]
        return "".join(str(talk.sent) for talk in talks)

    answers = run(scenario())
    shown = recorded.tree() + str([span.to_json() for span in recorded.spans]) + str(ours(caplog)) + answers
    assert "s3cr3t" not in shown


def test_a_configuration_that_loads_and_one_that_is_refused_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    with resilience.load(path) as toolkit:
        path.write_text(CONFIG.replace("10/s", "10/week"), encoding="utf-8")
        with pytest.raises(ConfigError), tracer.start_as_current_span("reload"):
            toolkit.reload()
    told = ours(caplog)
    sha256 = toolkit.status()["sha256"]
    assert told[0] == (logging.INFO, f"configuration {path} is in force (sha256 {sha256[:12]})")
    level, text = told[-1]
    assert level == logging.ERROR
    assert text.startswith(f"configuration {path} is refused:\n{path}:3:15: limiters.api.rate: ")


def test_a_configuration_is_an_event_of_the_span_that_was_current(recorded: Recording, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    with tracer.start_as_current_span("deploy"), resilience.load(path) as toolkit:
        toolkit.reload()
    sha256 = toolkit.status()["sha256"]
    assert [(event.name, dict(event.attributes or {})) for event in recorded.span("deploy").events] == [
        ("resilience.config.loaded", {"resilience.path": str(path), "resilience.sha256": sha256})
    ] * 2


def test_an_observer_may_use_the_toolkit_that_it_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    seen: list[int] = []

    class Curious(RecordingObserver):
        def on_event(self, event: resilience.Event) -> None:
            with resilience.load(path) as again:
                seen.append(again.status()["version"])

    with Curious(), resilience.load(path) as toolkit:
        toolkit.reload()
    assert seen == [1, 2]
