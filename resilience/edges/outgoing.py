"""One HTTP request that leaves the process, as far as every client library's room treats it alike.

A room subclasses `OutgoingRequest`: it says how its library speaks of responses and errors, sends one try, and tells when the body
of the response has ended.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import Any, Final

from resilience.call import Call, Outcome, Permit
from resilience.edges.attempts import ATTEMPT_HEADER, HIGHEST_ATTEMPT, attempt_of
from resilience.edges.client import ClientExchange
from resilience.layers.breaker.classify import judge_status
from resilience.layers.retry.verdict import FAILURE, RETRYABLE, SUCCESS, Verdict, http_verdict
from resilience.layers.timeouts import PARSERS, timeout_text
from resilience.pipeline import Pipeline

Values = Callable[[str], list[str]]
"""All values of the header of that name (lower case)."""

_SWITCHING: Final = 101
_EVENT_STREAM: Final = "text/event-stream"


class OutgoingCall(Call):
    """An outgoing request as a call. Its name is what it is, not where it goes: that may come from a client."""

    __slots__ = ("_host", "_method", "_values")

    def __init__(self, method: str, host: str, values: Values) -> None:
        super().__init__("the outgoing request")
        self._method = method
        self._host = host
        self._values = values

    def headers(self, name: str) -> list[str]:
        return self._values(name)

    def host(self) -> str:
        return self._host

    def method(self) -> str:
        return self._method


class OutgoingRequest(ClientExchange):
    """One request through one pipeline: its tries, and its permits until the body of its response has ended.

    Args:
        pipeline: what it goes through.
        method: upper-case.
        host: lower-case, with the port where it is not the scheme's own.
        values: finds the request's own headers.
        can_repeat_body: whether its body can be sent again, whole.
    """

    def __init__(self, pipeline: Pipeline, method: str, host: str, values: Values, *, can_repeat_body: bool) -> None:
        super().__init__(pipeline, OutgoingCall(method, host, values))
        self.call.attempt = max(map(attempt_of, values(ATTEMPT_HEADER)), default=0)  # who says it himself passes on a retry
        self._body_failed = False
        retry = self._retry
        self._may_repeat = (
            can_repeat_body
            and retry is not None
            and (method in retry.settings.methods or any(value.strip() for value in values("idempotency-key")))
        )

    # --- how the library speaks -------------------------------------------------------------------------------------------------

    @abstractmethod
    def status_of(self, response: Any) -> int:
        """The status of a response."""

    @abstractmethod
    def values_of(self, response: Any, name: str) -> list[str]:
        """All values of a response's header."""

    # --- one try ----------------------------------------------------------------------------------------------------------------

    def begin_try(self) -> dict[str, str]:
        """A try begins. Returns the headers by which it tells its peer how long it may take, and how many were made before it.

        Raises:
            DeadlineExceeded: nothing is left of its time but what is kept back for the way home. It must not be sent.
        """
        self._body_failed = False
        left_ms = self.begin_time()
        headers: dict[str, str] = {}
        if self.attempt.attempt:
            headers[ATTEMPT_HEADER] = str(min(self.attempt.attempt, HIGHEST_ATTEMPT))
        if left_ms is None:
            return headers
        name = self._settings.write
        asked = [timeout_s for timeout_s in map(PARSERS[name], self.call.headers(name)) if timeout_s is not None]
        if not asked or left_ms < min(asked) * 1000:  # who asks for less is not given more
            headers[name] = timeout_text(name, left_ms)
        return headers

    @contextmanager
    def making_body(self) -> Iterator[None]:
        """Around each step of the caller's that makes a part of the request's body. What it raises says nothing of the peer."""
        try:
            yield
        except BaseException:
            self._body_failed = True
            raise

    # --- what the plan asks -----------------------------------------------------------------------------------------------------

    def judge_response(self, response: Any) -> Verdict:
        """Judge it by its status and its `Retry-After`."""
        retry = self._retry
        if retry is None:
            return SUCCESS
        wall_s = self.pipeline.clock.wall_s()
        verdict = http_verdict(retry.on, self.status_of(response), self.values_of(response, "retry-after"), wall_s)
        return verdict if verdict.retryable else RETRYABLE if retry.judge(None, response).retryable else verdict

    def judge_foreign(self, error: BaseException) -> Verdict:
        """As of any call; but a body that could not be made is not made better by another try."""
        return FAILURE if self._body_failed else super().judge_foreign(error)

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """What an error shows of the peer: nothing, where the caller's own body was at fault."""
        return Outcome.IGNORED if self._body_failed else super().outcome(call, error)

    @property
    def may_repeat(self) -> bool:
        """By its method or an `Idempotency-Key`, and its body."""
        return self._may_repeat

    def judge_ended(self, status: int) -> Outcome:
        """The outcome by the status of the response."""
        return judge_status(status)

    def keep(self, permit: Permit, result: Any) -> None:
        """The response has begun. A failure is known now, and streams vote at their start; all else ends with the body."""
        status = self.status_of(result)
        now_us = self._keep(permit, status)
        is_stream = self._is_stream(status, result)
        outcome = judge_status(status)
        if is_stream or outcome is Outcome.FAILED:
            permit.vote(outcome, now_us)
        if is_stream and not self._settings.streams:
            permit.call.deadline_us = None

    def _is_stream(self, status: int, response: Any) -> bool:
        return status == _SWITCHING or any(
            value.lower().startswith(_EVENT_STREAM) for value in self.values_of(response, "content-type")
        )


def host_key(host: str, port: int | None, scheme: str) -> str:
    """A host as breakers and functions tell it from others, in one form however it is written.

    Lower-case, without the dot that ends a whole name, IPv6 in its short form (RFC 5952), and with the port where that is not the
    scheme's own.
    """
    name = host.lower().removesuffix(".")
    if ":" in name:
        name = f"[{_short(name)}]"
    return name if port is None or port == _PORTS.get(scheme.lower()) else f"{name}:{port}"


def _short(address: str) -> str:
    number, percent, zone = address.partition("%")
    try:
        return f"{IPv6Address(number)}{percent}{zone}"
    except ValueError:
        return address


_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
