"""Spans of calls in code: attempts around their work, and nothing at all where nobody records."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode

from resilience import CircuitBreaker, CircuitOpen, Deadline, Pipeline, RateLimited, RateLimiter, Retry, stage
from resilience.telemetry import spans
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import Bench, answering
from tests.integrations.asgi.conversation import Conversation, run
from tests.telemetry.recording import PARENT_ID, SAMPLED, UNSAMPLED, Recording

ROOT = Path(__file__).resolve().parents[2]
Drive = Callable[[Pipeline, Callable[[], Any]], Any]
client = trace.get_tracer("of a client")


def via_sync(pipeline: Pipeline, work: Callable[[], Any]) -> Any:
    """Call `work` in this thread."""
    return pipeline.call(work)


def via_async(pipeline: Pipeline, work: Callable[[], Any]) -> Any:
    """Await `work` on a loop of its own."""

    async def awaited() -> Any:
        return work()

    return asyncio.run(pipeline.acall(awaited))


def flaky(failures: int) -> Callable[[], str]:
    """Work that fails so many times, each try with a client span of its own."""
    left = [failures]

    def work() -> str:
        with client.start_as_current_span("POST", kind=SpanKind.CLIENT):
            pass
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("what\nthe client sent")
        return "done"

    return work


def payments(clock: ManualClock) -> Pipeline:
    """Deadline, retry, and a breaker for each attempt."""
    return Pipeline(
        "payments",
        Deadline(10.0, name="payments", clock=clock),
        Retry(3, backoff_s=0.25, name="payments", clock=clock),
        CircuitBreaker(name="payments", min_calls=100, clock=clock),
    )


def attempt(number: int, delay_s: float, *, error: str = "", generation: int = 1, failed: float = 0.0) -> str:
    """The lines of one attempt."""
    status = f" ERROR ({error})" if error else ""
    decision = "retried" if number > 1 else "admitted"
    return f"""
  resilience.retry INTERNAL{status} decision={decision} pipeline=payments policy=payments retry.attempt={number} \
retry.delay_s={delay_s}
    resilience.breaker INTERNAL breaker.failure_rate={failed} breaker.generation={generation} breaker.state=closed \
decision=admitted pipeline=payments policy=payments
    POST CLIENT"""


DEADLINE = """
  resilience.deadline INTERNAL deadline.remaining_s=10.0 decision=admitted pipeline=payments policy=payments"""


@pytest.mark.parametrize("drive", [via_sync, via_async])
def test_each_attempt_is_a_span_around_its_work(drive: Drive, recorded: Recording) -> None:
    assert drive(payments(ManualClock()), flaky(2)) == "done"
    assert recorded.tree() == (
        "resilience payments INTERNAL pipeline=payments"
        + DEADLINE
        + attempt(1, 0.0, error="ConnectionError")
        + attempt(2, 0.25, error="ConnectionError", failed=1.0)
        + attempt(3, 0.25, failed=1.0)
    )


@pytest.mark.parametrize("drive", [via_sync, via_async])
def test_a_call_that_gives_up_errs_on_its_attempts_only(drive: Drive, recorded: Recording) -> None:
    with pytest.raises(ConnectionError):
        drive(payments(ManualClock()), flaky(3))
    root = recorded.span("resilience payments")
    assert root.status.status_code is StatusCode.UNSET
    assert root.events == ()
    assert [span.status.status_code for span in recorded.spans if span.name == "resilience.retry"] == [StatusCode.ERROR] * 3


@pytest.mark.parametrize("drive", [via_sync, via_async])
def test_under_a_server_span_there_is_no_span_of_the_call_s_own(drive: Drive, recorded: Recording) -> None:
    with client.start_as_current_span("GET /orders", kind=SpanKind.SERVER):
        drive(payments(ManualClock()), flaky(1))
        assert trace.get_current_span().is_recording()
    expected = DEADLINE + attempt(1, 0.0, error="ConnectionError") + attempt(2, 0.25, failed=1.0)
    assert recorded.tree() == "GET /orders SERVER" + expected


def test_a_guarded_block_has_its_spans_and_is_not_within_them(recorded: Recording) -> None:
    clock = ManualClock()
    pipeline = Pipeline("block", RateLimiter(1.0, 1, name="block", clock=clock))
    with pipeline.guard(), client.start_as_current_span("work"):
        pass
    with pytest.raises(RateLimited), pipeline.guard():
        raise AssertionError("it was not to be entered")
    assert trace.get_current_span() is INVALID_SPAN
    limiter = "health.factor=1.0 limiter.rate=1.0 limiter.remaining=0 pipeline=block policy=block"
    assert recorded.tree() == (
        "resilience block INTERNAL pipeline=block\n"
        f"  resilience.limiter INTERNAL decision=admitted {limiter}\n"
        "  work INTERNAL\n"
        "resilience block INTERNAL pipeline=block\n"
        f"  resilience.limiter INTERNAL ERROR (RateLimited: quota) decision=rejected {limiter}"
    )


@pytest.mark.parametrize("drive", [via_sync, via_async])
def test_a_leaf_lasts_from_when_its_layer_is_asked_until_it_has_decided(
    drive: Drive, recorded: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    for module in (stage, spans):
        monkeypatch.setattr(module, "wall_ns", lambda: clock.now_us() * 1_000)
    limiter = RateLimiter(10.0, 1, max_wait_s=1.0, name="queue", clock=clock)
    pipeline = Pipeline("p", Deadline(9.0, clock=clock), limiter, CircuitBreaker(clock=clock))
    drive(pipeline, flaky(0))
    recorded.clear()
    began_us = clock.now_us()
    drive(pipeline, flaky(0))
    times_us = {
        span.name: ((span.start_time or 0) // 1_000 - began_us, (span.end_time or 0) // 1_000 - began_us) for span in recorded.spans
    }
    assert {name: times for name, times in times_us.items() if name.startswith("resilience.")} == {
        "resilience.deadline": (0, 0),
        "resilience.limiter": (0, 100_000),
        "resilience.breaker": (100_000, 100_000),
    }


def test_outgoing_calls_of_a_handler_belong_to_the_request(recorded: Recording) -> None:
    bench = Bench()
    outgoing = payments(bench.clock)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def work() -> str:
            return flaky(0)()

        await outgoing.acall(work)
        await answering()(scope, receive, send)

    run(Conversation(bench.guard(app), headers=[("traceparent", SAMPLED)]).run())
    inbound = f"""resilience api INTERNAL under {PARENT_ID} pipeline=api
  resilience.deadline INTERNAL deadline.remaining_s=5.0 decision=admitted pipeline=api policy=api
  resilience.limiter INTERNAL decision=admitted health.factor=1.0 limiter.rate=1.0 limiter.remaining=999 pipeline=api policy=api
  resilience.breaker INTERNAL breaker.failure_rate=0.0 breaker.generation=1 breaker.state=closed decision=admitted \
health.factor=1.0 pipeline=api policy=orders"""
    assert recorded.tree() == inbound + DEADLINE.replace("10.0", "5.0") + attempt(1, 0.0)


def test_under_a_span_that_is_not_sampled_nothing_is_built(recorded: Recording) -> None:
    bench = Bench()
    outgoing = payments(bench.clock)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        outgoing.call(str)
        await answering()(scope, receive, send)

    traced = OpenTelemetryMiddleware(bench.guard(app), exclude_spans=["send", "receive"])
    for is_open in (False, True):
        if is_open:
            bench.open_breaker()
        recorded.clear()
        run(Conversation(traced, headers=[("traceparent", UNSAMPLED)]).run())
        assert recorded.started == ["GET /"]
        assert recorded.spans == []


def test_a_request_that_is_not_sampled_asks_the_sampler_once_whatever_its_handler_calls(recorded: Recording) -> None:
    bench = Bench()
    outgoing = payments(bench.clock)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        outgoing.call(str)
        with outgoing_limiter.guard():
            pass
        await answering()(scope, receive, send)

    outgoing_limiter = Pipeline("limited", RateLimiter(1.0, clock=bench.clock))
    run(Conversation(bench.guard(app), headers=[("traceparent", UNSAMPLED)]).run())
    assert recorded.started == ["resilience api"]
    assert recorded.spans == []


def test_baggage_that_came_along_reaches_the_handler(recorded: Recording) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(baggage.get_baggage("tenant"))
        await answering()(scope, receive, send)

    run(Conversation(Bench().guard(app), headers=[("traceparent", SAMPLED), ("baggage", "tenant=blue")]).run())
    assert seen == ["blue"]
    assert baggage.get_baggage("tenant") is None
    assert context.get_current() == {}


def test_the_error_on_a_layer_s_span_says_nothing_that_a_client_sent(recorded: Recording) -> None:
    with pytest.raises(ConnectionError):
        payments(ManualClock()).call(flaky(3))
    for span in recorded.spans:
        assert "client sent" not in str(span.status.description)
        assert all("client sent" not in str(value) for value in (span.attributes or {}).values())


def test_a_breaker_that_stops_the_retries_errs_on_its_leaf_and_the_attempt(recorded: Recording) -> None:
    clock = ManualClock()
    pipeline = Pipeline(
        "payments", Retry(3, backoff_s=0.0, name="payments", clock=clock), CircuitBreaker(min_calls=1, name="payments", clock=clock)
    )
    with pytest.raises(CircuitOpen):
        pipeline.call(flaky(3))
    errors = [(span.name, span.status.description) for span in recorded.spans if span.status.status_code is StatusCode.ERROR]
    assert errors == [
        ("resilience.retry", "ConnectionError"),
        ("resilience.breaker", "CircuitOpen: open"),
        ("resilience.retry", "CircuitOpen: open"),
    ]
    (changed,) = recorded.spans[2].events  # on the attempt, where it happened
    assert (recorded.spans[2].name, changed.name) == ("resilience.retry", "resilience.breaker.changed")


PROGRAM = """
import asyncio, logging, sys, threading
logging.basicConfig(level=logging.DEBUG)
from opentelemetry import metrics, trace
from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Retry
from resilience.integrations.asgi import ResilienceMiddleware

health = HealthSignal()
breaker = CircuitBreaker(min_calls=1, health=health)
pipeline = Pipeline("api", Deadline(5.0), RateLimiter(100.0, health=health), breaker)
seen = []

async def app(scope, receive, send):
    seen.append(trace.get_current_span() is trace.INVALID_SPAN)
    Pipeline("out", Retry(3)).call(str)
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body"})

async def request(guarded):
    scope = {"type": "http", "method": "GET", "path": "/", "client": None,
             "headers": [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]}
    sent = []
    async def send(message):
        sent.append(message)
    await guarded(scope, None, send)
    return sent[0]["status"]

async def main():
    guarded = ResilienceMiddleware(app, pipeline=pipeline)
    return [await request(guarded), await request(guarded)]

assert asyncio.run(main()) == [500, 503]
assert seen == [True]
assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
assert threading.active_count() == 1
print("fine")
"""


def test_without_an_sdk_nothing_is_built_and_nothing_warns() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    logged = [line for line in done.stderr.splitlines() if not line.startswith("DEBUG:asyncio")]
    assert len(logged) == 2, done.stderr  # the breaker opened, the factor fell
    assert all(line.startswith("WARNING:resilience:") for line in logged)
