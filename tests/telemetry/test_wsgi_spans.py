"""The spans of one WSGI request as a whole tree, admitted and refused, with the server spans of other people and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.trace import SpanKind

from resilience.integrations.wsgi import ResilienceMiddleware
from tests.integrations.wsgi.apps import TEXT, Bench, answering, failing, listing
from tests.integrations.wsgi.conversation import Conversation, left_open
from tests.telemetry.recording import PARENT_ID, SAMPLED, UNSAMPLED, Recording
from tests.telemetry.test_request_spans import ADMITTED, CASES, TOO_LATE, nothing

Handler = Callable[[Any], None]
"""What the handler does before it answers 200."""


def under_otel(bench: Bench, work: Handler) -> Any:
    """A bare application under OpenTelemetry's own middleware."""
    return OpenTelemetryMiddleware(untraced(bench, work))


def untraced(bench: Bench, work: Handler) -> Any:
    """Nobody else makes spans."""

    def app(environ: Any, start_response: Any) -> Any:
        work(bench)
        return answering()(environ, start_response)

    return bench.guard(app, validated=False)


def in_flask(bench: Bench, work: Handler) -> Any:
    """Flask, whose instrumentation makes its span inside the application, so within the middleware."""
    app = Flask(__name__)

    @app.get("/orders")
    def order() -> str:
        work(bench)
        return "hello"

    FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]  # it declares none
    return ResilienceMiddleware(app.wsgi_app, pipeline=bench.pipeline)


def in_flask_under_otel(bench: Bench, work: Handler) -> Any:
    """The same with OpenTelemetry's middleware around it, as the documentation advises."""
    return OpenTelemetryMiddleware(in_flask(bench, work))


def exchange(app: Any, recorded: Recording, headers: list[tuple[str, str]]) -> Conversation:
    """One request to /orders, and only its spans."""
    recorded.clear()
    return Conversation(app, "/orders", headers=headers, validated=False).run()


@pytest.mark.parametrize(("before", "headers", "status", "layers"), CASES)
def test_the_layers_are_leaves_under_the_server_span(
    before: Callable[[Any], None], headers: list[tuple[str, str]], status: int, layers: str, recorded: Recording
) -> None:
    bench = Bench()
    before(bench)
    talk = exchange(under_otel(bench, nothing), recorded, [("traceparent", SAMPLED), *headers])
    assert talk.status == status
    error = " ERROR (None)" if status >= 500 else ""  # of the instrumentation's own making, by the status of the response
    assert recorded.tree() == f"GET /orders SERVER{error} under {PARENT_ID}{layers}"


@pytest.mark.parametrize(("before", "headers", "status", "layers"), CASES)
def test_without_a_server_span_the_call_has_one_of_its_own_under_what_the_request_brought(
    before: Callable[[Any], None], headers: list[tuple[str, str]], status: int, layers: str, recorded: Recording
) -> None:
    bench = Bench()
    before(bench)
    talk = exchange(untraced(bench, nothing), recorded, [("traceparent", SAMPLED), *headers])
    assert talk.status == status
    assert recorded.tree() == f"resilience api INTERNAL under {PARENT_ID} pipeline=api{layers}"


def test_flask_s_span_is_within_the_call_and_becomes_no_second_server_span(recorded: Recording) -> None:
    exchange(in_flask(Bench(), nothing), recorded, [("traceparent", SAMPLED)])
    assert recorded.tree() == f"resilience api INTERNAL under {PARENT_ID} pipeline=api{ADMITTED}\n  GET /orders INTERNAL"


def test_with_otel_s_middleware_around_all_there_is_one_server_span(recorded: Recording) -> None:
    exchange(in_flask_under_otel(Bench(), nothing), recorded, [("traceparent", SAMPLED)])
    assert recorded.tree() == f"GET /orders SERVER under {PARENT_ID}{ADMITTED}\n  GET /orders INTERNAL"


@pytest.mark.parametrize("make", [under_otel, untraced, in_flask, in_flask_under_otel])
def test_unsampled_nothing_is_recorded(make: Callable[[Bench, Handler], Any], recorded: Recording) -> None:
    talk = exchange(make(Bench(), nothing), recorded, [("traceparent", UNSAMPLED)])
    assert talk.status == 200
    assert recorded.spans == []
    asked = {"GET /orders", "resilience api"}
    assert set(recorded.started) <= asked, "a sampler is asked once for a request, not for each layer"


@pytest.mark.parametrize("make", [under_otel, untraced])
def test_no_layer_s_span_is_current_in_the_handler_or_in_its_body(make: Any, recorded: Recording) -> None:
    bench, tracer, outside = Bench(), trace.get_tracer("of the handler"), trace.get_current_span()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for number in range(2):
            with tracer.start_as_current_span(f"part {number}"):
                pass
            yield b"part"

    guarded = bench.guard(app, validated=False)
    talk = Conversation(OpenTelemetryMiddleware(guarded) if make is under_otel else guarded, "/orders", validated=False)
    recorded.clear()
    with left_open(talk):
        while talk.next_part():
            assert make is under_otel or trace.get_current_span() is outside
    assert trace.get_current_span() is outside
    root = next(span for span in recorded.spans if span.parent is None)
    for number in range(2):
        part = recorded.span(f"part {number}")
        assert part.parent is not None
        assert root.context is not None
        assert part.parent.span_id == root.context.span_id
    assert [span.kind for span in recorded.spans].count(SpanKind.SERVER) == (1 if make is under_otel else 0)


@pytest.mark.parametrize("length", [[], [("content-length", "5")]], ids=["without a length", "with a length"])
def test_all_that_a_body_does_is_within_the_call_s_own_span(length: Any, recorded: Recording) -> None:
    tracer = trace.get_tracer("of the handler")

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            with tracer.start_as_current_span("query"):
                return iter([b"he", b"llo"])

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, *length])
        return Body()

    exchange(Bench().guard(app, validated=False), recorded, [("traceparent", SAMPLED)])
    assert recorded.tree() == f"resilience api INTERNAL under {PARENT_ID} pipeline=api{ADMITTED}\n  query INTERNAL"


@pytest.mark.parametrize("make", [under_otel, untraced])
@pytest.mark.parametrize("body", [[b"hello"], iter([b"hello"])])
def test_changes_of_state_are_events_of_the_request_s_span_recorded_before_it_ends(
    make: Any, body: Any, recorded: Recording
) -> None:
    bench = Bench()
    bench.half_open()
    guarded = bench.guard(listing(body=body), validated=False)
    exchange(OpenTelemetryMiddleware(guarded) if make is under_otel else guarded, recorded, [])
    root = next(span for span in recorded.spans if span.parent is None)
    changes = [
        (dict(event.attributes or {})["resilience.old"], dict(event.attributes or {})["resilience.new"]) for event in root.events
    ]
    assert changes == [("open", "half_open"), ("half_open", "closed")]


@pytest.mark.parametrize("make", [under_otel, untraced])
def test_a_failure_opens_the_breaker_in_the_request_s_span(make: Any, recorded: Recording) -> None:
    guarded = Bench().guard(failing(ValueError("a bug")), validated=False)
    with pytest.raises(ValueError, match="a bug"):
        exchange(OpenTelemetryMiddleware(guarded) if make is under_otel else guarded, recorded, [])
    root = next(span for span in recorded.spans if span.parent is None)
    assert [event.name for event in root.events if event.name.startswith("resilience.")] == [
        "resilience.breaker.changed",
        "resilience.health.changed",
    ]


@pytest.mark.parametrize("make", [under_otel, untraced])
def test_a_response_that_comes_too_late_leaves_a_span_of_its_own(make: Any, recorded: Recording) -> None:
    bench = Bench()

    def takes_time(bench: Any) -> None:
        bench.clock.advance(6.0)

    exchange(make(bench, takes_time), recorded, [("traceparent", SAMPLED)])
    root = "resilience api INTERNAL" if make is untraced else "GET /orders SERVER"
    own = " pipeline=api" if make is untraced else ""
    changes = """
  ! resilience.breaker.changed generation=2 new=open old=closed policy=orders reason=1 of 1 calls failed
  ! resilience.health.changed factor=0.3 old_factor=1.0 reason=incident signal=default"""
    expired = TOO_LATE.replace("expired_on_arrival", "expired")
    assert recorded.tree() == f"{root} under {PARENT_ID}{own}{changes}{ADMITTED}{expired}"


def test_what_else_the_request_brought_is_there_in_the_handler(recorded: Recording) -> None:
    seen: list[object] = []

    def look(bench: Any) -> None:
        seen.append(baggage.get_baggage("customer"))

    exchange(untraced(Bench(), look), recorded, [("traceparent", SAMPLED), ("baggage", "customer=7")])
    assert seen == ["7"]
    assert baggage.get_baggage("customer") is None
