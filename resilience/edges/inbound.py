"""What an inbound request says of the call that it is part of: how long its caller waits, and which try it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar, TypeVarTuple, Unpack

from resilience.call import Call, enclosing_call
from resilience.edges.answers import AS_USUAL, Answer, Answers, error_answer
from resilience.edges.attempts import ATTEMPT_HEADER, attempt_of
from resilience.edges.codes import name_of_code
from resilience.edges.faults import fault_of, relayed_in
from resilience.edges.source import Guarded
from resilience.layers.deadline import READ_HEADERS, Deadline
from resilience.layers.timeouts import PARSERS

T = TypeVar("T")
Args = TypeVarTuple("Args")
INBOUND_HEADERS: Final = frozenset((*READ_HEADERS, ATTEMPT_HEADER))
"""All that `read_inbound` may read of a request (lower case), whatever the pipeline is."""


class InboundCall(Call):
    """A request that a server of ours answers. Its name is what it is, not what the client sent."""

    __slots__ = ()

    @property
    def answers(self) -> Answers:
        """How refusals are answered here."""
        return AS_USUAL

    def recorded(self, step: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        """Do one step in this thread under the call's own span, where it has one."""
        trace = self.trace
        if trace is None:
            return step(*args)
        trace.enter()
        try:
            return step(*args)
        finally:
            trace.exit()


def read_inbound(guarded: Guarded, call: Call, headers: Iterable[tuple[str, str]]) -> None:
    """Let `call` know what `headers` (lower-case names) say of it."""
    found = list(headers)
    if guarded.deadline is not None:
        call.timeout_s = inbound_timeout_s(guarded.deadline, found)
    call.attempt = max((attempt_of(value) for name, value in found if name == ATTEMPT_HEADER), default=0)


def inbound_timeout_s(deadline: Deadline, headers: Iterable[tuple[str, str]]) -> float | None:
    """The earliest timeout among headers that `deadline` reads (lower-case names). A malformed one is counted and ignored."""
    earliest_s: float | None = None
    for name, value in headers:
        if name not in deadline.settings.read:
            continue
        timeout_s = PARSERS[name](value)
        if timeout_s is None:
            deadline.state.count_malformed()
        elif earliest_s is None or timeout_s < earliest_s:
            earliest_s = timeout_s
    return earliest_s


def answer_in_handler(error: Exception) -> Answer:
    """The answer to a refusal, or to an error by which a service further in refused, was late or could not be had, for the error
    handler of a framework that answers every exception itself.

    The request in progress learns by what it ended: breakers around it go by that, not by the status of the answer.

    Raises:
        Exception: `error` itself, where it is another one: the application's own business.
    """
    refusal = relayed_in(error)
    if refusal is None:
        raise error
    ended_by(error)
    return _answers().to(refusal, own=False)


def relayed_answer(error: Exception, detail: str = "") -> Answer:
    """The answer that relays what a service further in has answered with: its kind, its hint and its trace id, not its text.

    Breakers around the request in progress go by the error where it would cross by itself, else by the status of the answer.

    Args:
        error: an error of a client library with a status: of gRPC, httpx or requests; or a refusal.
        detail: what the application says of it; by default neutral words.

    Raises:
        Exception: `error` itself, where no service has answered with it: a connection that broke off, say.
    """
    refusal = relayed_in(error)
    if refusal is not None:
        ended_by(error)
        return _answers().to(refusal, own=False, detail=detail)
    fault = fault_of(error)
    if fault is None:
        raise error
    code = name_of_code(fault.code)
    return error_answer(fault.status, code=code, detail=detail, retry_after_s=fault.retry_after_s, trace_id=fault.trace_id)


def _answers() -> Answers:
    """How the service answers refusals that is at work on the request in progress."""
    call = enclosing_call()
    return call.answers if isinstance(call, InboundCall) else AS_USUAL


def ended_by(error: Exception) -> None:
    """Let the request in progress know by what it ended."""
    call = enclosing_call()
    if isinstance(call, InboundCall):
        call.error = error
