"""An error that crosses HTTP and gRPC, both ways, on real servers: its kind, hint and trace id come out, and nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry import context as otel_context
from opentelemetry import propagate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resilience import CircuitBreaker, CircuitOpen, DeadlineExceeded, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.grpc import http_answer, rpc_status
from resilience.testing import ManualClock
from tests.integrations.asgi.server import TIMEOUT_S, serving
from tests.integrations.bench import Layers
from tests.integrations.grpc import hops
from tests.integrations.outgoing.peer import peering, says

TYPES = "https://iana.org/assignments/http-problem-types#"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-00"
OTHER_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HINT_S = 7.3
NEUTRAL = "something that this service depends on cannot be called now"

Service = Callable[[Pipeline, Any], AbstractContextManager[str]]
HTTP: dict[str, tuple[Service, Any]] = {"asgi": (hops.asgi, hops.aio_rpc), "wsgi": (hops.wsgi, hops.rpc)}
"""A service over HTTP, and how it asks one over gRPC."""
GRPC: dict[str, tuple[Service, Any]] = {
    "threads, httpx": (hops.grpc_threads, hops.with_httpx),
    "threads, requests": (hops.grpc_threads, hops.with_requests),
    "tasks": (hops.grpc_tasks, hops.aio_http),
}
"""A service over gRPC, and how it asks one over HTTP."""
TASKS = (hops.asgi, hops.grpc_tasks)


class Outcome:
    """How a chain answered, and what it counted as further out."""

    def __init__(self, front: Layers, middle: Layers) -> None:
        self.front, self.middle = front, middle

    @property
    def counted(self) -> tuple[str, str]:
        """What the breakers around the two outer requests saw."""
        return self.front.outcome(), self.middle.outcome()


def within_reach() -> Layers:
    """Guards of an outer service, whose next request decides what its breaker does."""
    layers = Layers()
    layers.half_open()
    return layers


def raises(error: BaseException, service: Service) -> Any:
    """A handler that raises, of the kind that the service wants."""

    def ask() -> bytes:
        raise error

    async def later() -> bytes:
        raise error

    return later if service in TASKS else ask


def never(service: Service) -> Any:
    """A handler that must not be reached."""
    return raises(AssertionError("the handler of the last service was reached"), service)


def full_limiter() -> Pipeline:
    """A limit that has been used up."""
    pipeline = Pipeline("inner-pipeline", RateLimiter(1 / HINT_S, 1, name="inner-limit", clock=ManualClock()))
    with pipeline.guard():
        pass
    return pipeline


def open_breaker() -> Pipeline:
    """A breaker that has opened."""
    breaker = CircuitBreaker(min_calls=1, open_for_s=HINT_S, name="inner-breaker", clock=ManualClock(), uniform=lambda: 0.0)
    pipeline = Pipeline("inner-pipeline", breaker)
    with contextlib.suppress(OSError), pipeline.guard():
        raise OSError("inner-failure")
    return pipeline


def unguarded() -> Pipeline:
    """Nothing refuses."""
    return Pipeline("inner-pipeline")


Chain = AbstractContextManager[tuple[str, Outcome]]
"""Where the first of its services is, and what is counted on the way."""


@contextlib.contextmanager
def chain(hops: Sequence[tuple[Any, Any]], last: Pipeline, last_handler: Any) -> Iterator[tuple[str, Outcome]]:
    """Three services, each a way to serve and a way to ask it."""
    outcome = Outcome(within_reach(), within_reach())
    with ExitStack() as ends:
        (serve_front, ask_middle), (serve_middle, ask_back), (serve_back, _) = hops
        innermost = ends.enter_context(serve_back(last, last_handler(serve_back)))
        between = ends.enter_context(serve_middle(outcome.middle.pipeline, ask_back(innermost)))
        yield ends.enter_context(serve_front(outcome.front.pipeline, ask_middle(between))), outcome


def http_chain(front: str, middle: str, back: str, last: Pipeline, last_handler: Any = never) -> Chain:
    """HTTP, gRPC, HTTP."""
    return chain((HTTP[front], GRPC[middle], HTTP[back]), last, last_handler)


def grpc_chain(front: str, middle: str, back: str, last: Pipeline, last_handler: Any = never) -> Chain:
    """gRPC, HTTP, gRPC."""
    return chain((GRPC[front], HTTP[middle], GRPC[back]), last, last_handler)


def get(url: str) -> httpx.Response:
    """Ask by HTTP, within the trace."""
    with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
        return client.get(url, headers={"traceparent": TRACEPARENT})


class Ended:
    """How an RPC ended."""

    def __init__(self, error: Any) -> None:
        self.code = error.code().name
        self.details = error.details()
        trailing = dict(error.trailing_metadata())
        self.pushback = trailing.get("grpc-retry-pushback-ms")
        self.packed = trailing.get("grpc-status-details-bin", b"")
        status = Status.FromString(self.packed)
        self.info, self.retry = ErrorInfo(), RetryInfo()
        for detail in status.details:
            for known in (self.info, self.retry):
                if detail.Is(known.DESCRIPTOR):
                    detail.Unpack(known)

    @property
    def everything(self) -> str:
        """All that a client could read."""
        return f"{self.details} {self.packed!r}"


def call(address: str) -> Ended:
    """Ask by gRPC, within the trace."""
    token = otel_context.attach(propagate.extract({"traceparent": TRACEPARENT}))
    try:
        with pytest.raises(grpc.RpcError) as raised:
            hops.rpc(address)()
    finally:
        otel_context.detach(token)
    return Ended(raised.value)


def document_of(response: httpx.Response) -> dict[str, Any]:
    """The problem document of an answer that says nothing of the inside."""
    assert response.headers["content-type"] == "application/problem+json"
    assert not any(
        word in response.text for word in ("inner", "127.0.0.1", "localhost", "Traceback", "RpcError", "StatusError", "Exception")
    )
    assert not {"ratelimit", "ratelimit-policy", "grpc-status", "grpc-message"} & set(response.headers)
    document: dict[str, Any] = response.json()
    return document


def says_nothing_of_the_inside(ended: Ended) -> bool:
    """Whether a client could not read where the error came from."""
    return not any(word in ended.everything for word in ("inner", "127.0.0.1", "localhost", "Traceback", "http"))


HTTP_CHAINS = [
    ("asgi", "threads, httpx", "wsgi"),
    ("asgi", "tasks", "asgi"),
    ("wsgi", "threads, requests", "asgi"),
    ("wsgi", "tasks", "wsgi"),
]
GRPC_CHAINS = [
    ("threads, httpx", "asgi", "tasks"),
    ("threads, requests", "wsgi", "threads, httpx"),
    ("tasks", "asgi", "threads, httpx"),
]


# --- refusals, three hops down ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("front", "middle", "back"), HTTP_CHAINS)
def test_a_limiter_three_hops_down_comes_out_of_http(front: str, middle: str, back: str) -> None:
    with http_chain(front, middle, back, full_limiter()) as (url, outcome):
        response = get(url)
        document = document_of(response)
        assert (response.status_code, document["type"]) == (429, f"{TYPES}temporary-reduced-capacity")
        assert (document["reason"], document["detail"], document["trace_id"]) == ("cut", NEUTRAL, TRACE_ID)
        assert "violated-policies" not in document
        assert (
            8 <= int(response.headers["retry-after"]) <= 12
        )  # rounded up, and up to a fifth or a second more at both hops of HTTP
        assert outcome.counted == ("ignored", "ignored")


@pytest.mark.parametrize(("front", "middle", "back"), GRPC_CHAINS)
def test_a_limiter_three_hops_down_comes_out_of_grpc(front: str, middle: str, back: str) -> None:
    with grpc_chain(front, middle, back, full_limiter()) as (address, outcome):
        ended = call(address)
        assert (ended.code, ended.details) == ("RESOURCE_EXHAUSTED", NEUTRAL)
        assert (ended.info.reason, ended.info.domain, dict(ended.info.metadata)) == (
            "REDUCED_CAPACITY",
            "resilience",
            {"trace_id": TRACE_ID},
        )
        assert 8_000 <= int(ended.pushback or 0) <= 10_000
        assert ended.retry.retry_delay.ToMilliseconds() == int(ended.pushback or 0)
        assert says_nothing_of_the_inside(ended)
        assert outcome.counted == ("ignored", "ignored")


@pytest.mark.parametrize(("front", "middle", "back"), HTTP_CHAINS)
def test_an_open_breaker_three_hops_down_comes_out_of_http(front: str, middle: str, back: str) -> None:
    with http_chain(front, middle, back, open_breaker()) as (url, outcome):
        response = get(url)
        document = document_of(response)
        assert (response.status_code, document["type"], document["reason"]) == (503, "about:blank", "open")
        assert (document["detail"], document["trace_id"]) == (NEUTRAL, TRACE_ID)
        assert 8 <= int(response.headers["retry-after"]) <= 12
        assert outcome.counted == ("ignored", "ignored")


@pytest.mark.parametrize(("front", "middle", "back"), GRPC_CHAINS)
def test_an_open_breaker_three_hops_down_comes_out_of_grpc(front: str, middle: str, back: str) -> None:
    with grpc_chain(front, middle, back, open_breaker()) as (address, outcome):
        ended = call(address)
        assert (ended.code, ended.info.reason, ended.info.metadata["trace_id"]) == ("UNAVAILABLE", "CIRCUIT_OPEN", TRACE_ID)
        assert 8_000 <= int(ended.pushback or 0) <= 10_000
        assert says_nothing_of_the_inside(ended)
        assert outcome.counted == ("ignored", "ignored")


def too_late(service: Service) -> Any:
    """A handler whose time runs out."""
    return raises(DeadlineExceeded("inner-deadline: late", policy="inner-deadline", reason="expired"), service)


@pytest.mark.parametrize(("front", "middle", "back"), HTTP_CHAINS[:2])
def test_a_deadline_three_hops_down_comes_out_of_http(front: str, middle: str, back: str) -> None:
    with http_chain(front, middle, back, unguarded(), too_late) as (url, outcome):
        response = get(url)
        document = document_of(response)
        assert (response.status_code, document["reason"], document["trace_id"]) == (504, "expired", TRACE_ID)
        assert "retry-after" not in response.headers
        assert outcome.counted == ("failed", "failed")


@pytest.mark.parametrize(("front", "middle", "back"), GRPC_CHAINS[:1])
def test_a_deadline_three_hops_down_comes_out_of_grpc(front: str, middle: str, back: str) -> None:
    with grpc_chain(front, middle, back, unguarded(), too_late) as (address, outcome):
        ended = call(address)
        assert (ended.code, ended.info.reason, ended.pushback) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None)
        assert says_nothing_of_the_inside(ended)
        assert outcome.counted == ("failed", "failed")


def refuses_as_out_of_another_trace(service: Service) -> Any:
    """A handler that met a refusal of another trace."""
    refusal = CircuitOpen("inner", policy="inner", reason="open", retry_after_s=1.0)
    refusal.trace_id = OTHER_TRACE_ID
    return raises(refusal, service)


@pytest.mark.parametrize(("front", "middle", "back"), HTTP_CHAINS[:2])
def test_the_trace_id_of_the_first_hop_is_kept(front: str, middle: str, back: str) -> None:
    with http_chain(front, middle, back, unguarded(), refuses_as_out_of_another_trace) as (url, _):
        assert document_of(get(url))["trace_id"] == OTHER_TRACE_ID


# --- failures of a service that no guard has spoken of ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "reason"), [(503, "UNAVAILABLE", "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")]
)
@pytest.mark.parametrize("middle", list(GRPC))
def test_a_service_without_guards_that_is_down_has_failed(middle: str, status: int, code: str, reason: str) -> None:
    layers = within_reach()
    serve, ask = GRPC[middle]
    with peering() as peer, serve(layers.pipeline, ask(peer.url)) as address:
        peer.will(says(status, b"inner-secret", retry_after="3"))
        ended = call(address)
        assert (ended.code, ended.info.reason, ended.details) == (code, reason, NEUTRAL)
        assert ended.info.metadata["trace_id"] == TRACE_ID
        assert ended.pushback == "3000"
        assert says_nothing_of_the_inside(ended)
    assert layers.outcome() == "failed"


@pytest.mark.parametrize("front", list(HTTP))
def test_a_service_that_cannot_be_reached_by_grpc_is_answered_503(front: str) -> None:
    layers = within_reach()
    serve, ask = HTTP[front]
    with serve(layers.pipeline, ask("127.0.0.1:1")) as url:
        response = get(url)
        document = document_of(response)
        assert (response.status_code, document["reason"], document["detail"]) == (503, "unavailable", NEUTRAL)
        assert layers.outcome() == "failed"


GARBAGE_DETAILS = [
    b"",
    b"\xff" * 100,
    Status(code=8).SerializeToString(),
    b"\x08\x0e\x1a\x05\x0a\x03abc",
    b"\x00" * 4_000,
]


@pytest.mark.parametrize("packed", GARBAGE_DETAILS, ids=range(len(GARBAGE_DETAILS)))
@pytest.mark.parametrize("pushback", ["-1", "soon", "99999999999999", "inner"])
def test_garbage_in_the_details_of_a_status_says_nothing(packed: bytes, pushback: str) -> None:
    layers = within_reach()

    def abort(context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", packed), ("grpc-retry-pushback-ms", pushback)))
        context.abort(grpc.StatusCode.UNAVAILABLE, "inner-text")
        raise AssertionError

    with hops.grpc_threads(unguarded(), abort, told=True) as address, hops.wsgi(layers.pipeline, hops.rpc(address)) as url:
        response = get(url)
        document = document_of(response)
        assert (response.status_code, document["reason"], document["trace_id"]) == (503, "unavailable", TRACE_ID)
        assert "retry-after" not in response.headers
        assert layers.outcome() == "failed"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 10_000, b'{"reason": {"a": 1}, "trace_id": "inner"}', b'{"reason": "inner", "type": "http://inner"}']
)
def test_a_garbage_problem_document_says_nothing(body: bytes) -> None:
    layers = within_reach()
    with peering() as peer, hops.grpc_threads(layers.pipeline, hops.with_requests(peer.url)) as address:
        peer.will(says(503, body, content_type="application/problem+json", retry_after="inner"))
        ended = call(address)
        assert (ended.code, ended.info.reason, ended.info.metadata["trace_id"]) == ("UNAVAILABLE", "UNAVAILABLE", TRACE_ID)
        assert ended.pushback is None
        assert says_nothing_of_the_inside(ended)
        assert layers.outcome() == "failed"


# --- the application's business -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500, 502])
@pytest.mark.parametrize("middle", list(GRPC))
def test_what_a_service_answers_otherwise_does_not_cross_by_itself(
    middle: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    layers = within_reach()
    serve, ask = GRPC[middle]
    with peering() as peer, serve(layers.pipeline, ask(peer.url)) as address, caplog.at_level(logging.ERROR, "resilience"):
        peer.will(says(status, b"inner-secret"))
        ended = call(address)
        assert (ended.code, ended.details, ended.packed) == ("UNKNOWN", "the handler failed", b"")
        assert layers.outcome() == "failed"
    (record,) = [record for record in caplog.records if (record.name, record.levelname) == ("resilience", "ERROR")]
    assert record.exc_info is not None
    assert "/shop.v1.Orders/Get" in record.getMessage()


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL])
@pytest.mark.parametrize("front", list(HTTP))
def test_a_business_error_of_grpc_does_not_cross_by_itself(front: str, code: grpc.StatusCode) -> None:
    layers = within_reach()
    serve, ask = HTTP[front]

    def abort(context: Any) -> bytes:
        context.abort(code, "inner-text")
        raise AssertionError

    with hops.grpc_threads(unguarded(), abort, told=True) as address, serve(layers.pipeline, ask(address)) as url:
        response = get(url)
        assert response.status_code == 500
        assert "inner" not in response.text
        assert layers.outcome() == "failed"


def test_a_code_that_the_handler_has_set_stays_its_own() -> None:
    layers = within_reach()
    with peering() as peer:

        def ask(context: Any) -> bytes:
            try:
                return hops.with_httpx(peer.url)()
            except httpx.HTTPStatusError:
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("no such order")
                raise

        with hops.grpc_threads(layers.pipeline, ask, told=True) as address:
            peer.will(says(503, b"down"))
            ended = call(address)
            assert (ended.code, ended.details) == ("NOT_FOUND", "no such order")
            assert layers.outcome() == "ok"


# --- one line of the application's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("UNAUTHENTICATED", 401), ("DATA_LOSS", 500), ("OUT_OF_RANGE", 400),
     ("UNIMPLEMENTED", 501), ("CANCELLED", 499), ("RESOURCE_EXHAUSTED", 429), ("UNAVAILABLE", 503), ("DEADLINE_EXCEEDED", 504)],
)  # fmt: skip
def test_one_line_relays_any_error_of_grpc_to_http_and_another_one_back(code: str, status: int) -> None:
    def abort(context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "2300"),))
        context.abort(grpc.StatusCode[code], "inner-text")
        raise AssertionError

    with hops.grpc_threads(unguarded(), abort, told=True) as address:

        async def handler(request: Request) -> Response:
            try:
                return Response(await hops.aio_rpc(address)())
            except grpc.RpcError as error:
                answer = http_answer(error, "no such order")
                return Response(answer.body, answer.status, dict(answer.headers))

        app = Starlette(routes=[Route("/", handler)])
        app.add_middleware(ResilienceMiddleware, pipeline=unguarded())
        with serving(app) as server:
            response = server.get("/")
            document = document_of(response)
            assert (response.status_code, document["status"], document["detail"]) == (status, status, "no such order")
            assert 3 <= int(response.headers["retry-after"]) <= 4

            def back(context: Any) -> bytes:
                with httpx.Client(trust_env=False) as client:
                    found = client.get(server.url)
                context.abort_with_status(rpc_status(found, "no such thing"))
                raise AssertionError

            with hops.grpc_threads(unguarded(), back, told=True) as outer:
                ended = call(outer)
    assert (ended.code, ended.details) == (code, "no such thing")
    assert 3_000 <= int(ended.pushback or 0) <= 4_000
    assert ended.info.metadata["trace_id"] == TRACE_ID
    assert says_nothing_of_the_inside(ended)


@pytest.mark.parametrize(
    ("status", "code", "counted"),
    [
        (404, "NOT_FOUND", "ok"),
        (401, "UNAUTHENTICATED", "ok"),
        (429, "RESOURCE_EXHAUSTED", "ignored"),
        (503, "UNAVAILABLE", "failed"),
    ],
)
@pytest.mark.parametrize("of_error", [True, False])
def test_one_line_relays_any_http_response_in_a_task(status: int, code: str, counted: str, of_error: bool) -> None:
    layers = within_reach()
    with peering() as peer:

        async def ask(context: Any) -> bytes:
            async with httpx.AsyncClient(trust_env=False) as client:
                response = await client.get(peer.url)
            try:
                response.raise_for_status()
            except httpx.HTTPStatusError as error:
                await context.abort(*rpc_status(error if of_error else response))
            raise AssertionError

        with hops.grpc_tasks(layers.pipeline, ask, told=True) as address:
            peer.will(says(status, b"inner-secret", retry_after="9"))
            ended = call(address)
    assert (ended.code, ended.pushback, ended.info.metadata["trace_id"]) == (code, "9000", TRACE_ID)
    assert says_nothing_of_the_inside(ended)
    assert layers.outcome() == counted
