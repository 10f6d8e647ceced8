"""Errors of gRPC as faults, which HTTP knows too; and faults as statuses of gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from resilience import Rejected
from resilience.edges import (
    RELAYED_DETAIL,
    Answer,
    Fault,
    ended_by,
    fault_of,
    read_pushback,
    register_translator,
    relayed_answer,
    relayed_in,
)
from resilience.integrations.grpc.answers import DETAILS, DOMAIN, PUSHBACK, refusal_answer, status_answer
from resilience.integrations.grpc.call import Metadata
from resilience.integrations.grpc.metadata import pairs, values_of

_REASONS: Final = {
    "QUOTA_EXCEEDED": "quota",
    "REDUCED_CAPACITY": "cut",
    "CIRCUIT_OPEN": "open",
    "REFUSED": "refused",
    "DEADLINE_EXCEEDED": "expired",
}
_TOO_LARGE: Final = "message larger than max"
"""How grpcio says that a message was not sent, or not taken, whatever the state of the peer."""
_INTERNAL_STATUS: Final = 500
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_UNKNOWN: Final = (
    "rpc_status() takes a response that says an error, or the error made of it, of a library whose room was imported "
    "(resilience.integrations.httpx or .requests); got a {}"
)
_MOST_BYTES: Final = 65_536
_MOST_DETAILS: Final = 16
_NANOS_PER_S: Final = 1_000_000_000


class Said(NamedTuple):
    """What the details of a status say, as far as this toolkit asks."""

    reason: str = ""
    trace_id: str = ""
    retry_after_s: float | None = None


_NOTHING: Final = Said()


def http_answer(error: Exception, detail: str = "") -> Answer:
    """The HTTP answer that relays an error of gRPC, whatever its code: its kind, its retry hint and its trace id, not its text.

    An error that says "refused" or "too late" need not be caught for this: it is answered so where it leaves the handler.

    Args:
        error: what a stub raised.
        detail: what the client is told of it; by default neutral words.

    Raises:
        Exception: `error` itself, where it is no error of a call.
    """
    return relayed_answer(error, detail)


class _Status(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: Metadata


class RpcStatus(_Status, grpc.Status):  # type: ignore[misc]  # grpc ships no types
    """A status of gRPC: `context.abort_with_status(status)` for threads, `await context.abort(*status)` for asyncio."""


def rpc_status(response: Any, details: str = "") -> RpcStatus:
    """The status that relays an HTTP response, whatever its status: its kind, its retry hint and its trace id, not its text.

    An error that says "refused" or "too late" need not be caught for this: it is answered so where it leaves the handler.

    Args:
        response: one of httpx or of requests, or the error that its `raise_for_status` made, or an error of gRPC. The room of its
            library must have been imported.
        details: what the client is told of it; by default neutral words.

    Raises:
        Exception: `response` itself, where it is an error that no service has answered with.
        TypeError: it is no response of a library that is known here, or a response that says no error.
    """
    refusal, fault = relayed_in(response), fault_of(response)
    if refusal is not None:
        if fault is None or fault.is_refusal:  # else it counts by its code
            ended_by(response if isinstance(response, Exception) else refusal)
        return RpcStatus(*refusal_answer(refusal, own=False, details=details))
    if fault is None:
        raise response if isinstance(response, BaseException) else TypeError(_UNKNOWN.format(type(response).__name__))
    code = _CODES[fault.code]
    text = details or RELAYED_DETAIL
    return RpcStatus(*status_answer(code, text, code.name, retry_after_s=fault.retry_after_s, trace_id=fault.trace_id))


# --- reading errors of gRPC ------------------------------------------------------------------------------------------------------


def read_rpc_error(error: object) -> Fault | None:
    """What a service has answered with, or what this side found of it. None for all else, refusals of ours among them.

    The bare `grpc.RpcError` by which a server ends the requests of a client that has gone has no code, and says nothing either.
    """
    if isinstance(error, Rejected) or not isinstance(error, grpc.RpcError):
        return None
    code = _asked(error, "code")
    if not isinstance(code, grpc.StatusCode) or code is grpc.StatusCode.OK:
        return None
    number: int = code.value[0]
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in str(_asked(error, "details")):
        return Fault(_INTERNAL_STATUS, number)
    trailing = pairs(_asked(error, "trailing_metadata"))
    said = read_details(number, [value for key, value in trailing if key == DETAILS])
    hints = (said.retry_after_s, read_pushback(values_of(trailing, PUSHBACK)).wait_s)
    hint_s = max((hint_s for hint_s in hints if hint_s is not None), default=None)
    return Fault.of_code(number, reason=said.reason, retry_after_s=hint_s, trace_id=said.trace_id)


def _asked(error: grpc.RpcError, what: str) -> Any:
    method = getattr(error, what, None)
    return method() if callable(method) else None


def read_details(code: int, values: Iterable[Any]) -> Said:
    """Read the values of `grpc-status-details-bin`. There should be one, for the same code; what cannot be read says nothing."""
    found = list(values)
    if len(found) != 1 or not isinstance(found[0], bytes) or len(found[0]) > _MOST_BYTES:
        return _NOTHING
    said = _NOTHING
    try:
        status = Status.FromString(found[0])
        if status.code != code:
            return _NOTHING
        for detail in status.details[:_MOST_DETAILS]:
            if detail.Is(ErrorInfo.DESCRIPTOR):
                info = ErrorInfo.FromString(detail.value)
                if info.domain == DOMAIN:
                    said = said._replace(reason=_REASONS.get(info.reason, ""), trace_id=info.metadata.get("trace_id", ""))
            elif detail.Is(RetryInfo.DESCRIPTOR):
                delay = RetryInfo.FromString(detail.value).retry_delay
                said = said._replace(retry_after_s=delay.seconds + delay.nanos / _NANOS_PER_S)
    except DecodeError:
        return _NOTHING
    return said


register_translator(read_rpc_error)
