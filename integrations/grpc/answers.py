"""Refusals as gRPC statuses: code, text, pushback (gRFC A6) and the details of the richer error model (google.rpc)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from resilience import CircuitOpen, DeadlineExceeded, RateLimited, Rejected
from resilience.edges import OUTWARD_DETAIL, told_trace_id
from resilience.integrations.grpc.call import Metadata

DOMAIN: Final = "resilience"
"""Who gives the reasons, in the words of `google.rpc.ErrorInfo`."""
PUSHBACK: Final = "grpc-retry-pushback-ms"
DETAILS: Final = "grpc-status-details-bin"
_MOST_MS: Final = 2**31 - 1  # clients read pushback as a signed number of 32 bits


class RpcAnswer(NamedTuple):
    """How an RPC ends that was refused."""

    code: grpc.StatusCode
    details: str
    trailing: Metadata


UNTOLD: Final = RpcAnswer(grpc.StatusCode.UNKNOWN, "the handler failed", ())
"""How an RPC ends whose handler failed by an error that says more than a client should know."""


def refusal_answer(refusal: Rejected, *, own: bool, details: str = "") -> RpcAnswer:
    """The answer to an RPC that was refused.

    Args:
        refusal: by whom and why.
        own: whether a guard of this RPC refused it. A limit that the handler met on its way out is not the client's quota: it is
            answered as reduced capacity, and what is behind this service is not named.
        details: what is said instead, where the application found words of its own.
    """
    code, reason = _kind(refusal, own)
    text = details or (str(refusal) if own else OUTWARD_DETAIL)
    return status_answer(
        code, text, reason, policy=refusal.policy if own else "", retry_after_s=refusal.retry_after_s, trace_id=refusal.trace_id
    )


def status_answer(
    code: grpc.StatusCode, text: str, reason: str, *, policy: str = "", retry_after_s: float | None = None, trace_id: str = ""
) -> RpcAnswer:
    """A status with its details.

    Args:
        code: of the status.
        text: in words.
        reason: of `google.rpc.ErrorInfo`.
        policy: what refused, where that may be told.
        retry_after_s: seconds until another try may succeed, for pushback and `google.rpc.RetryInfo`.
        trace_id: the trace in which it came about; by default the one that this is in.
    """
    pushback_ms = _pushback_ms(retry_after_s)
    info = _error_info(reason, policy, told_trace_id(trace_id))
    status = Status(code=code.value[0], message=text, details=[info])
    if pushback_ms is None:
        return RpcAnswer(code, text, ((DETAILS, status.SerializeToString()),))
    delay = Duration(seconds=pushback_ms // 1000, nanos=pushback_ms % 1000 * 1_000_000)
    status.details.append(_packed(RetryInfo(retry_delay=delay)))
    return RpcAnswer(code, text, ((PUSHBACK, str(pushback_ms)), (DETAILS, status.SerializeToString())))


def merged(existing: Iterable[Any] | None, trailing: Metadata) -> tuple[Any, ...]:
    """What a handler has set as trailing metadata with ours, since setting replaces all of it. A key of ours has one value."""
    if not existing:
        return tuple(trailing)
    ours = {key for key, _ in trailing}
    return (*(entry for entry in existing if entry[0] not in ours), *trailing)


def _kind(refusal: Rejected, own: bool) -> tuple[grpc.StatusCode, str]:
    if isinstance(refusal, RateLimited):
        is_quota = own and refusal.reason == "quota"
        return grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED" if is_quota else "REDUCED_CAPACITY"
    if isinstance(refusal, DeadlineExceeded):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"
    if isinstance(refusal, CircuitOpen):
        return grpc.StatusCode.UNAVAILABLE, "CIRCUIT_OPEN"
    return grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE" if refusal.reason == "unavailable" else "REFUSED"


def _pushback_ms(retry_after_s: float | None) -> int | None:
    """Whole milliseconds, rounded up. The microsecond of a float's rounding error is not a millisecond."""
    if retry_after_s is None or not math.isfinite(retry_after_s):  # anybody's `Rejected` is answered here
        return None
    return max(0, min(math.ceil(retry_after_s * 1000 - 1e-6), _MOST_MS))


def _error_info(reason: str, policy: str, trace_id: str) -> AnyMessage:
    if not trace_id:
        return _untraced(reason, policy)
    metadata = {"trace_id": trace_id, "policy": policy} if policy else {"trace_id": trace_id}
    return _packed(ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))


@lru_cache(maxsize=256)
def _untraced(reason: str, policy: str) -> AnyMessage:
    return _packed(ErrorInfo(reason=reason, domain=DOMAIN, metadata={"policy": policy} if policy else {}))


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
