"""What becomes of one try: the result that an error makes, and the whole of a try that blocks a thread."""

from __future__ import annotations

import logging
from typing import Any, Final

from resilience.batch.adapter import Adapter, has_deadline
from resilience.batch.flight import Flight, give_up
from resilience.batch.kinds import kind_of
from resilience.batch.plan import BatchPlan
from resilience.batch.result import CallCancelled, Err, Kind, Ok, Result
from resilience.batch.telemetry import CallSpan
from resilience.call import CURRENT
from resilience.errors import DeadlineExceeded

log = logging.getLogger("resilience")

FATAL: Final = (KeyboardInterrupt, SystemExit)
"""What ends the batch whose call it leaves, and is raised to whoever waits for it; as asyncio and `concurrent.futures` do."""


def failure(adapter: Adapter[Any, Any], error: BaseException) -> Err:
    """The result that `error` makes. Called by the frame that caught it, which the traceback of the error then leaves out.

    That frame holds the batch, which holds the result: the error would keep both alive until the garbage collector comes.
    """
    if error.__traceback__ is not None:
        error = error.with_traceback(error.__traceback__.tb_next)
    if not isinstance(error, Exception):  # a result holds what `except Exception` takes
        cancelled = CallCancelled(f"{adapter.name}: the call was cancelled ({type(error).__name__})")
        if isinstance(error, FATAL):
            cancelled.__cause__ = error
        return Err(cancelled, Kind.CANCELLED)
    try:
        return Err(error, adapter.kind_of(error))
    except Exception:
        log.exception("%s: cannot tell the kind of a %s", adapter.name, type(error).__name__)
        return Err(error, kind_of(error))


def span_of(plan: BatchPlan, flight: Flight) -> CallSpan | None:
    """The span of a try, the current one from now on; None where nobody records."""
    return None if plan.trace is None else plan.trace.call(flight.adapter.name, flight.index, second=flight.is_second)


def blocking_try(plan: BatchPlan, flight: Flight, prepared: Any) -> Result[Any]:
    """Make a try in this thread, in a context of its own."""
    CURRENT.set(flight)
    if flight.limit_us - plan.clock.now_us() < plan.half_us and not has_deadline(flight.adapter.pipeline):
        flight.deadline_counts = False  # it may have waited for this thread
    span = span_of(plan, flight)
    result: Result[Any]
    try:
        result = Ok(flight.adapter.send(prepared))
    except BaseException as error:
        result = failure(flight.adapter, error)
    flight.settled = True
    if span is not None:
        span.end(result)
    return result


def vote_of_abandoned(flight: Flight, now_us: int) -> None:
    """The breakers that a try passed hear now that it hangs. One that is only no longer needed says nothing of its back end."""
    stopped_by = flight.stopped_by
    if flight.is_outdone or stopped_by is None or not isinstance(stopped_by.error, DeadlineExceeded):
        return
    give_up(flight, stopped_by.error, now_us)
