"""Refusals as HTTP answers: statuses, problem documents (RFC 9457), Retry-After (RFC 9110) and the RateLimit fields."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from resilience.errors import DeadlineExceeded, Quota, RateLimited, Rejected

_PROBLEM_TYPES: Final = "https://iana.org/assignments/http-problem-types#"
_TITLES: Final = {
    "quota-exceeded": "Request cannot be satisfied as assigned quota has been exceeded",
    "temporary-reduced-capacity": "Request cannot be satisfied due to temporary server capacity constraints",
}
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
OUTWARD_DETAIL: Final = "something that this service depends on cannot be called now"
"""All that a client is told of a refusal that the handler met on its way out."""
_LARGEST: Final = 999_999_999_999_999  # an integer of a structured field (RFC 9651) has no more digits
_SPREAD: Final = 5  # Retry-After is drawn from up to a fifth more, so that the refused do not all come back together
Uniform = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response: status, headers with lower-case names, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        """The status with its phrase, as WSGI wants it."""
        return f"{self.status} {_PHRASES.get(self.status, 'Refused')}"


def refusal_answer(refusal: Rejected, *, own: bool, uniform: Uniform = random.random) -> Answer:
    """The answer to a request that was refused.

    Args:
        refusal: by whom and why.
        own: whether a guard of this request refused it. A limit that the handler met on its way out is not the client's quota: it
            is answered as reduced capacity, without RateLimit fields, and what is behind this service is not named.
        uniform: draws the jitter of Retry-After from [0, 1).
    """
    status, kind = _kind(refusal, own)
    document: dict[str, object] = {
        "type": f"{_PROBLEM_TYPES}{kind}" if kind else "about:blank",
        "title": _TITLES[kind] if kind else HTTPStatus(status).phrase,
        "status": status,
        "detail": str(refusal) if own else OUTWARD_DETAIL,
        "reason": refusal.reason,
    }
    if kind == "quota-exceeded":
        document["violated-policies"] = [refusal.policy]
    headers = [("content-type", "application/problem+json")]
    quota = refusal.quota if own and isinstance(refusal, RateLimited) else None
    if refusal.retry_after_s is not None and math.isfinite(refusal.retry_after_s):  # anybody's `Rejected` is answered here
        wait_s = refusal.retry_after_s if quota is None else max(refusal.retry_after_s, quota.available_in_s)
        headers.append(("retry-after", str(retry_after(wait_s, uniform))))
    if quota is not None:
        headers += ratelimit_fields([quota])
    body = json.dumps(document).encode()
    headers.append(("content-length", str(len(body))))
    return Answer(status, tuple(headers), body)


def _kind(refusal: Rejected, own: bool) -> tuple[int, str]:
    if isinstance(refusal, RateLimited):
        if own and refusal.reason == "quota":
            return HTTPStatus.TOO_MANY_REQUESTS, "quota-exceeded"
        return refusal.status, "temporary-reduced-capacity"
    if isinstance(refusal, DeadlineExceeded):
        return HTTPStatus.GATEWAY_TIMEOUT, ""
    return HTTPStatus.SERVICE_UNAVAILABLE, ""


def retry_after(wait_s: float, uniform: Uniform) -> int:
    """Whole seconds for Retry-After: rounded up, then up to a fifth more (at least one second's spread), never less."""
    least = whole_seconds(wait_s)
    return least + int(uniform() * (max(1, least // _SPREAD) + 1))


def whole_seconds(duration_s: float) -> int:
    """Seconds rounded up, at least 1. The microsecond of a float's rounding error is not a second."""
    return max(1, math.ceil(duration_s - 1e-9))


def ratelimit_fields(quotas: Sequence[Quota]) -> list[tuple[str, str]]:
    """RateLimit-Policy and RateLimit in the list form of the IETF draft "RateLimit header fields for HTTP"."""
    policies = ", ".join(f"{_string(quota.policy)};q={quota.limit};w={min(quota.window_s, _LARGEST)}" for quota in quotas)
    limits = ", ".join(f"{_string(quota.policy)};r={quota.remaining};t={_seconds(quota.available_in_s)}" for quota in quotas)
    return [("ratelimit-policy", policies), ("ratelimit", limits)]


def _seconds(duration_s: float) -> int:
    return min(whole_seconds(duration_s), _LARGEST)


def _string(text: str) -> str:
    """A structured-field string (RFC 9651): printable ASCII, quoted."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
