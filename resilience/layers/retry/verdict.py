"""Whether a try that did not succeed is worth another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from resilience.errors import CircuitOpen, DeadlineExceeded, RateLimited, Rejected


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one try's end means. `advice_s` is how long the server asks to wait; `forbidden` means it asks not to retry."""

    retryable: bool
    advice_s: float | None = None
    forbidden: bool = False


SUCCESS: Final = Verdict(retryable=False)
RETRYABLE: Final = Verdict(retryable=True)

Judge = Callable[[BaseException | None, Any], Verdict]
"""Judges a try by its error (None when it returned) and its result."""

Predicate = Callable[[BaseException], bool]
Retryable = type[BaseException] | tuple[type[BaseException], ...] | Predicate

DEFAULT_ON: Final[tuple[type[BaseException], ...]] = (OSError,)
"""What code-first calls retry: `OSError`, with its `ConnectionError` and `TimeoutError`."""

OWN_REFUSALS: Final[dict[str, type[Rejected]]] = {
    "rate_limited": RateLimited,
    "circuit_open": CircuitOpen,
    "deadline": DeadlineExceeded,
}
"""Refusals of our own by the word that asks for their retry."""


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
