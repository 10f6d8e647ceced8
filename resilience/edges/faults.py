"""How a service further in failed, in one language for HTTP and gRPC: what crosses a hop by itself, and how it counts there.

The rooms of client libraries say by `register_translator` how their errors are read; the core imports none of them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resilience.call import Call, Outcome
from resilience.clock import SYSTEM_CLOCK
from resilience.edges.codes import code_of_status, name_of_code, status_of_code
from resilience.errors import CircuitOpen, DeadlineExceeded, RateLimited, Rejected
from resilience.layers.breaker.classify import judge_error
from resilience.layers.retry.advice import retry_after_s
from resilience.layers.statuses import GRPC_CODES

log = logging.getLogger("resilience")

LIMITED: Final = ("quota", "cut")
"""The words of a limiter's refusal."""
STOPPED: Final = ("open", "half_open", "forced", "refused")
"""The words of a breaker's refusal, and of a guard of another kind."""
LATE: Final = ("expired", "expired_on_arrival")
UNAVAILABLE: Final = "unavailable"
"""The word for a failure that no guard has spoken of."""

LONGEST_HINT_S: Final = 86_400.0
"""A hint from outside that is longer than a day is passed on as a day."""
MOST_BYTES: Final = 65_536
"""A problem document, or a rich status, that is longer is not read."""
LOWEST_ERROR: Final = 400

_WORDS: Final = {GRPC_CODES["UNAVAILABLE"]: STOPPED, GRPC_CODES["DEADLINE_EXCEEDED"]: LATE}
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_TOO_LATE: Final = 504
_TEMPORARY: Final = frozenset({_TOO_MANY, _UNAVAILABLE, _TOO_LATE})
_LIMITED_TYPES: Final = re.compile(r"https://iana\.org/assignments/http-problem-types#(quota-exceeded|temporary-reduced-capacity)")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_NO_TRACE: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Fault:
    """What is known of a failure that a service further in has answered with. Nothing in it is that service's own text.

    Attributes:
        status: the HTTP status for it.
        code: the number of the gRPC status code for it.
        reason: one word of this toolkit, such as "cut" or "open"; empty where the service said none that fits its status.
        retry_after_s: seconds until another try may succeed, from 0 to a day, or None where that was not said.
        trace_id: 32 hexadecimal digits, or empty: the trace in which it came about.
    """

    status: int
    code: int
    reason: str = ""
    retry_after_s: float | None = None
    trace_id: str = ""

    @classmethod
    def of_problem(
        cls, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, wall_s: float | None = None
    ) -> Fault | None:
        """Read an HTTP response. What its problem document (RFC 9457) says is believed only where it fits the status.

        Args:
            status: below 400 it is no failure: None.
            headers: names in any case.
            body: read only where the content type is `application/problem+json`; what cannot be read says nothing.
            wall_s: now, in seconds since the Unix epoch, from which a `Retry-After` that is a date counts; default the system's.
        """
        if status < LOWEST_ERROR:
            return None
        fields = [(name.lower(), value) for name, value in headers]
        kinds = [value.partition(";")[0].strip().lower() for name, value in fields if name == "content-type"]
        document = _document(body) if kinds == ["application/problem+json"] else {}
        waits = [value for name, value in fields if name == "retry-after"]
        hint_s = retry_after_s(waits, SYSTEM_CLOCK.wall_s() if wall_s is None else wall_s) if waits else None
        reason = fitting(_text(document, "reason"), status)
        is_limited = status == _TOO_MANY or reason in LIMITED or is_limited_type(_text(document, "type"), status)
        if is_limited:
            reason = reason if reason in LIMITED else "cut"
            code = GRPC_CODES["RESOURCE_EXHAUSTED"]
        elif reason in LATE:
            code = GRPC_CODES["DEADLINE_EXCEEDED"]
        else:
            code = _code(_text(document, "code"), status)
        return cls(status, code, reason, bounded(hint_s), trace_id_of(_text(document, "trace_id")))

    @classmethod
    def of_code(cls, code: int, *, reason: str = "", retry_after_s: float | None = None, trace_id: str = "") -> Fault:
        """Take down what a gRPC service answered with. What it says beside its code is believed only where that fits the code.

        Args:
            code: the number of the status code, not OK.
            reason: what it says of itself, as a word of this toolkit.
            retry_after_s: its hint, in seconds.
            trace_id: its trace.
        """
        status = status_of_code(code)
        if code == GRPC_CODES["RESOURCE_EXHAUSTED"]:
            reason = reason if reason in LIMITED else "cut"
        else:
            reason = reason if reason in _WORDS.get(code, ()) else ""
        return cls(status, code, reason, bounded(retry_after_s), trace_id_of(trace_id))

    @property
    def is_temporary(self) -> bool:
        """Whether it says "refused" or "too late", which is as true one hop further out."""
        return self.status in _TEMPORARY

    @property
    def is_refusal(self) -> bool:
        """Whether a guard has spoken: a limiter, a breaker, a deadline. Else the service failed, for all that is known."""
        return bool(self.reason)

    def refusal(self) -> Rejected:
        """The same as a refusal, which is answered by the table for those that a handler met on its way out."""
        said = "refused by a service further in"
        refusal: Rejected
        if self.code == GRPC_CODES["RESOURCE_EXHAUSTED"]:
            status = _UNAVAILABLE if self.status == _UNAVAILABLE else _TOO_MANY
            refusal = RateLimited(said, reason=self.reason or "cut", retry_after_s=self.retry_after_s, status=status)
        elif self.code == GRPC_CODES["DEADLINE_EXCEEDED"]:
            refusal = DeadlineExceeded(said, reason=self.reason or "expired", retry_after_s=self.retry_after_s)
        elif self.reason in STOPPED and self.reason != "refused":
            refusal = CircuitOpen(said, reason=self.reason, retry_after_s=self.retry_after_s)
        else:
            refusal = Rejected(said, reason=self.reason or UNAVAILABLE, retry_after_s=self.retry_after_s)
        refusal.trace_id = self.trace_id
        return refusal


# --- reading what comes from outside ---------------------------------------------------------------------------------------------


def fitting(reason: str, status: int) -> str:
    """`reason`, if it is a word of this toolkit that goes with `status`; else nothing."""
    if status == _TOO_MANY:
        return reason if reason in LIMITED else ""
    if status == _UNAVAILABLE:  # by which a service may be set to answer all of them
        return reason if reason in LIMITED or reason in STOPPED or reason in LATE else ""
    return reason if status == _TOO_LATE and reason in LATE else ""


def is_limited_type(kind: str, status: int) -> bool:
    """Whether a problem type says that a limiter refused, with a status that a limiter of ours answers with."""
    return status in (_TOO_MANY, _UNAVAILABLE) and _LIMITED_TYPES.fullmatch(kind) is not None


def bounded(hint_s: float | None) -> float | None:
    """A hint from outside: not below 0, not above a day; one that is no number is none."""
    if hint_s is None or hint_s != hint_s:  # noqa: PLR0124  # only what is no number differs from itself
        return None
    return min(max(0.0, hint_s), LONGEST_HINT_S)


def trace_id_of(text: str) -> str:
    """`text`, if it is a trace id as W3C Trace Context writes them; else nothing."""
    return text if _TRACE_ID.fullmatch(text) and text != _NO_TRACE else ""


def _document(body: bytes) -> Mapping[str, Any]:
    if len(body) > MOST_BYTES:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _text(document: Mapping[str, Any], member: str) -> str:
    value = document.get(member)
    return value if isinstance(value, str) else ""


def _code(name: str, status: int) -> int:
    """The code that a relayed error began with, where it goes with the status; several codes share one."""
    code = GRPC_CODES.get(name)
    return code if code is not None and status_of_code(code) == status else code_of_status(status)


# --- errors of client libraries --------------------------------------------------------------------------------------------------

Translator = Callable[[object], Fault | None]
"""Reads an error, or a response, of one client library: what a service has answered with; None for anything else."""

_translators: Final[list[Translator]] = []


def register_translator(translate: Translator) -> None:
    """Let the errors that `translate` can read cross hops. Once more does nothing."""
    if translate not in _translators:
        _translators.append(translate)


def fault_of(error: object) -> Fault | None:
    """What a service has answered with, where `error`, or a response, says that; None for all else, refusals of ours among them."""
    if isinstance(error, Rejected):
        return None
    for translate in _translators:
        try:
            fault = translate(error)
        except Exception:  # the error at hand must not be lost for it
            log.warning("an error of class %s cannot be read", type(error).__name__, exc_info=True)
            continue
        if fault is not None:
            return fault
    return None


def relayed_in(error: object) -> Rejected | None:
    """The refusal by which a request is answered whose handler raised `error`; None where the error is its own business.

    That is a refusal itself; or what a service answered with that refused, was late or could not be had; or the first one of a
    group that holds nothing else. A task group wraps what its tasks raise in a group, also where there is only one.
    """
    if isinstance(error, Rejected):
        return error
    if isinstance(error, BaseExceptionGroup):
        members = [relayed_in(member) for member in error.exceptions]
        return None if None in members else members[0]
    fault = fault_of(error)
    return fault.refusal() if fault is not None and fault.is_temporary else None


def judge_relayed(call: Call, error: BaseException) -> Outcome:
    """The outcome of a request that is answered by what its handler raised.

    What a guard of the service further in refused counts as if it were refused here. A failure of that service counts as one of the
    handler's, as do all other errors, and is logged, since no server does that any more. A group is a failure if a member is.
    """
    if isinstance(error, BaseExceptionGroup):
        members = {judge_relayed(call, member) for member in error.exceptions}
        return Outcome.FAILED if Outcome.FAILED in members else Outcome.IGNORED
    fault = fault_of(error)
    if fault is None or not fault.is_temporary:
        return judge_error(call, error)
    if fault.is_refusal:
        return judge_error(call, fault.refusal())
    log.warning("%s: a call that its handler made failed (%s, %s)", call.name, name_of_code(fault.code), type(error).__name__)
    return judge_error(call, error)
