"""Refusals as HTTP answers: statuses, problem documents (RFC 9457), Retry-After (RFC 9110) and the RateLimit fields."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from resilience import tracing
from resilience.errors import DeadlineExceeded, Quota, RateLimited, Rejected
from resilience.refusals import RefusalSettings

log = logging.getLogger("resilience")
_PROBLEM_TYPES: Final = "https://iana.org/assignments/http-problem-types#"
_TITLES: Final = {
    "quota-exceeded": "Request cannot be satisfied as assigned quota has been exceeded",
    "temporary-reduced-capacity": "Request cannot be satisfied due to temporary server capacity constraints",
}
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
OUTWARD_DETAIL: Final = "something that this service depends on cannot be called now"
"""All that a client is told of a refusal that the handler met on its way out."""
RELAYED_DETAIL: Final = "something that this service depends on has answered so"
"""All that a client is told of another error that is relayed, unless the application finds words for it."""
_PROBLEM: Final = "application/problem+json"
_OF_THE_BODY: Final = ("content-type", "content-length")
_SETTINGS: Final = RefusalSettings()
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
        return f"{self.status} {_phrase(self.status)}"

    def header(self, name: str) -> str | None:
        """The value of the header of that name (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_body(self, content_type: str, body: bytes) -> Answer:
        """The same answer with another body, and headers that fit it; without a body, `content_type` says nothing."""
        headers = ((name.lower(), value) for name, value in self.headers)
        kept = [(name, value) for name, value in headers if name not in _OF_THE_BODY]
        of_body = [("content-type", content_type)] if content_type and body else []
        return Answer(self.status, (*of_body, *kept, ("content-length", str(len(body)))), body)


ChangeAnswer = Callable[[Rejected, Answer], Answer]
"""Makes another answer of a refusal's: with a body of the service's own, say."""


class Answers:
    """How a service answers what it refuses.

    Args:
        settings: statuses, and what an answer holds.
        change: has the last word on each answer. Where it raises, or returns something else, the answer stays as it was.
    """

    __slots__ = ("_change", "_settings")

    def __init__(self, settings: RefusalSettings | None = None, change: ChangeAnswer | None = None) -> None:
        self._settings = settings or _SETTINGS
        self._change = change

    def to(self, refusal: Rejected, *, own: bool, detail: str = "") -> Answer:
        """The answer to a request that was refused; `own`: by a guard of this request. See `refusal_answer` for all of them."""
        answer = refusal_answer(refusal, own=own, detail=detail, settings=self._settings)
        if self._change is None:
            return answer
        try:
            changed: object = self._change(refusal, answer)
            if isinstance(changed, Answer):
                return changed.with_body(changed.header("content-type") or "", changed.body)
            log.error("%r makes no Answer of a refusal, but %s; it is answered as usual", self._change, type(changed).__name__)
        except Exception:
            log.exception("%r failed; the refusal is answered as usual", self._change)
        return answer


AS_USUAL: Final = Answers()
"""Where nothing is set."""


def refusal_answer(
    refusal: Rejected,
    *,
    own: bool,
    detail: str = "",
    uniform: Uniform = random.random,
    settings: RefusalSettings = _SETTINGS,
) -> Answer:
    """The answer to a request that was refused.

    Args:
        refusal: by whom and why.
        own: whether a guard of this request refused it. A limit that the handler met on its way out is not the client's quota: it
            is answered as reduced capacity, without RateLimit fields, and what is behind this service is not named.
        detail: what is said instead, where the application found words of its own.
        uniform: draws the jitter of Retry-After from [0, 1).
        settings: statuses, and whether there is a body.
    """
    status, kind = _kind(refusal, own, settings)
    document: dict[str, object] = {
        "type": f"{_PROBLEM_TYPES}{kind}" if kind else "about:blank",
        "title": _TITLES[kind] if kind else _phrase(status),
        "status": status,
        "detail": detail or (str(refusal) if own else OUTWARD_DETAIL),
        "reason": refusal.reason,
    }
    trace_id = told_trace_id(refusal.trace_id)
    if trace_id:
        document["trace_id"] = trace_id
    if kind == "quota-exceeded":
        document["violated-policies"] = [refusal.policy]
    headers: list[tuple[str, str]] = []
    quota = refusal.quota if own and isinstance(refusal, RateLimited) else None
    if refusal.retry_after_s is not None and math.isfinite(refusal.retry_after_s):  # anybody's `Rejected` is answered here
        wait_s = refusal.retry_after_s if quota is None else max(refusal.retry_after_s, quota.available_in_s)
        headers.append(("retry-after", str(retry_after(wait_s, uniform))))
    if quota is not None:
        headers += ratelimit_fields([quota])
    body = b"" if settings.body == "none" else json.dumps(document).encode()
    return Answer(status, tuple(headers), b"").with_body(_PROBLEM, body)


def error_answer(
    status: int,
    *,
    code: str,
    detail: str = "",
    retry_after_s: float | None = None,
    trace_id: str = "",
    uniform: Uniform = random.random,
) -> Answer:
    """The answer that relays an error which is no refusal.

    Args:
        status: of the answer.
        code: the name of the gRPC code that says the same: several go with one status.
        detail: what the application says of it; by default neutral words.
        retry_after_s: for Retry-After, where that is known.
        trace_id: the trace in which it came about; by default the one that this is in.
        uniform: draws the jitter of Retry-After from [0, 1).
    """
    title = _PHRASES.get(status, "Error")
    document: dict[str, object] = {"type": "about:blank", "title": title, "status": status, "detail": detail or RELAYED_DETAIL}
    document["code"] = code
    trace_id = told_trace_id(trace_id)
    if trace_id:
        document["trace_id"] = trace_id
    headers: list[tuple[str, str]] = []
    if retry_after_s is not None:
        headers.append(("retry-after", str(retry_after(retry_after_s, uniform))))
    return Answer(status, tuple(headers), b"").with_body(_PROBLEM, json.dumps(document).encode())


def told_trace_id(known: str) -> str:
    """The trace id that an answer tells: the one that is known of the error, else that of the present trace; empty without one."""
    return known or tracing.trace_id()


def _kind(refusal: Rejected, own: bool, settings: RefusalSettings) -> tuple[int, str]:
    if isinstance(refusal, RateLimited):
        if own and refusal.reason == "quota":
            return settings.quota_status, "quota-exceeded"
        return refusal.status, "temporary-reduced-capacity"
    if isinstance(refusal, DeadlineExceeded):
        return settings.deadline_status, ""
    return settings.open_status, ""


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Refused")


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
