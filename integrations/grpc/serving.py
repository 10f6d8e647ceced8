"""One RPC on its way through a pipeline and its handler, as far as threads and asyncio treat it alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import grpc

from resilience import DeadlineExceeded, Rejected
from resilience.edges import (
    ATTEMPT_HEADER,
    INBOUND_HEADERS,
    Guarded,
    Outcome,
    Permit,
    SoleCall,
    fault_of,
    judge_code,
    judge_error,
    judge_relayed,
    read_inbound,
    refusal_in,
    relayed_in,
)
from resilience.integrations.grpc.answers import UNTOLD, RpcAnswer, merged, refusal_answer
from resilience.integrations.grpc.call import RpcCall
from resilience.integrations.grpc.metadata import as_text

log = logging.getLogger("resilience")
_READ: Final = {**{name: name for name in INBOUND_HEADERS}, "grpc-previous-rpc-attempts": ATTEMPT_HEADER}
"""The keys to look for, with the names by which they are read."""
_UNBOUND_S: Final = 1e9  # a server of threads says 9.2e18 s where the client set no deadline
_EARLY_S: Final = 0.005
"""gRPC ends an RPC at its client's deadline by a timer of its own, which may differ by so much from what it says is left."""
_US_PER_S: Final = 1_000_000
_NOTHING: Final = (None,) * 5  # to unpack this takes two thirds of the steps of one assignment after the other
_OK: Final = 0
_ENDED_WELL: Final = Outcome.OK
_UNKNOWN: Final = 2
_DEADLINE_EXCEEDED: Final = 4
_UNAVAILABLE: Final = 14
_HAS_NO_CODE: Final = (AttributeError, NotImplementedError, RuntimeError)
"""How a context says that it knows no code, which another interceptor has made."""


class Exchange(RpcCall, SoleCall):
    """Reads what came in, admits, judges how it ended, and settles exactly once. Streams, which may end anywhere, have permits."""

    __slots__ = ("_client_deadline_us", "_expiry", "_guarded", "has_begun")
    name = "the RPC"
    retrying = False  # what a server is asked is not tried again
    has_begun: bool  # whether a message was handed over; streams of responses say so

    def __init__(self, guarded: Guarded, method: str, context: Any) -> None:
        # What `Call` writes, written out: it is made for every RPC.
        self.held = []
        self.now_us = self.attempt = 0
        self.deadline_counts = True
        self.settled = False
        self.key, self.cost, self.timeout_s, self.deadline_us, self.response_us = _NOTHING
        self.parent, self.pipeline, self.error, self.status, self.trace = _NOTHING
        self.full_method = method
        self.context = context
        self.metadata = context.invocation_metadata() or ()
        self._guarded = guarded
        self._expiry: DeadlineExceeded | None = None
        self._client_deadline_us: int | None = None  # which gRPC enforces by itself

    def begun_by(self, begin: Callable[[Exchange], bool]) -> bool:
        """Read what came in and begin the call: by `enter` of its pipeline, or by `begin`. Returns what that returns."""
        guarded = self._guarded
        for key, _ in self.metadata:
            if key in _READ:
                read_inbound(guarded, self, [(_READ[key], as_text(value)) for key, value in self.metadata if key in _READ])
                break
        if not guarded.reads_grpc_timeout:
            return begin(self)
        left_s = self.context.time_remaining()
        if left_s is None or left_s >= _UNBOUND_S:
            return begin(self)
        if self.timeout_s is None or left_s < self.timeout_s:
            self.timeout_s = left_s
        is_plain = begin(self)
        self._client_deadline_us = self.now_us + int(left_s * _US_PER_S)
        return is_plain

    # --- the start of a response stream -----------------------------------------------------------------------------------------

    def begins(self, permit: Permit) -> None:
        """The first message of a response stream is there: it votes now, and its deadline ends unless it was asked to hold.

        The deadline that the client set holds all the same, since gRPC sees to it.
        """
        self.has_begun = True
        now_us = self._guarded.pipeline.clock.now_us()
        if self.deadline_us is not None or self._guarded.times_start:
            self.response_us = now_us
        code = code_number(self.context)
        permit.vote(Outcome.OK if code is None else judge_code(code), now_us)
        if not self._guarded.streams_have_deadline:
            self.deadline_us = None

    # --- how it ended -----------------------------------------------------------------------------------------------------------

    def settle_returned(self, permit: Permit | SoleCall) -> None:
        """The handler is done, and said by its code how it went. What comes too late passes, but its caller has gone."""
        now_us = self._guarded.pipeline.clock.now_us()
        deadline_us = self.deadline_us
        if deadline_us is not None and now_us >= deadline_us:
            permit.settle(self.judge_expiry(), now_us)
            self.error = self._expiry = None
            return
        try:
            code = self.context.code()
        except _HAS_NO_CODE:
            code = None
        if code is None:
            self.status = _OK
            permit.settle(_ENDED_WELL, now_us)
        else:
            self.status = number = _number_of(code)
            permit.settle(judge_code(number), now_us)
        self.error = None

    def settle_raised(self, permit: Permit | SoleCall, error: BaseException) -> None:
        """The handler raised: `abort` does so too, and a code that was set goes out with whatever is raised."""
        if self._expiry is not None or self.is_out_of_time():
            outcome = self.judge_expiry()
        else:
            outcome = self._judge_raised(error)
        permit.settle(outcome)
        self.error = self._expiry = None  # their tracebacks refer back to the call

    def _judge_raised(self, error: BaseException) -> Outcome:
        """The outcome by the status that goes out: one that was set, one that is relayed, or else UNKNOWN."""
        code, relayed = code_number(self.context), self.error
        if code is None:
            self.error, refusal = error, relayed_in(error)
            outcome = judge_relayed(self, error)
            code = _UNKNOWN if refusal is None else _UNAVAILABLE  # any other refusal is ignored, but for a deadline
        else:
            self.error, refusal = error if relayed is None else relayed, refusal_in(error)  # what the handler has aborted with
            outcome = judge_error(self, error) if relayed is None else judge_relayed(self, relayed)
        if isinstance(refusal, DeadlineExceeded):
            self.status = _DEADLINE_EXCEEDED
        elif outcome is not Outcome.IGNORED:
            self.status = code
            outcome = judge_code(code)
        return outcome

    def settle_gone(self, permit: Permit | SoleCall) -> None:
        """The RPC was ended from outside: its client has gone, its time is over, or the server stops."""
        is_late = self._expiry is not None or self.is_out_of_time(_EARLY_S)
        permit.settle(self.judge_expiry() if is_late else Outcome.IGNORED)
        self.error = self._expiry = None

    def judge_expiry(self) -> Outcome:
        """Its time is over: that is how it ended, whoever was first to say so."""
        self.status = _DEADLINE_EXCEEDED
        self.error = self.time_out()
        return Outcome.FAILED if self.deadline_counts else Outcome.IGNORED

    def time_out(self, _: object = None) -> DeadlineExceeded:
        """The error of a time that ran out. It is counted once, by the layer that sets deadlines."""
        if self._expiry is None:
            timeout = self._guarded.pipeline.outer.timeout
            made: Any = None if timeout is None else timeout(self)
            self._expiry = made or DeadlineExceeded(f"the time for {self.name} ran out", policy="deadline", reason="expired")
        return self._expiry

    def is_out_of_time(self, early_s: float = 0.0) -> bool:
        """Whether the deadline has passed that binds it, or the one that the client set, which is at most `early_s` away."""
        deadline_us = self.deadline_us
        if deadline_us is not None and self._guarded.pipeline.clock.now_us() >= deadline_us:
            return True
        left_s = self.context.time_remaining()
        return left_s is not None and left_s <= early_s

    # --- refusals ---------------------------------------------------------------------------------------------------------------

    def answer_to(self, error: BaseException) -> RpcAnswer | None:
        """The answer to a refusal that leaves the handler; None for any other error, which is grpcio's to tell of.

        So is what a service further in has refused, unless the handler has set a code of its own. Whatever else such a service has
        answered with is no business of the client's: grpcio would tell all of its text, with hosts.
        """
        if code_number(self.context) is not None:
            refusal = refusal_in(error)
        else:
            refusal = relayed_in(error)
            if refusal is None and fault_of(error) is not None:
                log.error("%s: the handler raised an error of a call that it made", self.full_method, exc_info=error)
                return UNTOLD
        return None if refusal is None else refusal_answer(refusal, own=False)

    def refused(self, refusal: Rejected) -> RpcAnswer:
        """The answer to a refusal by a guard of this RPC."""
        self.end_span()
        return refusal_answer(refusal, own=True)

    def trailing(self, answer: RpcAnswer) -> tuple[Any, ...]:
        """The trailing metadata of an answer with what the handler has set."""
        return merged(self.context.trailing_metadata(), answer.trailing)

    def end_span(self) -> None:
        """End the call's own span, where it has one."""
        trace, self.trace = self.trace, None
        if trace is not None:
            trace.finish()


def code_number(context: Any) -> int | None:
    """The number of the code that was set or aborted with; None where none was: OK, or UNKNOWN where the handler raised."""
    try:
        code = context.code()
    except _HAS_NO_CODE:
        return None
    return None if code is None else _number_of(code)


def _number_of(code: Any) -> int:
    return code.value[0] if isinstance(code, grpc.StatusCode) else _UNKNOWN  # what is no code goes out as UNKNOWN
