"""The words every layer shares: a call, its outcome, the decision on it, and the permit that is settled exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from resilience.clock import Clock
    from resilience.tracing import CallTrace


class Outcome(Enum):
    """How a call ended. `IGNORED` says nothing of the dependency: cancelled, client gone, refused by a later layer."""

    OK = "ok"
    FAILED = "failed"
    IGNORED = "ignored"


class Decision(Enum):
    """What a layer did with a call: the one vocabulary of spans, metrics and logs."""

    ADMITTED = "admitted"
    REJECTED = "rejected"
    QUEUED = "queued"
    PROBE = "probe"
    RETRIED = "retried"
    EXPIRED = "expired"
    WOULD_REJECT = "would_reject"


ADMITTED: Final = Decision.ADMITTED


class HasFactor(Protocol):
    """A health signal, as far as a call wants to know."""

    def factor_ppb_at(self, now_us: int) -> int:
        """The factor in parts per billion."""


class Passed(Protocol):
    """What a call knows of the pipeline that it passes through."""

    name: str
    clock: Clock

    @property
    def signals(self) -> Sequence[HasFactor]:
        """The health signals that its layers go by now."""


class Call:
    """One unit of protected work on its way through a pipeline; private to that work, never shared.

    Edges subclass it to say where a key comes from (`peer`, `header`, ...). Attributes that a layer or an edge writes:

    name: what is called, for spans and errors.
    key: an explicit key that goes before any key source of a layer, or None.
    cost: an explicit cost in tokens that goes before the limiter's own, or None.
    now_us: the call's one clock read, renewed only after a wait.
    timeout_s: the time its caller asked for, in seconds, or None.
    deadline_us: the instant it must be done by, on the monotonic clock, or None.
    deadline_counts: whether running out of time is evidence against the dependency.
    attempt: which try this is, 0 for the first; an edge adds the tries counted further out.
    response_us: when its response started, where an edge knows.
    error: the exception that ended it. status: the response status that ended it.
    decision: what a layer did with it, written where it is not plain admission.
    pipeline: what it passes through.
    """

    __slots__ = (
        "attempt",
        "cost",
        "deadline_counts",
        "deadline_us",
        "decision",
        "error",
        "held",
        "key",
        "name",
        "now_us",
        "parent",
        "pipeline",
        "response_us",
        "retrying",
        "settled",
        "status",
        "timeout_s",
        "trace",
    )
    decision: Decision

    def __init__(self, name: str = "", *, key: str | None = None, cost: int | None = None, now_us: int = 0) -> None:
        self.name = name
        self.key = key
        self.cost = cost
        self.now_us = now_us
        self.held: list[tuple[Settles, Any]] = []
        self.settled = False
        self.attempt = 0
        self.retrying = False
        self.deadline_counts = True
        self.parent: Call | None = None
        self.pipeline: Passed | None = None
        self.timeout_s: float | None = None
        self.deadline_us: int | None = None
        self.response_us: int | None = None
        self.error: BaseException | None = None
        self.status: int | None = None
        self.trace: CallTrace | None = None

    @property
    def carrier(self) -> Mapping[str, str] | None:
        """The headers that may bring a trace context, where the call came in over a wire."""
        return None

    def peer(self) -> str | None:
        """The address of the connected peer, or None where there is none."""
        return None

    def headers(self, name: str) -> list[str]:
        """All values of the header `name` (lower case), in order; empty where there is none."""
        return []

    def host(self) -> str | None:
        """The host that is called, where there is one."""
        return None

    def method(self) -> str | None:
        """The HTTP or gRPC method, where there is one."""
        return None


class FunctionCall(Call):
    """A call of a function; key functions find its arguments in `args` and `kwargs`."""

    __slots__ = ("args", "kwargs")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], now_us: int, pipeline: Passed | None) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.now_us = now_us
        self.pipeline = pipeline
        # What `Call` writes, written out: each call of a function is one of these.
        self.key = self.cost = self.timeout_s = self.deadline_us = self.response_us = None
        self.parent = self.error = self.status = self.trace = None
        self.held = []
        self.settled = self.retrying = False
        self.attempt = 0
        self.deadline_counts = True

    def whole(self, deadline_us: int | None) -> FunctionCall:
        """This has been the first try of a call that may have more: make the call around it, with the deadline that it has."""
        whole = type(self)(self.name, self.args, self.kwargs, self.now_us, self.pipeline)
        whole.parent = self.parent
        whole.attempt = self.attempt
        whole.deadline_us = deadline_us
        whole.deadline_counts = self.deadline_counts
        whole.retrying = True
        self.parent = whole
        return whole


class AttemptCall(Call):
    """One attempt of a call that may be tried again: its own permits and deadline, all else from the whole call."""

    __slots__ = ("_whole",)

    def __init__(self, whole: Call, attempt: int, now_us: int) -> None:
        # What `Call` writes and what is different here, each once: it is made for every try.
        self._whole = self.parent = whole
        self.name = whole.name
        self.key = whole.key
        self.cost = whole.cost
        self.now_us = now_us
        self.held = []
        self.settled = self.retrying = False
        self.attempt = attempt
        self.deadline_counts = whole.deadline_counts
        self.pipeline = whole.pipeline
        self.timeout_s = self.response_us = self.error = self.status = None
        self.deadline_us = whole.deadline_us
        self.trace = whole.trace

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of the function called."""
        return getattr(self._whole, "args", ())

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments of the function called."""
        return getattr(self._whole, "kwargs", {})

    def peer(self) -> str | None:
        return self._whole.peer()

    def headers(self, name: str) -> list[str]:
        return self._whole.headers(name)

    def host(self) -> str | None:
        return self._whole.host()

    def method(self) -> str | None:
        return self._whole.method()


class Settles(Protocol):
    """What a permit needs of a layer that handed out a token."""

    votes_at_start: bool

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        """Take back `token`."""


class SoleCall(Call):
    """A call that one party settles, exactly once. It needs no permit, since it is its own: see `Pipeline.enter`."""

    __slots__ = ()

    @property
    def call(self) -> Call:
        """As `Permit.call`."""
        return self

    def settle(self, outcome: Outcome, now_us: int | None = None) -> bool:
        """As `Permit.settle`."""
        self.settled = True
        held = self.held
        if held:
            if now_us is None and self.pipeline is not None:
                now_us = self.pipeline.clock.now_us()
            while held:
                try:
                    layer, token = held.pop()
                except IndexError:  # its deadline, in another thread, took the last one just now
                    break
                layer.settle(token, outcome, self, now_us or 0)
        return True

    def vote(self, outcome: Outcome, now_us: int) -> None:
        """As `Permit.vote`."""
        _vote(self, outcome, now_us)


CURRENT: Final[ContextVar[Call | None]] = ContextVar("resilience_call", default=None)
"""The innermost protected call of this task or thread. It may be settled already; readers skip settled ones."""


def enclosing_call() -> Call | None:
    """The innermost call that is still in progress here, or None."""
    call = CURRENT.get()
    while call is not None and call.settled:
        call = call.parent
    return call


class Permit:
    """The admission of one call by a whole pipeline. It is settled exactly once, whoever comes first."""

    __slots__ = ("_clock", "_unsettled", "call")

    def __init__(self, call: Call, clock: Clock) -> None:
        self.call = call
        self._clock = clock
        self._unsettled = True

    @property
    def settled(self) -> bool:
        """Whether the call is over."""
        return self.call.settled

    def settle(self, outcome: Outcome, now_us: int | None = None) -> bool:
        """Give every layer its token back, innermost first. Returns False when the call was settled before."""
        try:
            del self._unsettled  # one winner, across threads too: deleting a slot is a single step
        except AttributeError:
            return False
        call = self.call
        call.settled = True
        held = call.held
        if held:
            if now_us is None:
                now_us = self._clock.now_us()
            while held:
                try:
                    layer, token = held.pop()
                except IndexError:  # a vote in another thread took the last one just now
                    break
                layer.settle(token, outcome, call, now_us)
        return True

    def vote(self, outcome: Outcome, now_us: int) -> None:
        """Settle, at the start of a stream, those layers that judge by the start; the rest settles at its end."""
        _vote(self.call, outcome, now_us)


def _vote(call: Call, outcome: Outcome, now_us: int) -> None:
    held = call.held
    for entry in [entry for entry in held if entry[0].votes_at_start]:
        try:
            held.remove(entry)
        except ValueError:  # settled by another thread just now
            continue
        entry[0].settle(entry[1], outcome, call, now_us)
