"""Whether a try that did not succeed is worth another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from resilience.errors import DeadlineExceeded, Rejected
from resilience.layers.retry.advice import read_pushback, retry_after_s
from resilience.layers.retry.on import LOWEST_RETRIED, RetryOn
from resilience.layers.statuses import GRPC_OK


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one try's end means.

    Attributes:
        retryable: it is worth another try.
        advice_s: how long the server asks to wait before that, in seconds.
        forbidden: the server asks not to retry.
        failed: for a try that returned: it is a failure all the same, and earns nothing back for the retry budget.
    """

    retryable: bool
    advice_s: float | None = None
    forbidden: bool = False
    failed: bool = False


SUCCESS: Final = Verdict(retryable=False)
RETRYABLE: Final = Verdict(retryable=True)
FAILURE: Final = Verdict(retryable=False, failed=True)
FORBIDDEN: Final = Verdict(retryable=False, forbidden=True, failed=True)

Judge = Callable[[BaseException | None, Any], Verdict]
"""Judges a try by its error (None when it returned) and its result."""

Predicate = Callable[[BaseException], bool]
Retryable = type[BaseException] | tuple[type[BaseException], ...] | Predicate

DEFAULT_ON: Final[tuple[type[BaseException], ...]] = (OSError,)
"""What code-first calls retry: `OSError`, with its `ConnectionError` and `TimeoutError`."""

ADVISING_STATUSES: Final = frozenset({413, 429, 503})
"""The HTTP statuses whose `Retry-After` says when to try again (RFC 9110, 15.5.14 and 15.6.4; RFC 6585, 4)."""


def http_verdict(on: RetryOn, status: int, retry_after: Sequence[str], wall_s: float) -> Verdict:
    """Judge an HTTP response.

    Args:
        on: what is retried: `Retry.on`.
        status: the response's status. Below 400 it is a success.
        retry_after: the values of its `Retry-After`, empty for none; they count with 413, 429 and 503.
        wall_s: now, in seconds since the Unix epoch.
    """
    if status < LOWEST_RETRIED:
        return SUCCESS
    if status not in on.statuses:
        return FAILURE
    if not retry_after or status not in ADVISING_STATUSES:
        return RETRYABLE
    return Verdict(retryable=True, advice_s=retry_after_s(retry_after, wall_s))


def grpc_verdict(on: RetryOn, code: int, pushback: Sequence[str]) -> Verdict:
    """Judge how a gRPC call ended, by the rules of gRPC's own retries (gRFC A6).

    Args:
        on: what is retried: `Retry.on`.
        code: the number of its status code. 0, OK, is a success whatever else it says.
        pushback: the values of `grpc-retry-pushback-ms` in its metadata, empty for none. Where they ask for no retry, the retry
            budget counts a failure whatever the code is.
    """
    if code == GRPC_OK:
        return SUCCESS
    said = read_pushback(pushback)
    if said.forbidden:
        return FORBIDDEN
    if code in on.codes or (code in on.advised_codes and said.wait_s is not None):
        return Verdict(retryable=True, advice_s=said.wait_s)
    return FAILURE


def function_judge(on: Retryable, on_result: Callable[[Any], bool] | None) -> Judge:
    """The judge of plain function calls: `on` says which errors are retried, `on_result` judges what was returned.

    A refusal of ours is retried only when its class is named. A deadline after the retry is a `TimeoutError` like any other.
    """
    if callable(on) and not isinstance(on, type):
        is_retryable: Predicate = on
    else:
        classes = (on,) if isinstance(on, type) else tuple(on)
        named = tuple(cls for cls in classes if issubclass(cls, Rejected))

        def is_retryable(error: BaseException) -> bool:
            if isinstance(error, Rejected) and not isinstance(error, (DeadlineExceeded, *named)):
                return False
            return isinstance(error, classes)

    def judge(error: BaseException | None, result: Any) -> Verdict:
        if error is not None:
            return Verdict(is_retryable(error))
        return RETRYABLE if on_result is not None and on_result(result) else SUCCESS

    return judge
