"""Which error is which kind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys

import grpc
import httpx
import pytest
import requests

from resilience import CircuitOpen, DeadlineExceeded, RateLimited, Rejected
from resilience.batch import CallCancelled, Kind, RequestNotMade, kind_of
from resilience.batch.kinds import kind_of_fault
from resilience.edges import Fault
from resilience.layers.statuses import GRPC_CODES


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(), Kind.BUSINESS),
        (RequestNotMade(), Kind.BUSINESS),
        (TimeoutError(), Kind.TIMEOUT),
        (DeadlineExceeded(), Kind.TIMEOUT),
        (RateLimited(), Kind.REFUSED),
        (CircuitOpen(), Kind.REFUSED),
        (Rejected(), Kind.REFUSED),
        (asyncio.CancelledError(), Kind.CANCELLED),
        (concurrent.futures.CancelledError(), Kind.CANCELLED),
        (CallCancelled(), Kind.CANCELLED),
        (ConnectionResetError(), Kind.TRANSPORT),
        (OSError(), Kind.TRANSPORT),
        (EOFError(), Kind.TRANSPORT),
        (ExceptionGroup("", [RateLimited(), CircuitOpen()]), Kind.REFUSED),
        (ExceptionGroup("", [RateLimited(), OSError()]), Kind.BUSINESS),
        (httpx.ConnectError("no"), Kind.TRANSPORT),
        (httpx.ReadTimeout("no"), Kind.TIMEOUT),
        (httpx.InvalidURL("no"), Kind.BUSINESS),
        (requests.ConnectionError(), Kind.TRANSPORT),
        (requests.ReadTimeout(), Kind.TIMEOUT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.value,
)
def test_errors(error: BaseException, kind: Kind) -> None:
    assert kind_of(error) is kind


STATUSES = {
    400: Kind.BUSINESS,
    404: Kind.BUSINESS,
    408: Kind.TIMEOUT,
    409: Kind.BUSINESS,
    429: Kind.REFUSED,
    500: Kind.TRANSPORT,
    501: Kind.BUSINESS,
    502: Kind.TRANSPORT,
    503: Kind.TRANSPORT,
    504: Kind.TIMEOUT,
    507: Kind.TRANSPORT,
}


@pytest.mark.parametrize("status", STATUSES)
def test_answers_over_http(status: int) -> None:
    import resilience.integrations.httpx

    assert "resilience.integrations.httpx" in sys.modules, resilience
    response = httpx.Response(status, request=httpx.Request("GET", "http://stock"))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    assert kind_of(caught.value) is STATUSES[status]


CODES = {
    "CANCELLED": Kind.CANCELLED,
    "UNKNOWN": Kind.TRANSPORT,
    "INVALID_ARGUMENT": Kind.BUSINESS,
    "DEADLINE_EXCEEDED": Kind.TIMEOUT,
    "NOT_FOUND": Kind.BUSINESS,
    "ALREADY_EXISTS": Kind.BUSINESS,
    "PERMISSION_DENIED": Kind.BUSINESS,
    "RESOURCE_EXHAUSTED": Kind.REFUSED,
    "FAILED_PRECONDITION": Kind.BUSINESS,
    "ABORTED": Kind.BUSINESS,
    "OUT_OF_RANGE": Kind.BUSINESS,
    "UNIMPLEMENTED": Kind.BUSINESS,
    "INTERNAL": Kind.TRANSPORT,
    "UNAVAILABLE": Kind.TRANSPORT,
    "DATA_LOSS": Kind.TRANSPORT,
    "UNAUTHENTICATED": Kind.BUSINESS,
}


def test_every_code_of_grpc_is_told() -> None:
    assert set(CODES) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("code", CODES)
def test_codes(code: str) -> None:
    assert kind_of_fault(Fault.of_code(GRPC_CODES[code])) is CODES[code]


@pytest.mark.parametrize("reason", ["open", "half_open", "refused"])
def test_a_guard_further_in_refuses(reason: str) -> None:
    assert kind_of_fault(Fault.of_code(GRPC_CODES["UNAVAILABLE"], reason=reason)) is Kind.REFUSED
