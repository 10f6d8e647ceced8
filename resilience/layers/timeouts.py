"""Timeouts as they travel in headers. What cannot be read is None: treated as absent, and counted by who asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from resilience.clock import US_PER_S

_GRPC_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_MILLISECONDS: Final = re.compile(r"[0-9]{1,10}\Z")
_MOST_IN_GRPC: Final = 99_999_999
_NEVER_LONGER_PERCENT: Final = 97
_NS_PER_UNIT: Final = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}


def grpc_timeout_ns(text: str) -> int | None:
    """Nanoseconds of a `grpc-timeout` value: 1 to 8 digits and a unit (gRPC over HTTP/2, "Timeout"). None: malformed."""
    match = _GRPC_TIMEOUT.match(text)
    return None if match is None else int(match[1]) * _NS_PER_UNIT[match[2]]


def _grpc_timeout_s(text: str) -> float | None:
    timeout_ns = grpc_timeout_ns(text)
    return None if timeout_ns is None else timeout_ns / 1e9


def _milliseconds_s(text: str) -> float | None:
    """Seconds of a whole number of milliseconds, up to 10 digits (Connect protocol, "Timeout"; Envoy writes the same form)."""
    return int(text) / 1000 if _MILLISECONDS.match(text) else None


PARSERS: Final[Mapping[str, Callable[[str], float | None]]] = {
    "grpc-timeout": _grpc_timeout_s,
    "x-envoy-expected-rq-timeout-ms": _milliseconds_s,
    "connect-timeout-ms": _milliseconds_s,
}
"""How to read each header that can bring a deadline."""


def timeout_text(header: str, timeout_ms: int) -> str:
    """The value that says `timeout_ms`, 1 or more, in one of these headers. What `grpc-timeout` cannot say is said as its most."""
    return f"{min(timeout_ms, _MOST_IN_GRPC)}m" if header == "grpc-timeout" else str(timeout_ms)


def milliseconds_left(remaining_us: int, reserve_us: int) -> int:
    """Whole milliseconds to pass on: what is left less the reserve, rounded down. 0 or less must not be sent."""
    return (remaining_us - reserve_us) * 1000 // US_PER_S


@lru_cache(maxsize=4_096)  # most calls begin with the same deadline
def grpc_timeout_s(timeout_ms: int) -> float:
    """The timeout in seconds to hand to gRPC so that what arrives is at most `timeout_ms`, 1 or more.

    The C core rounds up three times: to whole milliseconds, to the three digits that it encodes (12.345 s as 12.4 s), and to the
    timeout of an earlier call on the same connection that is less than 3 % longer, since that one compresses better.
    """
    least_ms = timeout_ms * _NEVER_LONGER_PERCENT // 100
    scale = 1
    while least_ms // scale >= 1000:
        scale *= 10
    return max(0.5, least_ms // scale * scale - 1.0) / 1000
