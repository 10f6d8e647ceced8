"""HTTP statuses and gRPC codes, each as the other. Source: the mapping in the comments of `google/rpc/code.proto`."""

from __future__ import annotations

from typing import Final

from resilience.layers.statuses import GRPC_CODES

_STATUSES: Final = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
_NAMES: Final = {number: name for name, number in GRPC_CODES.items()}
_STATUS_OF: Final = {GRPC_CODES[name]: status for name, status in _STATUSES.items()}

_CODES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    # Those that no code is mapped to, by the code whose meaning is nearest.
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    410: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    416: "OUT_OF_RANGE",
    422: "INVALID_ARGUMENT",
    502: "UNAVAILABLE",
}
_CODE_OF: Final = {status: GRPC_CODES[name] for status, name in _CODES.items()}


def name_of_code(code: int) -> str:
    """The name of a gRPC code other than OK, by its number; "UNKNOWN" for one that does not exist."""
    return _NAMES.get(code, "UNKNOWN")


def status_of_code(code: int) -> int:
    """The HTTP status for the number of a gRPC code; 500 for one that does not exist."""
    return _STATUS_OF.get(code, 500)


def code_of_status(status: int) -> int:
    """The number of the gRPC code for an HTTP status from 400 up. One without a code of its own goes by its class."""
    code = _CODE_OF.get(status)
    if code is not None:
        return code
    return GRPC_CODES["FAILED_PRECONDITION" if status < 500 else "INTERNAL"]
