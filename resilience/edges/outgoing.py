"""One HTTP request that leaves the process, as far as every client library's room treats it alike.

A room subclasses `OutgoingRequest`: it says how its library speaks of responses and errors, sends one try, and tells when the body
of the response has ended. Until then the permits of the call are kept here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from resilience.call import CURRENT, Call, Outcome, Permit
from resilience.clock import US_PER_S, to_us
from resilience.drivers import Timeout
from resilience.edges.attempts import ATTEMPT_HEADER, HIGHEST_ATTEMPT
from resilience.errors import DeadlineExceeded, Rejected
from resilience.layers.breaker.classify import judge_error, judge_status
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.retry.verdict import FAILURE, RETRYABLE, SUCCESS, Verdict, http_verdict
from resilience.layers.timeouts import PARSERS, milliseconds_left, timeout_text
from resilience.pipeline import Pipeline
from resilience.plan import Plan
from resilience.stage import settle_error

Values = Callable[[str], list[str]]
"""All values of the header of that name (lower case)."""

_SWITCHING: Final = 101
_EVENT_STREAM: Final = "text/event-stream"
_SHORTEST_S: Final = 0.001
_NO_DEADLINE_LAYER: Final = DeadlineSettings()
_abandoned: Final[deque[OutgoingRequest]] = deque()
"""Requests whose responses were dropped. A destructor may run while this very thread holds a lock: it only notes them here."""


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


class OutgoingRequest(ABC):
    """One request through one pipeline: its tries, and its permits until the body of its response has ended.

    Args:
        pipeline: what it goes through.
        method: upper-case.
        host: lower-case, with the port where it is not the scheme's own.
        values: finds the request's own headers.
        can_repeat_body: whether its body can be sent again, whole.
    """

    def __init__(self, pipeline: Pipeline, method: str, host: str, values: Values, *, can_repeat_body: bool) -> None:
        self.pipeline = pipeline
        self.call = OutgoingCall(method, host, values)
        self.attempt: Call = self.call
        """The last try. Its deadline binds the reading of the body too."""
        self._permits: list[Permit] = []
        self._response_us = 0
        self._deadline = pipeline.inner.deadline or pipeline.outer.deadline
        self._settings = _NO_DEADLINE_LAYER if self._deadline is None else self._deadline.settings
        self._retry = retry = pipeline.retry
        self._may_repeat = (
            can_repeat_body
            and retry is not None
            and (method in retry.settings.methods or any(value.strip() for value in values("idempotency-key")))
        )

    def plan(self) -> Plan:
        """All of it up to the start of the response, for the drivers."""
        _settle_abandoned()
        self.pipeline.begin(self.call)
        return self.pipeline.plan(self.call, results=self)

    # --- how the library speaks -------------------------------------------------------------------------------------------------

    @abstractmethod
    def status_of(self, response: Any) -> int:
        """The status of a response."""

    @abstractmethod
    def values_of(self, response: Any, name: str) -> list[str]:
        """All values of a response's header."""

    @abstractmethod
    def is_connection_error(self, error: BaseException) -> bool:
        """Whether `error` says that the peer could not be reached, or did not answer whole or in time."""

    @abstractmethod
    def is_own_fault(self, error: BaseException) -> bool:
        """Whether `error` says nothing of the peer: nothing was sent, for a reason on this side."""

    # --- one try ----------------------------------------------------------------------------------------------------------------

    def begin_try(self) -> dict[str, str]:
        """A try begins. Returns the headers by which it tells its peer how long it may take, and how many were made before it.

        Raises:
            DeadlineExceeded: nothing is left of its time but what is kept back for the way home. It must not be sent.
        """
        self.attempt = attempt = CURRENT.get() or self.call
        headers: dict[str, str] = {}
        if attempt.attempt:
            headers[ATTEMPT_HEADER] = str(min(attempt.attempt, HIGHEST_ATTEMPT))
        if attempt.deadline_us is None:
            return headers
        remaining_us = attempt.deadline_us - self.pipeline.clock.now_us()
        left_ms = milliseconds_left(remaining_us, to_us(self._settings.reserve_s))
        if left_ms <= 0:
            raise self._nothing_left(remaining_us)
        name = self._settings.write
        asked = [timeout_s for timeout_s in map(PARSERS[name], self.call.headers(name)) if timeout_s is not None]
        if not asked or left_ms < min(asked) * 1000:  # who asks for less is not given more
            headers[name] = timeout_text(name, left_ms)
        return headers

    def left_s(self) -> float | None:
        """How long the try may still take, in seconds and never quite nothing; None: as long as it likes."""
        deadline_us = self.attempt.deadline_us
        return None if deadline_us is None else max(_SHORTEST_S, (deadline_us - self.pipeline.clock.now_us()) / US_PER_S)

    @property
    def is_over(self) -> bool:
        """Whether the time of the try has run out."""
        deadline_us = self.attempt.deadline_us
        return deadline_us is not None and self.pipeline.clock.now_us() >= deadline_us

    @property
    def timeout(self) -> Timeout | None:
        """Makes the error of a try whose time runs out, and counts it; None where no layer of the pipeline sets it a deadline."""
        return self.pipeline.inner.timeout or self.pipeline.outer.timeout

    def expired(self) -> BaseException:
        """Make the error for a try whose time ran out while it was at work."""
        if self.timeout is not None:
            return self.timeout(self.attempt)
        return DeadlineExceeded(f"the time for {self.call.name} ran out", policy="deadline", reason="expired")

    def _nothing_left(self, remaining_us: int) -> DeadlineExceeded:
        policy = "deadline"
        if self._deadline is not None:
            policy = self._deadline.name
            self._deadline.state.count_expired()
        left_ms, reserve_ms = max(0.0, remaining_us / 1000), self._settings.reserve_s * 1000
        message = f"{policy}: {left_ms:.3g} ms are left, too little beside the reserve of {reserve_ms:.3g} ms: not sent"
        return DeadlineExceeded(message, policy=policy, reason="expired_on_arrival")

    # --- what the plan asks -----------------------------------------------------------------------------------------------------

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """Whether a try is worth another: by its status or error, if the request may be repeated at all."""
        verdict = self._of_response(result) if error is None else self._of_error(error)
        return FAILURE if verdict.retryable and not self._may_repeat else verdict

    def _of_response(self, response: Any) -> Verdict:
        retry = self._retry
        if retry is None:
            return SUCCESS
        wall_s = self.pipeline.clock.wall_s()
        verdict = http_verdict(retry.on, self.status_of(response), self.values_of(response, "retry-after"), wall_s)
        return verdict if verdict.retryable else RETRYABLE if retry.judge(None, response).retryable else verdict

    def _of_error(self, error: BaseException) -> Verdict:
        retry = self._retry
        if retry is None or (isinstance(error, DeadlineExceeded) and error.reason == "expired_on_arrival"):
            return FAILURE
        if isinstance(error, Rejected) or retry.names_errors:
            return retry.judge(error, None)
        return RETRYABLE if self.is_connection_error(error) else FAILURE

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """What an error shows of the peer."""
        cause = error.__cause__ if isinstance(error, DeadlineExceeded) else None
        if self.is_own_fault(error) or (cause is not None and self.is_own_fault(cause)):
            return Outcome.IGNORED
        return judge_error(call, error)

    def keep(self, permit: Permit, result: Any) -> None:
        """The response has begun. A failure is known now, and streams vote at their start; all else ends with the body."""
        now_us = self.pipeline.clock.now_us()
        call = permit.call
        if not self._permits:
            self._response_us = now_us
        call.status = status = self.status_of(result)
        call.response_us = self._response_us
        call.trace = None  # its spans end with the tries, before the body
        self._permits.append(permit)
        is_stream = self._is_stream(status, result)
        outcome = judge_status(status)
        if is_stream or outcome is Outcome.FAILED:
            permit.vote(outcome, now_us)
        if is_stream and not self._settings.streams:
            call.deadline_us = None

    def _is_stream(self, status: int, response: Any) -> bool:
        return status == _SWITCHING or any(
            value.lower().startswith(_EVENT_STREAM) for value in self.values_of(response, "content-type")
        )

    @abstractmethod
    def discard(self, result: Any) -> Any:
        """Settle by `ended`, and give the connection back. Awaited in a task."""

    # --- the end of the response ------------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """The body was read to its end, or closed by whoever had enough of it: its status says how the call went."""
        for permit in self._taken():
            status = permit.call.status
            permit.settle(Outcome.IGNORED if status is None else judge_status(status))

    def broke_off(self, error: BaseException) -> None:
        """Reading the body ended with `error`."""
        for permit in self._taken():
            permit.call.status = None  # the response is not the one that it began to be
            settle_error(permit, error, self.outcome)

    def dropped(self) -> None:
        """Nobody refers to the response any more, and nobody has closed it. For destructors: settled by the next request."""
        if self._permits:
            _abandoned.append(self)

    def _taken(self) -> list[Permit]:
        permits, self._permits = self._permits, []
        return permits


def _settle_abandoned() -> None:
    while _abandoned:
        try:
            request = _abandoned.popleft()
        except IndexError:  # another thread took the last one just now
            return
        request.ended()


def host_key(host: str, port: int | None, scheme: str) -> str:
    """A host as breakers and functions tell it from others: lower-case, with the port where it is not the scheme's own."""
    name = f"[{host.lower()}]" if ":" in host else host.lower()
    return name if port is None or port == _PORTS.get(scheme.lower()) else f"{name}:{port}"


_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
