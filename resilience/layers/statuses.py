"""HTTP statuses and gRPC status codes, as settings name them and as calls carry them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LOWEST_STATUS: Final = 100
HIGHEST_STATUS: Final = 599

GRPC_OK: Final = 0
_GRPC_FAILURES: Final = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
GRPC_CODES: Final[Mapping[str, int]] = MappingProxyType({name: number for number, name in enumerate(_GRPC_FAILURES, start=1)})
"""The gRPC codes other than OK by name, with their numbers on the wire: 1 to 16, which no HTTP status has."""

_STATUSES: Final = re.compile(r"([1-5][0-9]{2})(?:\.\.([1-5][0-9]{2}))?", re.ASCII)


def status_range(text: str) -> range | None:
    """The HTTP statuses that a text such as "503" or "500..599" names, both ends included. None: it names none."""
    match = _STATUSES.fullmatch(text)
    if match is None:
        return None
    return range(int(match[1]), int(match[2] or match[1]) + 1) or None
