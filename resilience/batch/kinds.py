"""Which error is which kind: by what guards and breakers know of errors already."""

from __future__ import annotations

from typing import Final

from resilience.batch.result import CallCancelled, Kind, RequestNotMade
from resilience.call import Outcome
from resilience.edges.faults import Fault, fault_of
from resilience.errors import Rejected
from resilience.layers.breaker.classify import is_cancellation, judge_code, judge_status
from resilience.layers.statuses import GRPC_CODES

_DEADLINE_EXCEEDED: Final = GRPC_CODES["DEADLINE_EXCEEDED"]
_CANCELLED: Final = GRPC_CODES["CANCELLED"]
_BY_NAME: Final = {
    ("httpx", "TimeoutException"): Kind.TIMEOUT,
    ("httpx", "TransportError"): Kind.TRANSPORT,
    ("httpx2", "TimeoutException"): Kind.TIMEOUT,
    ("httpx2", "TransportError"): Kind.TRANSPORT,
    ("requests.exceptions", "Timeout"): Kind.TIMEOUT,
}
"""Errors by which clients say that there was no answer; by name, since nothing here may need their libraries."""


def kind_of(error: BaseException) -> Kind:
    """The kind of an error, whoever raised it. The first rule that fits:

    1. A cancellation is CANCELLED.
    2. `TimeoutError`, a `DeadlineExceeded` among them, is TIMEOUT.
    3. Any other refusal of ours, a `Rejected`, is REFUSED.
    4. What a service has answered with (`resilience.edges.fault_of`: errors of httpx, requests and gRPC whose rooms are imported):
       DEADLINE_EXCEEDED, 504 and 408 are TIMEOUT; CANCELLED is CANCELLED; where a guard of that service has spoken, such as by
       429 and RESOURCE_EXHAUSTED, REFUSED; what a breaker counts as a failure, TRANSPORT; any other is BUSINESS.
    5. By what httpx and requests say that no answer came in time, it is TIMEOUT; `OSError`, `ConnectionError` among them,
       `EOFError` and the transport errors of httpx are TRANSPORT.
    6. A group is what its members are, where they agree, else BUSINESS.
    7. All else is BUSINESS: what a function raises is its answer.
    """
    if isinstance(error, CallCancelled) or is_cancellation(error):
        return Kind.CANCELLED
    if isinstance(error, TimeoutError):
        return Kind.TIMEOUT
    if isinstance(error, Rejected):
        return Kind.REFUSED
    if isinstance(error, RequestNotMade):
        return Kind.BUSINESS
    if isinstance(error, BaseExceptionGroup):
        kinds = {kind_of(member) for member in error.exceptions}
        return kinds.pop() if len(kinds) == 1 else Kind.BUSINESS
    fault = fault_of(error)
    if fault is not None:
        return kind_of_fault(fault)
    for cls in type(error).__mro__:
        known = _BY_NAME.get((cls.__module__, cls.__name__))
        if known is not None:
            return known
    return Kind.TRANSPORT if isinstance(error, (OSError, EOFError)) else Kind.BUSINESS


def kind_of_fault(fault: Fault) -> Kind:
    """The kind of what a service has answered with.

    It speaks of both HTTP and gRPC, and failed only if it failed in both: 409 is no failure though ABORTED is, and UNIMPLEMENTED
    is none though 501 is.
    """
    if fault.code == _DEADLINE_EXCEEDED:
        return Kind.TIMEOUT
    if fault.code == _CANCELLED:
        return Kind.CANCELLED
    if fault.is_refusal:
        return Kind.REFUSED
    failed = judge_status(fault.status) is Outcome.FAILED and judge_code(fault.code) is Outcome.FAILED
    return Kind.TRANSPORT if failed else Kind.BUSINESS
