"""What counts as a failure of the dependency."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

from resilience.call import Call, Outcome
from resilience.errors import DeadlineExceeded, Rejected
from resilience.layers.breaker.settings import DEFAULT_FAILED_CODES, CircuitBreakerSettings
from resilience.layers.statuses import GRPC_CODES, HIGHEST_STATUS, status_range

log = logging.getLogger("resilience")

Classifier = Callable[[Call], Outcome | None]
"""Judges an ended call by its `error` and `status`. None leaves it to the rules of this module."""
Errors = type[BaseException] | tuple[type[BaseException], ...]

_CANCELLATIONS: Final = (concurrent.futures.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""And that of `asyncio`, which is loaded by whoever raises it."""
SERVER_ERROR = 500
_CANCELLED: Final = GRPC_CODES["CANCELLED"]
_FAILED_CODES: Final = frozenset(GRPC_CODES[name] for name in DEFAULT_FAILED_CODES)
_DEFAULT_FAILED: Final = _FAILED_CODES | frozenset(range(SERVER_ERROR, HIGHEST_STATUS + 1))


def judge_error(call: Call, error: BaseException) -> Outcome:
    """The outcome of a call that ended with `error`.

    Cancellation says nothing of the dependency, nor does a refusal of ours. A deadline that ran out is a failure, unless the call
    came with less than half of the usual time. A group is a failure if one of its members is.
    """
    if isinstance(error, BaseExceptionGroup):
        members = {judge_error(call, member) for member in error.exceptions}
        return Outcome.FAILED if Outcome.FAILED in members else Outcome.IGNORED
    if isinstance(error, DeadlineExceeded):
        began = error.reason != "expired_on_arrival"
        return Outcome.FAILED if began and call.deadline_counts else Outcome.IGNORED
    if isinstance(error, (Rejected, *_CANCELLATIONS)) or (not isinstance(error, Exception) and _is_of_asyncio(error)):
        return Outcome.IGNORED
    return Outcome.FAILED


def _is_of_asyncio(error: BaseException) -> bool:
    import asyncio

    return isinstance(error, asyncio.CancelledError)


def judge_status(status: int) -> Outcome:
    """The outcome of an HTTP response: 5xx is a failure. A timely 4xx, 429 included, shows that the peer lives."""
    return Outcome.FAILED if status >= SERVER_ERROR else Outcome.OK


def judge_code(code: int) -> Outcome:
    """The outcome of a gRPC call by the number of its status code.

    UNAVAILABLE, INTERNAL, DATA_LOSS, UNKNOWN, DEADLINE_EXCEEDED and ABORTED are failures. CANCELLED says nothing of the peer. Any
    other shows that it lives, RESOURCE_EXHAUSTED of its limiter included.
    """
    if code == _CANCELLED:
        return Outcome.IGNORED
    return Outcome.FAILED if code in _FAILED_CODES else Outcome.OK


class Classification:
    """The rules of one policy where they differ from the default ones.

    They go by `call.status`, which edges write: an HTTP status, or the number of a gRPC code, which no HTTP status has. What says
    nothing of the dependency by the default rules says nothing by these; `classify` alone may differ there.
    """

    __slots__ = ("_classify", "_failed", "_ignore", "_policy")

    def __init__(self, policy: str, settings: CircuitBreakerSettings, ignore: Errors, classify: Classifier | None) -> None:
        self._policy = policy
        self._failed = frozenset(_failed(settings))
        self._ignore = ignore
        self._classify = classify

    @property
    def are_default(self) -> bool:
        """Whether statuses and codes count as `judge_status` and `judge_code` say."""
        return self._failed == _DEFAULT_FAILED

    def judge(self, call: Call, outcome: Outcome) -> Outcome:
        """The outcome of an ended call of which the default rules say `outcome`."""
        if outcome is Outcome.IGNORED and call.error is None:  # refused by a later layer, or the client is gone
            return outcome
        ruled = self._by_rules(call, outcome)
        if self._classify is None:
            return ruled
        try:
            return self._classify(call) or ruled
        except Exception:
            log.exception("%s: its classifier raised; the default rules hold", self._policy)
            return ruled

    def _by_rules(self, call: Call, outcome: Outcome) -> Outcome:
        if outcome is Outcome.IGNORED or isinstance(call.error, self._ignore):
            return Outcome.IGNORED
        if call.status is None:
            return outcome
        status = min(call.status, HIGHEST_STATUS)  # what is no status at all is taken for a 5xx (RFC 9110, 15)
        return Outcome.FAILED if status in self._failed else Outcome.OK


def classification(
    policy: str, settings: CircuitBreakerSettings, ignore: Errors = (), classify: Classifier | None = None
) -> Classification | None:
    """The rules that `settings`, `ignore` and `classify` make; None where they are the default ones, which edges go by already.

    Raises:
        TypeError: `ignore` holds something that is no exception class.
    """
    classes: tuple[Any, ...] = ignore if isinstance(ignore, tuple) else (ignore,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"ignore: must be exception classes, got {cls!r}")
    rules = Classification(policy, settings, classes, classify)
    return None if not classes and classify is None and rules.are_default else rules


def _failed(settings: CircuitBreakerSettings) -> Iterator[int]:
    for text in settings.failed_statuses:
        yield from status_range(text) or ()
    for name in settings.failed_codes:
        yield GRPC_CODES[name]
