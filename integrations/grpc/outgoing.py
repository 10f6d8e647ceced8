"""One gRPC call that leaves the process: how gRPC speaks of it, for threads and for asyncio alike."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Final, NoReturn

from resilience import DeadlineExceeded, Pipeline, Rejected
from resilience.edges import (
    ATTEMPT_HEADER,
    CURRENT,
    FAILURE,
    HIGHEST_ATTEMPT,
    SUCCESS,
    US_PER_S,
    Call,
    ClientExchange,
    Effect,
    Outcome,
    Permit,
    Plan,
    SteppedPlan,
    Verdict,
    grpc_timeout_s,
    grpc_verdict,
    judge_code,
)
from resilience.integrations.grpc.errors import NEVER_SENT, UNSENDABLE, CancelledRpc, as_rpc_error, code_of
from resilience.integrations.grpc.metadata import pairs, values_of

MOST_TRIES: Final = 5
"""What gRPC's own retries are clamped to as well (gRFC A6, "Maximum number of retries")."""
OK: Final = 0
"""The number of the status code of a success."""
_DEADLINE_EXCEEDED: Final = 4
_UNAVAILABLE: Final = 14
_UNBOUND_S: Final = 1e9  # a server of threads says 9.2e18 s where the client set no deadline; gRPC would take that for none left
_EARLY_US: Final = 5_000
"""gRPC's timers and this clock may differ by so much."""
_PUSHBACK: Final = "grpc-retry-pushback-ms"


class OutgoingRpc(Call):
    """An outgoing call. Its name is what it is; its host is the target of the channel, its method the full name."""

    __slots__ = ("_metadata", "_method", "_target")

    def __init__(self, method: str, target: str, metadata: Any) -> None:
        Call.__init__(self, "the outgoing call")  # not by super(): it is made for every call
        self._method = method
        self._target = target
        self._metadata = metadata

    def headers(self, name: str) -> list[str]:
        return values_of(self._metadata, name)

    def host(self) -> str | None:
        return self._target or None

    def method(self) -> str:
        return self._method


class RequestStream:
    """The requests of a call: those of a list or tuple can be sent again, those of an iterator until one is asked for."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests
        self._is_whole = isinstance(requests, Sequence)
        self._lock = threading.Lock()
        self._is_taken = False
        self._try = 0

    def take_back(self) -> bool:
        """Whether all of them can be sent again. Then a try that was made before gets no more of them."""
        with self._lock:
            if self._is_taken and not self._is_whole:
                return False
            self._try += 1
            return True

    def _may_take(self, number: int) -> bool:
        with self._lock:
            if number != self._try:
                return False
            self._is_taken = True
            return True

    def _messages(self, number: int) -> Iterator[Any]:
        if self._may_take(number):
            for request in self._requests:
                yield request
                if not self._may_take(number):
                    return

    async def _amessages(self, number: int) -> AsyncIterator[Any]:
        if self._may_take(number):
            async for request in self._requests:
                yield request
                if not self._may_take(number):
                    return

    def as_sent(self) -> Any:
        """What one try sends."""
        return self._amessages(self._try) if hasattr(self._requests, "__aiter__") else self._messages(self._try)


class RpcExchange(ClientExchange):
    """One call through one pipeline. A room's call begins it, and drives its `steps` where a first try in plain code will not do.

    Args:
        pipeline: what it goes through.
        details: the caller's: method, timeout, metadata.
        target: the channel's, or "".
        requests: its requests, where it sends a stream of them.
        streams_back: whether its response is a stream. That has no deadline of the pipeline's own, unless `streams: true` asks for
            it.
    """

    steps: SteppedPlan
    # Most calls change little of this.
    _around_us: int | None = None
    _own_us: int | None = None
    _tries = 0
    _is_ours = False  # whether the try is bound by a deadline that is not the caller's own, and
    _ends_us: int | None = None  # when that ends it
    is_cancelled = False

    def __init__(
        self, pipeline: Pipeline, details: Any, target: str, requests: RequestStream | None, *, streams_back: bool
    ) -> None:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        self._metadata = metadata = pairs(details.metadata)  # once: it may be an iterator
        ClientExchange.__init__(self, pipeline, OutgoingRpc(method, target, metadata))  # not by super(): it is made for every call
        timeout_s = details.timeout
        self._own_s: float | None = None if timeout_s is None or timeout_s >= _UNBOUND_S else timeout_s
        self.requests = requests
        self._streams_back = streams_back
        self._is_void = streams_back and not self._settings.streams

    def begin(self) -> bool:
        """The caller's own timeout counts from here on too."""
        is_plain = ClientExchange.begin(self)
        call = self.call
        if call.deadline_us is not None:
            self._around_us = call.deadline_us
        if self._own_s is not None:
            self._own_us = call.now_us + max(0, int(self._own_s * US_PER_S))
            if call.deadline_us is None or self._own_us < call.deadline_us:
                call.deadline_us = self._own_us
        return is_plain

    def go_by_steps(self, plan: Plan | None = None) -> Effect | None:
        """Take the first step of a call that has begun, or of `plan`, which is what is left of it. `steps` takes the others."""
        self.steps = SteppedPlan(self.whole().run() if plan is None else plan, self.pipeline.clock)
        return self.steps.first()

    # --- one try ----------------------------------------------------------------------------------------------------------------

    def begin_try(self) -> tuple[float | None, list[tuple[str, Any]]]:
        """A try begins. Returns the timeout and the metadata that it is sent with, which belong to nobody else.

        Raises:
            DeadlineExceeded: nothing is left of its time but what is kept back for the way home. It must not be sent.
            CancelledRpc: the caller does not want it any more.
        """
        if self.is_cancelled:
            raise CancelledRpc("cancelled between two tries")
        self._tries += 1
        if self._is_void:
            self._unbind()
        left_ms = self.begin_time()
        timeout_s = None if left_ms is None else self._timeout_s(left_ms)
        attempt = self.attempt.attempt
        if not self._metadata and not attempt:
            return timeout_s, []
        metadata = [pair for pair in self._metadata if pair[0] != ATTEMPT_HEADER]
        if attempt:
            metadata.append((ATTEMPT_HEADER, str(min(attempt, HIGHEST_ATTEMPT))))
        return timeout_s, metadata

    def _timeout_s(self, left_ms: int) -> float:
        timeout_s, own_s = grpc_timeout_s(left_ms), self._own_s
        if own_s is not None and own_s <= timeout_s:
            timeout_s = own_s
            self._is_ours = False
        else:
            self._is_ours = self.attempt.deadline_us != self._own_us
        self._ends_us = self.sent_us + int(timeout_s * US_PER_S)
        return timeout_s

    def _unbind(self) -> None:
        """The time of a stream ends with the caller's or the enclosing deadline, and not with the pipeline's own."""
        whole_us = min((instant for instant in (self._around_us, self._own_us) if instant is not None), default=None)
        self.call.deadline_us = (CURRENT.get() or self.call).deadline_us = whole_us

    @property
    def is_over(self) -> bool:
        """Whether the time of the try has run out. What was sent may be less than what is left, and is what gRPC goes by."""
        return self._ends_us is not None and self.pipeline.clock.now_us() + _EARLY_US >= self._ends_us

    def reserve_of(self, call: Call) -> int:
        """Nothing is kept back of what the caller itself asked for."""
        return 0 if self._deadline is None or call.deadline_us == self._own_us else self._deadline.reserve_us

    def as_known(self, error: BaseException) -> BaseException:
        """What ended a try: where it was a deadline of the pipeline, that says so."""
        if self._is_ours and code_of(error) == _DEADLINE_EXCEEDED and self.is_over:
            expired = self.expired()
            expired.__cause__ = error
            return expired
        return error

    # --- how gRPC speaks --------------------------------------------------------------------------------------------------------

    @property
    def may_repeat(self) -> bool:
        """Until somebody cancels, as often as gRPC itself would, with requests that are all still there."""
        return not self.is_cancelled and self._tries < MOST_TRIES and (self.requests is None or self.requests.take_back())

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """A try that has used the time of the call is the last: what is left is the reserve, and what gRPC's rounding took."""
        if isinstance(error, DeadlineExceeded) and self.attempt.deadline_us == self.call.deadline_us:
            return FAILURE
        return super().judge(error, result)

    def judge_response(self, response: Any) -> Verdict:
        """A response has come: the call is committed (gRFC A6)."""
        return SUCCESS

    def judges_slowly(self, error: BaseException) -> bool:
        """Whether `error` may be worth another try. gRPC's own threads, which bring everything, must not wait for that; nor for
        initial metadata, which to judge it takes, and for which gRPC waits."""
        retry = self._retry
        if retry is None:
            return False
        return self._is_ours or retry.names_errors or code_of(error) in retry.on.codes | retry.on.advised_codes

    def judge_foreign(self, error: BaseException) -> Verdict:
        """By the status code and the server's pushback, until response headers have come (gRFC A6)."""
        code, retry = code_of(error), self._retry
        if code is None or retry is None or self.is_own_fault(error):
            return FAILURE
        verdict = grpc_verdict(retry.on, code, values_of(_said(error, "trailing_metadata"), _PUSHBACK))
        return FAILURE if verdict.retryable and _said(error, "initial_metadata") else verdict

    def is_connection_error(self, error: BaseException) -> bool:
        return code_of(error) == _UNAVAILABLE

    def is_own_fault(self, error: BaseException) -> bool:
        if code_of(error) is None:
            return isinstance(error, UNSENDABLE)
        return str(getattr(error, "details", str)()) in NEVER_SENT

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """By the status code; a deadline of the caller's own goes by the rule of deadlines."""
        code = code_of(error)
        if code is None or self.is_own_fault(error):
            return super().outcome(call, error)
        call.status = code
        if code == _DEADLINE_EXCEEDED and self.is_over:
            return Outcome.FAILED if call.deadline_counts else Outcome.IGNORED
        return judge_code(code)

    def judge_ended(self, status: int) -> Outcome:
        return judge_code(status)

    # --- the response -----------------------------------------------------------------------------------------------------------

    def keep(self, permit: Permit, result: Any) -> None:
        """A response has begun. Streams vote at their start."""
        now_us = self._keep(permit, OK)
        if self._streams_back:
            permit.vote(Outcome.OK, now_us)

    def discard(self, result: Any) -> None:
        """A response is never given up for another try."""

    def ended_with(self, code: int) -> None:
        """The response has ended with this status."""
        for permit in self._taken():
            permit.call.status = code
            permit.settle(judge_code(code))

    def ended(self) -> None:
        """The response has ended, or nobody will look at it any more."""
        self.steps.close()
        super().ended()

    @property
    def is_unsettled(self) -> bool:
        """Whether a permit is still held, here or by the plan."""
        return self.steps.is_pending or super().is_unsettled


def _said(error: BaseException, what: str) -> Iterable[tuple[str, Any]]:
    said = getattr(error, what, None)
    return pairs(said()) if callable(said) else ()


def raised(error: BaseException) -> BaseException:
    """An error as callers of a stub see it."""
    return as_rpc_error(error) if isinstance(error, Rejected) else error


def raise_as_seen(error: BaseException) -> NoReturn:
    """Raise an error that is being handled as callers of a stub see it."""
    instead = raised(error)
    if instead is error:
        raise error
    raise instead from instead.__cause__
