"""Spans of outgoing requests: those of OpenTelemetry's own client instrumentation nest under the try that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
import requests
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

from resilience import CircuitBreaker, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.integrations.httpx import AsyncResilienceTransport, ResilienceTransport
from resilience.integrations.requests import ResilienceAdapter
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import PLAIN
from tests.integrations.outgoing.peer import Peer, peering, says
from tests.telemetry.recording import Recording

tracer = trace.get_tracer("client")

WITH_RETRY = """\
shop INTERNAL
  resilience.deadline INTERNAL deadline.remaining_s=5.0 decision=admitted pipeline=payments policy=out
  resilience.retry INTERNAL decision=admitted pipeline=payments policy=out retry.attempt=1 retry.delay_s=0.0
    resilience.breaker INTERNAL breaker.failure_rate=0.0 breaker.generation=1 breaker.state=closed decision=admitted \
pipeline=payments policy=out
    GET CLIENT ERROR (None)
  resilience.retry INTERNAL decision=retried pipeline=payments policy=out retry.attempt=2 retry.delay_s=2.0
    resilience.breaker INTERNAL breaker.failure_rate=1.0 breaker.generation=1 breaker.state=closed decision=admitted \
pipeline=payments policy=out
    GET CLIENT"""


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The service that is called."""
    with peering() as found:
        yield found


@pytest.fixture(autouse=True)
def instrumented(sdk: object) -> Iterator[None]:
    """Client spans of httpx and of urllib3."""
    instrumentors = (HTTPXClientInstrumentor(), URLLib3Instrumentor())
    for instrumentor in instrumentors:
        instrumentor.instrument()
    yield
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


def by_httpx(pipeline: Pipeline, url: str) -> None:
    """In a thread."""
    transport = ResilienceTransport(httpx.HTTPTransport(verify=PLAIN), pipeline=pipeline)
    with httpx.Client(transport=transport, trust_env=False) as client:
        client.get(url)


def by_async_httpx(pipeline: Pipeline, url: str) -> None:
    """In a task."""

    async def main() -> None:
        transport = AsyncResilienceTransport(httpx.AsyncHTTPTransport(verify=PLAIN), pipeline=pipeline)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            await client.get(url)

    asyncio.run(main())


def by_requests(pipeline: Pipeline, url: str) -> None:
    """By requests."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", ResilienceAdapter(pipeline=pipeline))
        session.get(url)


every_client = pytest.mark.parametrize("get", [by_httpx, by_async_httpx, by_requests])
Get = Callable[[Pipeline, str], None]


def pipeline_of(clock: ManualClock) -> Pipeline:
    """A deadline, a retry and a breaker."""
    deadline, breaker = Deadline(5.0, name="out", clock=clock), CircuitBreaker(name="out", clock=clock)
    return Pipeline("payments", deadline, Retry(name="out", clock=clock), breaker)


@every_client
def test_client_spans_nest_under_the_try_that_they_belong_to(recorded: Recording, peer: Peer, get: Get) -> None:
    peer.will(says(503, retry_after="2"))
    with tracer.start_as_current_span("shop"):
        get(pipeline_of(ManualClock()), peer.url)
    assert recorded.tree() == WITH_RETRY


@every_client
def test_what_a_peer_is_told_of_its_trace_is_the_client_span(recorded: Recording, peer: Peer, get: Get) -> None:
    with tracer.start_as_current_span("shop"):
        get(pipeline_of(ManualClock()), peer.url)
    (said,) = peer.values("traceparent")
    context = recorded.span("GET").get_span_context()
    assert context is not None
    assert said is not None
    assert said.split("-")[1:3] == [f"{context.trace_id:032x}", f"{context.span_id:016x}"]


@every_client
def test_without_a_span_around_it_the_call_has_one_of_its_own(recorded: Recording, peer: Peer, get: Get) -> None:
    get(Pipeline("payments", CircuitBreaker(name="out", clock=ManualClock())), peer.url)
    lines = recorded.tree().splitlines()
    assert [line.strip().split()[0] for line in lines] == ["resilience", "resilience.breaker", "GET"]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 2]


@every_client
def test_a_request_that_is_not_sent_has_no_client_span(recorded: Recording, peer: Peer, get: Get) -> None:
    clock = ManualClock()
    pipeline = Pipeline("payments", Deadline(0.01, reserve_s=0.02, name="out", clock=clock), Retry(name="out", clock=clock))
    with tracer.start_as_current_span("shop"), pytest.raises(DeadlineExceeded):
        get(pipeline, peer.url)
    assert "CLIENT" not in recorded.tree()
    assert recorded.span("resilience.retry").status.description == "DeadlineExceeded: expired_on_arrival"


def test_one_client_span_of_a_whole_session_goes_around_the_tries(recorded: Recording, peer: Peer) -> None:
    """The instrumentation of requests wraps `Session.send`, outside of every adapter, and that of urllib3 is silent within."""
    peer.will(says(503))
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument()
    try:
        by_requests(pipeline_of(ManualClock()), peer.url)
    finally:
        instrumentor.uninstrument()
    first, *rest = recorded.tree().splitlines()
    assert first == "GET CLIENT"
    assert sum(line.startswith("  resilience.retry") for line in rest) == 2
    assert not any("CLIENT" in line for line in rest)
