"""The spans of one request as a whole tree, admitted and refused, under other people's server spans and without them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resilience import CircuitOpen, Pipeline
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import Bench, answering, with_lifespan
from tests.integrations.asgi.conversation import Conversation, run, turns
from tests.integrations.asgi.server import serving
from tests.telemetry.recording import PARENT_ID, SAMPLED, TRACE_ID, Recording

Handler = Callable[[Bench], None]
"""What the handler does before it answers 200."""


def nothing(bench: Bench) -> None:
    """It only answers."""


def under_otel(bench: Bench, work: Handler) -> Any:
    """A bare application under OpenTelemetry's own middleware."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        work(bench)
        await answering()(scope, receive, send)

    return OpenTelemetryMiddleware(bench.guard(app), exclude_spans=["send"])


def in_starlette(bench: Bench, work: Handler) -> Any:
    """Starlette with the server span of its instrumentation."""

    async def order(request: Request) -> PlainTextResponse:
        work(bench)
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/orders", order)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    StarletteInstrumentor.instrument_app(app)
    return app


def in_fastapi(bench: Bench, work: Handler) -> Any:
    """FastAPI with the server span of its instrumentation."""
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)

    @app.get("/orders")
    async def order() -> PlainTextResponse:
        work(bench)
        return PlainTextResponse("hello")

    FastAPIInstrumentor.instrument_app(app, exclude_spans=["send"])
    return app


def untraced(bench: Bench, work: Handler) -> Any:
    """Nobody else makes spans."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        work(bench)
        await answering()(scope, receive, send)

    return bench.guard(app)


SERVERS = [under_otel, in_starlette, in_fastapi]
ADMITTED = """
  resilience.deadline INTERNAL deadline.remaining_s=5.0 decision=admitted pipeline=api policy=api
  resilience.limiter INTERNAL decision=admitted health.factor=1.0 limiter.rate=1.0 limiter.remaining=999 pipeline=api policy=api
  resilience.breaker INTERNAL breaker.failure_rate=0.0 breaker.generation=1 breaker.state=closed decision=admitted \
health.factor=1.0 pipeline=api policy=orders"""
OVER_LIMIT = """
  resilience.deadline INTERNAL deadline.remaining_s=5.0 decision=admitted pipeline=api policy=api
  resilience.limiter INTERNAL ERROR (RateLimited: quota) decision=rejected health.factor=1.0 limiter.rate=1.0 \
limiter.remaining=0 pipeline=api policy=api"""
OPEN = """
  resilience.deadline INTERNAL deadline.remaining_s=5.0 decision=admitted pipeline=api policy=api
  resilience.limiter INTERNAL decision=admitted health.factor=0.3 limiter.rate=0.3 limiter.remaining=299 pipeline=api policy=api
  resilience.breaker INTERNAL ERROR (CircuitOpen: open) breaker.failure_rate=0.0 breaker.generation=2 breaker.state=open \
decision=rejected health.factor=0.3 pipeline=api policy=orders"""
TOO_LATE = """
  resilience.deadline INTERNAL ERROR (DeadlineExceeded: expired_on_arrival) deadline.remaining_s=0.0 decision=expired \
pipeline=api policy=api"""


def empty_bucket(bench: Bench) -> None:
    """The limiter has nothing left."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())


def open_breaker(bench: Bench) -> None:
    """The breaker is open."""
    bench.breaker.pool.single._window.clear()
    bench.open_breaker()
    bench.breaker.pool.single._window.clear()


CASES = [
    pytest.param(nothing, [], 200, ADMITTED, id="admitted"),
    pytest.param(empty_bucket, [], 429, OVER_LIMIT, id="over the limit"),
    pytest.param(open_breaker, [], 503, OPEN, id="breaker open"),
    pytest.param(nothing, [("grpc-timeout", "0S")], 504, TOO_LATE, id="expired"),
]


def exchange(app: Any, recorded: Recording, headers: list[tuple[str, str]]) -> Conversation:
    """One request to /orders, and only its spans."""
    recorded.clear()
    return run(Conversation(app, "/orders", headers=headers).run())


@pytest.mark.parametrize(("before", "headers", "status", "layers"), CASES)
@pytest.mark.parametrize("make", SERVERS)
def test_the_layers_are_leaves_under_the_server_span(
    make: Callable[[Bench, Handler], Any],
    before: Handler,
    headers: list[tuple[str, str]],
    status: int,
    layers: str,
    recorded: Recording,
) -> None:
    bench = Bench()
    before(bench)
    talk = exchange(make(bench, nothing), recorded, [("traceparent", SAMPLED), *headers])
    assert talk.status == status
    error = " ERROR (None)" if status >= 500 else ""  # of the instrumentation's own making, by the status of the response
    sends = "\n  GET /orders http send INTERNAL" * 2 if make is in_starlette else ""
    if sends and error:
        sends = "\n  GET /orders http send INTERNAL ERROR (None)\n  GET /orders http send INTERNAL"
    assert recorded.tree() == f"GET /orders SERVER{error} under {PARENT_ID}{layers}{sends}"


@pytest.mark.parametrize(("before", "headers", "status", "layers"), CASES)
def test_without_a_server_span_the_call_has_one_of_its_own_under_what_the_request_brought(
    before: Handler, headers: list[tuple[str, str]], status: int, layers: str, recorded: Recording
) -> None:
    bench = Bench()
    before(bench)
    talk = exchange(untraced(bench, nothing), recorded, [("traceparent", SAMPLED), *headers])
    assert talk.status == status
    assert recorded.tree() == f"resilience api INTERNAL under {PARENT_ID} pipeline=api{layers}"
    assert {span.context.trace_id for span in recorded.spans if span.context} == {int(TRACE_ID, 16)}


def test_without_any_trace_context_the_call_begins_a_trace(recorded: Recording) -> None:
    exchange(untraced(Bench(), nothing), recorded, [])
    assert recorded.tree() == f"resilience api INTERNAL pipeline=api{ADMITTED}"


def test_over_a_real_server_the_tree_is_the_same(recorded: Recording) -> None:
    bench = Bench()
    app = OpenTelemetryMiddleware(bench.guard(with_lifespan(answering())), exclude_spans=["send"])
    with serving(app) as server:
        assert server.get("/orders", traceparent=SAMPLED).status_code == 200
    assert recorded.tree() == f"GET /orders SERVER under {PARENT_ID}{ADMITTED}"


@pytest.mark.parametrize("make", [*SERVERS, untraced])
def test_no_layer_s_span_is_current_in_the_handler(make: Callable[[Bench, Handler], Any], recorded: Recording) -> None:
    def look(bench: Bench) -> None:
        with trace.get_tracer("of the handler").start_as_current_span("work"):
            pass

    exchange(make(Bench(), look), recorded, [])
    work, root = recorded.span("work"), next(span for span in recorded.spans if span.parent is None)
    assert work.parent is not None
    assert root.context is not None
    assert work.parent.span_id == root.context.span_id
    assert root.name == ("resilience api" if make is untraced else "GET /orders")
    assert [span.kind for span in recorded.spans].count(SpanKind.SERVER) == (0 if make is untraced else 1)


@pytest.mark.parametrize("make", [*SERVERS, untraced])
def test_changes_of_state_are_events_of_the_server_span_recorded_before_it_ends(
    make: Callable[[Bench, Handler], Any], recorded: Recording
) -> None:
    bench = Bench()
    bench.half_open()
    exchange(make(bench, nothing), recorded, [])
    root = next(span for span in recorded.spans if span.parent is None)
    shown = [(event.name, dict(event.attributes or {})) for event in root.events]
    assert shown == [
        (
            "resilience.breaker.changed",
            {
                "resilience.policy": "orders",
                "resilience.old": "open",
                "resilience.new": "half_open",
                "resilience.generation": 3,
                "resilience.reason": "open time over",
            },
        ),
        (
            "resilience.breaker.changed",
            {
                "resilience.policy": "orders",
                "resilience.old": "half_open",
                "resilience.new": "closed",
                "resilience.generation": 4,
                "resilience.reason": "1 of 1 probes succeeded",
            },
        ),
    ]
    assert recorded.span("resilience.breaker").attributes["resilience.decision"] == "probe"  # type: ignore[index]


def test_the_factor_that_moves_is_an_event_of_the_request_that_finds_it(recorded: Recording) -> None:
    bench = Bench()
    bench.half_open()
    exchange(under_otel(bench, nothing), recorded, [])
    bench.clock.advance(120.0)
    exchange(under_otel(bench, nothing), recorded, [])
    (event,) = recorded.span("GET /orders").events
    assert event.name == "resilience.health.changed"
    assert dict(event.attributes or {}) == {
        "resilience.signal": "default",
        "resilience.old_factor": 0.3,
        "resilience.factor": 0.4,
        "resilience.reason": "recovery",
    }


@pytest.mark.parametrize("make", [under_otel, untraced])
def test_a_deadline_that_runs_out_at_work_leaves_a_span_of_its_own(
    make: Callable[[Bench, Handler], Any], recorded: Recording
) -> None:
    bench = Bench()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def scenario() -> None:
        app = bench.guard(waits)
        app = OpenTelemetryMiddleware(app, exclude_spans=["send"]) if make is under_otel else app
        talk = Conversation(app, "/orders", headers=[("traceparent", SAMPLED)]).start()
        await turns()
        bench.clock.advance(5.0)
        await talk.task
        assert talk.status == 504

    run(scenario())
    root = "resilience api INTERNAL" if make is untraced else "GET /orders SERVER ERROR (None)"
    own = " pipeline=api" if make is untraced else ""
    changes = """
  ! resilience.breaker.changed generation=2 new=open old=closed policy=orders reason=1 of 1 calls failed
  ! resilience.health.changed factor=0.3 old_factor=1.0 reason=incident signal=default"""
    expired = TOO_LATE.replace("expired_on_arrival", "expired")
    assert recorded.tree() == f"{root} under {PARENT_ID}{own}{changes}{ADMITTED}{expired}"


def test_a_refusal_of_an_outgoing_pipeline_nests_under_the_server_span_and_errs_on_its_layer_only(recorded: Recording) -> None:
    bench, inner = Bench(), Bench()
    inner.breaker.force("open")
    outgoing = Pipeline("payments", inner.breaker)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(CircuitOpen):
            await outgoing.acall(asyncio.sleep, 0)
        await answering()(scope, receive, send)

    exchange(OpenTelemetryMiddleware(bench.guard(app), exclude_spans=["send"]), recorded, [])
    refused = """
  resilience.breaker INTERNAL ERROR (CircuitOpen: forced) breaker.failure_rate=0.0 breaker.generation=2 breaker.state=open \
decision=rejected health.factor=0.3 pipeline=payments policy=orders"""
    assert recorded.tree() == f"GET /orders SERVER{ADMITTED}{refused}"
    assert recorded.span("GET /orders").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("make", [under_otel, untraced])
def test_no_layer_s_span_holds_what_it_costs_to_make_the_others(make: Callable[[Bench, Handler], Any], recorded: Recording) -> None:
    exchange(make(Bench(), nothing), recorded, [])
    deadline, limiter, breaker = (recorded.span(f"resilience.{kind}") for kind in ("deadline", "limiter", "breaker"))
    assert (deadline.end_time, limiter.end_time) == (limiter.start_time, breaker.start_time)
    assert (deadline.start_time or 0) <= (deadline.end_time or 0) <= (limiter.end_time or 0) <= (breaker.end_time or 0)
    root = next(span for span in recorded.spans if span.parent is None)
    assert (root.start_time or 0) <= (deadline.start_time or 0)
    assert (breaker.end_time or 0) <= (root.end_time or 0)


def test_a_wait_for_tokens_is_within_the_limiter_s_span(recorded: Recording) -> None:
    from resilience import RateLimiter
    from resilience.testing import ManualClock

    clock = ManualClock()
    limiter = RateLimiter(2.0, 1, max_wait_s=5.0, name="api", clock=clock)
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", limiter))
    exchange(app, recorded, [])
    exchange(app, recorded, [])
    assert recorded.tree() == (
        "resilience api INTERNAL pipeline=api\n"
        "  resilience.limiter INTERNAL decision=queued health.factor=1.0 limiter.rate=2.0 limiter.remaining=0 limiter.wait_s=0.5 "
        "pipeline=api policy=api"
    )
