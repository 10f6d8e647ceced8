"""Errors of gRPC read as faults, refusals as statuses and back, and the lines that relay them: without a chain."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import example, given
from hypothesis import strategies as st

from resilience import CircuitOpen, DeadlineExceeded, Pipeline, RateLimited, Rejected
from resilience.edges import Fault, fault_of, relayed_in
from resilience.integrations.grpc import ServerInterceptor, http_answer, rpc_status
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from resilience.integrations.grpc.answers import DETAILS, PUSHBACK, refusal_answer
from resilience.integrations.grpc.errors import as_rpc_error
from resilience.integrations.grpc.faults import read_details, read_rpc_error

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
Metadata = tuple[tuple[str, Any], ...]


def ended(code: grpc.StatusCode, trailing: Metadata = (), details: str = "inner-text") -> grpc.RpcError:
    """An error as a stub raises it."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details, "ipv4:127.0.0.1:50051")


def packed(*details: Any, code: int = 14) -> bytes:
    """A rich status."""
    status = Status(code=code, message="inner-text")
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        status.details.append(wrapped)
    data: bytes = status.SerializeToString()
    return data


def info(reason: str, domain: str = "resilience", **metadata: str) -> ErrorInfo:
    """What a service says of the reason."""
    return ErrorInfo(reason=reason, domain=domain, metadata=metadata)


# --- reading ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "trailing", "fault"),
    [
        ("UNAVAILABLE", (), Fault(503, 14)),
        ("UNAVAILABLE", ((PUSHBACK, "1500"),), Fault(503, 14, "", 1.5)),
        ("UNAVAILABLE", ((PUSHBACK, "-1"),), Fault(503, 14)),
        ("UNAVAILABLE", ((PUSHBACK, "1500"), (PUSHBACK, "2500")), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(info("CIRCUIT_OPEN", trace_id=TRACE_ID))),), Fault(503, 14, "open", None, TRACE_ID)),
        ("UNAVAILABLE", ((DETAILS, packed(info("REFUSED"))),), Fault(503, 14, "refused")),
        ("UNAVAILABLE", ((DETAILS, packed(info("UNAVAILABLE"))),), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(info("QUOTA_EXCEEDED"))),), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(info("CIRCUIT_OPEN", "googleapis.com", trace_id=TRACE_ID))),), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(info("CIRCUIT_OPEN", trace_id=TRACE_ID.upper()))),), Fault(503, 14, "open")),
        ("UNAVAILABLE", ((DETAILS, packed(info("CIRCUIT_OPEN"), code=4)),), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(info("CIRCUIT_OPEN"))),) * 2, Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(RetryInfo(retry_delay=Duration(seconds=2, nanos=5)))),), Fault(503, 14, "", 2.000000005)),
        ("UNAVAILABLE", ((DETAILS, packed(RetryInfo(retry_delay=Duration(seconds=-2)))),), Fault(503, 14, "", 0.0)),
        ("UNAVAILABLE", ((DETAILS, packed(RetryInfo(retry_delay=Duration(seconds=10**15)))),), Fault(503, 14, "", 86_400.0)),
        (
            "UNAVAILABLE",
            ((PUSHBACK, "1500"), (DETAILS, packed(DebugInfo(), RetryInfo(retry_delay=Duration(seconds=2))))),
            Fault(503, 14, "", 2.0),
        ),
        ("RESOURCE_EXHAUSTED", (), Fault(429, 8, "cut")),
        ("RESOURCE_EXHAUSTED", ((DETAILS, packed(info("QUOTA_EXCEEDED"), code=8)),), Fault(429, 8, "quota")),
        ("RESOURCE_EXHAUSTED", ((DETAILS, packed(info("CIRCUIT_OPEN"), code=8)),), Fault(429, 8, "cut")),
        ("DEADLINE_EXCEEDED", (), Fault(504, 4)),
        ("DEADLINE_EXCEEDED", ((DETAILS, packed(info("DEADLINE_EXCEEDED"), code=4)),), Fault(504, 4, "expired")),
        ("NOT_FOUND", ((DETAILS, packed(info("REDUCED_CAPACITY", trace_id=TRACE_ID), code=5)),), Fault(404, 5, "", None, TRACE_ID)),
        ("UNAVAILABLE", ((DETAILS, packed(*[DebugInfo()] * 16, info("CIRCUIT_OPEN"))),), Fault(503, 14)),
        ("UNAVAILABLE", ((DETAILS, packed(DebugInfo(detail="x" * 70_000), info("CIRCUIT_OPEN"))),), Fault(503, 14)),
    ],
)
def test_a_status_is_read_as_far_as_it_fits_its_code(code: str, trailing: Metadata, fault: Fault) -> None:
    assert fault_of(ended(grpc.StatusCode[code], trailing)) == fault


def test_what_is_no_error_of_a_call_is_none() -> None:
    for error in (grpc.RpcError(), ValueError("mine"), ended(grpc.StatusCode.OK), as_rpc_error(CircuitOpen("own", reason="open"))):
        assert read_rpc_error(error) is None


def test_a_message_that_is_too_large_says_nothing_of_capacity() -> None:
    def echo(request: bytes, context: Any) -> bytes:
        return request * 2

    handler = grpc.method_handlers_generic_handler("t.T", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        options = [("grpc.max_receive_message_length", 1_000)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel, pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/t.T/Echo")(b"x" * 600)
        server.stop(None).wait()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert fault_of(raised.value) == Fault(500, 8)
    assert relayed_in(raised.value) is None


WORDS = st.sampled_from(
    ["QUOTA_EXCEEDED", "REDUCED_CAPACITY", "CIRCUIT_OPEN", "REFUSED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "resilience", TRACE_ID]
)
TEXT = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INFOS = st.builds(
    lambda reason, domain, metadata: ErrorInfo(reason=reason, domain=domain, metadata=metadata),
    TEXT,
    st.just("resilience") | TEXT,
    st.dictionaries(st.just("trace_id") | TEXT, TEXT, max_size=2),
)
RETRIES = st.builds(
    lambda seconds, nanos: RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
)
RICH = st.builds(lambda details, code: packed(*details, code=code), st.lists(INFOS | RETRIES, max_size=3), st.integers(0, 16))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A rich status with a byte or two changed, or cut off."""
    data = bytearray(draw(RICH))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(
    st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    st.lists(RICH | damaged() | st.binary(max_size=200), max_size=2),
    st.lists(st.sampled_from(["0", "-1", "2500", "2147483647", "2147483648"]) | TEXT, max_size=2),
)
@example(grpc.StatusCode.UNAVAILABLE, [b"\x08\x0e\x1a\x05\x0a\x03\xff\xff\xff"], [])
def test_whatever_a_status_says_only_known_words_and_numbers_are_taken_from_it(
    code: grpc.StatusCode, values: list[bytes], pushback: list[str]
) -> None:
    fault = read_rpc_error(ended(code, (*((DETAILS, value) for value in values), *((PUSHBACK, value) for value in pushback))))
    assert fault is not None
    assert fault.code == code.value[0]
    assert fault.reason in {
        "RESOURCE_EXHAUSTED": {"quota", "cut"},
        "UNAVAILABLE": {"", "open", "refused"},
        "DEADLINE_EXCEEDED": {"", "expired"},
    }.get(code.name, {""})
    assert fault.retry_after_s is None or 0 <= fault.retry_after_s <= 86_400
    assert fault.trace_id in ("", TRACE_ID)
    if fault.is_temporary:
        answer = refusal_answer(fault.refusal(), own=False)
        again = read_rpc_error(ended(answer.code, tuple(answer.trailing)))
        assert again is not None
        assert (again.code, again.trace_id) == (fault.code, fault.trace_id)
        assert (again.retry_after_s or 0) >= (fault.retry_after_s or 0)
        assert again.is_refusal == (fault.is_refusal or fault.code == 4)


@pytest.mark.parametrize("value", ["text", None, 7])
def test_details_that_are_no_bytes_say_nothing(value: Any) -> None:
    assert read_details(14, [value]) == ("", "", None)


# --- refusals of ours, there and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("refusal", "fault"),
    [
        (RateLimited("over", policy="api", retry_after_s=0.0101), Fault(429, 8, "quota", 0.011)),
        (RateLimited("over", policy="api", reason="cut", retry_after_s=60.0), Fault(429, 8, "cut", 60.0)),
        (RateLimited("dear", policy="api"), Fault(429, 8, "quota")),
        (CircuitOpen("open", policy="payments", reason="half_open", retry_after_s=2.5), Fault(503, 14, "open", 2.5)),
        (DeadlineExceeded("late", policy="api", reason="expired"), Fault(504, 4, "expired")),
        (Rejected("full", policy="pool", reason="full"), Fault(503, 14, "refused")),
        (Rejected("down", reason="unavailable"), Fault(503, 14)),
    ],
)
def test_a_refusal_comes_back_as_what_it_was(refusal: Rejected, fault: Fault, own: bool) -> None:
    refusal.trace_id = TRACE_ID
    answer = refusal_answer(refusal, own=own)
    reason = "cut" if fault.reason == "quota" and not own else fault.reason  # it is not the client's quota
    assert fault_of(ended(answer.code, tuple(answer.trailing))) == Fault(
        fault.status, fault.code, reason, fault.retry_after_s, TRACE_ID
    )


def test_without_a_trace_no_trace_id_is_told() -> None:
    answer = refusal_answer(CircuitOpen("open", policy="payments", reason="open"), own=False)
    fault = fault_of(ended(answer.code, tuple(answer.trailing)))
    assert fault == Fault(503, 14, "open")


# --- one line -----------------------------------------------------------------------------------------------------------------


def test_a_refusal_of_ours_that_is_an_error_of_grpc_is_relayed_as_a_refusal() -> None:
    refusal = as_rpc_error(CircuitOpen("inner-secret: open", policy="inner", reason="open", retry_after_s=3.0))
    answer = http_answer(refusal)
    assert answer.status == 503
    assert b"inner" not in answer.body
    status = rpc_status(refusal, "payments are down")
    assert (status.code, status.details) == (grpc.StatusCode.UNAVAILABLE, "payments are down")


@pytest.mark.parametrize("subject", ["text", None, 404, object()])
def test_what_is_no_response_is_refused_by_a_clear_error(subject: object) -> None:
    with pytest.raises(TypeError, match=r"rpc_status\(\) takes a response that says an error.* got a "):
        rpc_status(subject)


def test_a_response_that_says_no_error_is_refused_by_a_clear_error() -> None:
    import httpx
    import requests

    import resilience.integrations.httpx
    import resilience.integrations.requests  # noqa: F401

    ours = requests.Response()
    ours.status_code = 200
    for response in (httpx.Response(200), ours):
        with pytest.raises(TypeError, match="got a Response"):
            rpc_status(response)


def test_an_error_that_nobody_answered_with_is_raised_again() -> None:
    error = ConnectionResetError("it broke off")
    for relay in (rpc_status, http_answer):
        with pytest.raises(ConnectionResetError) as raised:
            relay(error)
        assert raised.value is error


# --- streams ------------------------------------------------------------------------------------------------------------------


def peer_error() -> grpc.RpcError:
    """What a service further in answered with."""
    return ended(grpc.StatusCode.UNAVAILABLE, ((DETAILS, packed(info("CIRCUIT_OPEN", trace_id=TRACE_ID))), (PUSHBACK, "2500")))


def is_relayed(error: Any) -> bool:
    """Whether a client saw it, and nothing of the inside."""
    assert fault_of(error) == Fault(503, 14, "open", 2.5, TRACE_ID)
    return "inner" not in error.details()


@pytest.mark.parametrize("grouped", [False, True])
def test_it_crosses_out_of_a_stream_of_a_thread(grouped: bool) -> None:
    def stream(request: bytes, context: Any) -> Any:
        yield b"first"
        raise ExceptionGroup("tasks", [peer_error()]) if grouped else peer_error()

    handler = grpc.method_handlers_generic_handler("t.T", {"All": grpc.unary_stream_rpc_method_handler(stream)})
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=[ServerInterceptor(pipeline=Pipeline("api"))])
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream("/t.T/All")(b"")
            assert next(call) == b"first"
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
        server.stop(None).wait()
    assert is_relayed(raised.value)


@pytest.mark.parametrize("writes", [False, True])
def test_it_crosses_out_of_a_stream_of_a_task(writes: bool) -> None:
    async def generator(request: bytes, context: Any) -> Any:
        yield b"first"
        raise peer_error()

    async def writer(request: bytes, context: Any) -> None:
        await context.write(b"first")
        raise peer_error()

    behavior = writer if writes else generator
    handler = grpc.method_handlers_generic_handler("t.T", {"All": grpc.unary_stream_rpc_method_handler(behavior)})

    async def scenario() -> Any:
        server = grpc.aio.server(interceptors=[AioServerInterceptor(pipeline=Pipeline("api"))])
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream("/t.T/All")(b"")
            assert await call.read() == b"first"
            with pytest.raises(grpc.RpcError) as raised:
                await call.read()
        await server.stop(None)
        return raised.value

    assert is_relayed(asyncio.run(scenario()))
