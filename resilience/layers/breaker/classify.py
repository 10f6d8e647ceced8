"""What counts as a failure of the dependency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from resilience.call import Call, Outcome
from resilience.errors import DeadlineExceeded, Rejected

Classifier = Callable[[Call], Outcome | None]
"""Judges an ended call by its `error` and `status`. None leaves it to the rules of this module."""

CANCELLATIONS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
SERVER_ERROR = 500


def judge_error(call: Call, error: BaseException) -> Outcome:
    """The outcome of a call that ended with `error`.

    Cancellation says nothing of the dependency, nor does a refusal of ours. A deadline that ran out is a failure, unless the call
    came with less than half of the usual time.
    """
    if isinstance(error, DeadlineExceeded):
        began = error.reason != "expired_on_arrival"
        return Outcome.FAILED if began and call.deadline_counts else Outcome.IGNORED
    if isinstance(error, (Rejected, *CANCELLATIONS)):
        return Outcome.IGNORED
    return Outcome.FAILED


def judge_status(status: int) -> Outcome:
    """The outcome of an HTTP response: 5xx is a failure. A timely 4xx, 429 included, shows that the peer lives."""
    return Outcome.FAILED if status >= SERVER_ERROR else Outcome.OK
