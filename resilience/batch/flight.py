"""One try of one request: what a batch knows of it, and what its pipeline and its code find around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final

from resilience.batch.result import Err
from resilience.call import CURRENT, Call, SoleCall
from resilience.errors import DeadlineExceeded
from resilience.layers.breaker.classify import judge_error
from resilience.timers import is_cancellation

NEVER: Final = 1 << 62
"""An instant that does not come."""
_NO_KWARGS: Final[Mapping[str, Any]] = {}


class Phase(Enum):
    """How far a try has come."""

    FLYING = "flying"
    STOPPED = "stopped"  # told to end
    OVERDUE = "overdue"  # it should have ended
    ABANDONED = "abandoned"  # it does not end, and its place is given away
    STUCK = "stuck"  # it does not end, and keeps its place


FLYING: Final = Phase.FLYING


class Flight(SoleCall):
    """A try is the call that encloses whatever it does; where its pipeline is passed the fast way, it is the call of that, too.

    A hedge counts as a second attempt: retries within are off, and services further in are told.

    index: the place of its request in the input. due_us: when something is to be done about it. limit_us: its time limit.
    carrier: the task or the job that does it. is_own: it is the call of its pipeline, and settles itself. stopped_by: what becomes
    of it once it was told to end. twin: the other try of the same request; failure: what this one failed with while that one may
    still succeed; is_outdone: the other had a value first.
    endpoint: the one of a balanced back end that it went to. innermost: the call under which the back end is at work.
    """

    __slots__ = (
        "adapter",
        "carrier",
        "due_us",
        "endpoint",
        "failure",
        "index",
        "innermost",
        "is_outdone",
        "is_own",
        "is_second",
        "limit_us",
        "phase",
        "request",
        "stopped_by",
        "twin",
    )

    def __init__(  # the slots of a call are written here: its constructors would cost as much as the rest of a try's beginning
        self, index: int, adapter: Any, request: Any, now_us: int, limit_us: int, around: Call | None
    ) -> None:
        self.name = adapter.name
        self.key = self.cost = None
        self.now_us = now_us
        self.held = []
        self.settled = self.retrying = False
        self.deadline_counts = True
        self.timeout_s = None
        self.deadline_us = limit_us if limit_us < NEVER else None
        self.response_us = self.error = self.status = self.trace = None
        self.parent = around
        if around is None:
            self.attempt = 0
            self.pipeline = None
        else:
            self.attempt = around.attempt
            self.pipeline = around.pipeline  # so that `current_call` still tells of the request that is being served
        self.index = index
        self.adapter = adapter
        self.request = request
        self.limit_us = self.due_us = limit_us
        self.phase = FLYING
        self.is_outdone = self.is_second = self.is_own = False
        self.twin: Flight | None = None
        self.failure: Err | None = None
        self.stopped_by: Err | None = None
        self.carrier: Any = None
        self.endpoint: Any = None
        self.innermost: Call | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """For key functions: the arguments of the function that is called."""
        return (self.request,)

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """For key functions: it has no keyword arguments."""
        return _NO_KWARGS

    def failed(self, error: BaseException) -> None:
        """Settle the layers that it has passed itself, unless they are settled already, with what ended it."""
        if self.error is None:
            self.error = error
        self.settle(judge_error(self, self.error))
        self.error = None  # every layer has seen it, and its traceback refers back here

    def second(self, now_us: int) -> Flight:
        """Another try of the same request."""
        other = Flight(self.index, self.adapter, self.request, now_us, self.limit_us, self.parent)
        other.attempt += 1
        other.is_second = True
        other.twin, self.twin = self, other
        return other


def flight_here() -> Flight | None:
    """The try of a batch that this code runs in, or None."""
    call = CURRENT.get()
    while call is not None and type(call) is not Flight:
        call = call.parent
    return call


def note_innermost() -> None:
    """The back end is about to work under the call that is the current one now."""
    found = flight_here()
    if found is not None:
        found.innermost = CURRENT.get()
        weigh(found)


def weigh(flight: Flight) -> None:
    """Where a try has too little time to be evidence, no call within it is, up to the one that is the current one now."""
    call = None if flight.deadline_counts else CURRENT.get()
    while call is not None and call is not flight:
        call.deadline_counts = False
        call = call.parent


@contextmanager
def limit_as_deadline() -> Iterator[None]:
    """Let what is awaited within end by the batch's time limit as by a deadline, so that the breakers around it hear of it.

    For adapters whose pipeline knows of no deadline of its own, as close to the back end as may be. Any other cancellation is one.
    Time that was too short to be evidence is none.
    """
    flight = flight_here()
    if flight is not None:
        weigh(flight)
    try:
        yield
    except BaseException as error:
        stopped_by = None if flight is None or not is_cancellation(error) else flight.stopped_by
        if stopped_by is None or not isinstance(stopped_by.error, DeadlineExceeded):
            raise
        raise stopped_by.error from error


def give_up(flight: Flight, error: DeadlineExceeded, now_us: int) -> None:
    """Settle every layer that still waits for a try that hangs and may never end: its breakers hear of it now.

    What ends after all finds nothing left to settle.
    """
    call: Call | None = flight.innermost
    while call is not None:
        outcome = judge_error(call, error)
        while call.held:
            try:
                layer, token = call.held.pop()
            except IndexError:  # it has ended in its thread just now
                break
            call.error = error
            layer.settle(token, outcome, call, now_us)
            call.error = None
        if call is flight:
            return
        call = call.parent
