"""What an inbound request says of the call that it is part of: how long its caller waits, and which try it is."""

from __future__ import annotations

from collections.abc import Iterable

from resilience.call import Call, enclosing_call
from resilience.edges.answers import AS_USUAL, Answer, Answers
from resilience.edges.attempts import ATTEMPT_HEADER, attempt_of
from resilience.edges.source import Guarded
from resilience.errors import Rejected
from resilience.layers.deadline import Deadline
from resilience.layers.timeouts import PARSERS


class InboundCall(Call):
    """A request that a server of ours answers. Its name is what it is, not what the client sent."""

    __slots__ = ()

    @property
    def answers(self) -> Answers:
        """How refusals are answered here."""
        return AS_USUAL


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


def answer_in_handler(error: Rejected) -> Answer:
    """The answer to a refusal, for the error handler of a framework that answers every exception itself.

    The request in progress learns by what it ended: breakers around it go by that, not by the status of the answer.
    """
    call = enclosing_call()
    if not isinstance(call, InboundCall):
        return AS_USUAL.to(error, own=False)
    call.error = error
    return call.answers.to(error, own=False)
