"""The errors this toolkit raises. `Rejected` is the one root of refusals; each is a fresh exception that carries its hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


class ResilienceError(Exception):
    """The root of every error of this package."""


class Rejected(ResilienceError):
    """A guard refused the call.

    Attributes:
        policy: the name of the policy that refused.
        reason: one word for telemetry and problem bodies, such as "quota", "cut", "open", "expired".
        retry_after_s: seconds until a new try can succeed, or None where none is known or none would.
        trace_id: 32 hexadecimal digits, or empty: the trace in which it was refused, where that is known already.

    Without a `message` its text is put together only when somebody reads it: a service under a flood refuses far more often.
    """

    trace_id: str = ""

    def __init__(self, message: str = "", *, policy: str = "", reason: str = "", retry_after_s: float | None = None) -> None:
        if message:
            super().__init__(message)
        self.policy = policy
        self.reason = reason
        self.retry_after_s = retry_after_s

    def _what(self) -> str:
        return "refused"

    def _hint(self) -> str:
        return "" if self.retry_after_s is None else f"; retry in {self.retry_after_s:.3g} s"

    def __str__(self) -> str:
        return super().__str__() if self.args else f"{self.policy}: {self._what()}{self._hint()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Quota(NamedTuple):
    """What a client has left under one policy, in the words of the RateLimit fields.

    `limit` tokens a full bucket holds now, `window_s` whole seconds in which they come back, `remaining` whole tokens,
    `available_in_s` seconds until more are there. Source: IETF draft "RateLimit header fields for HTTP".
    """

    policy: str
    limit: int
    window_s: int
    remaining: int
    available_in_s: float


class RateLimited(Rejected):
    """A rate limiter refused. `reason` is "quota" (over the caller's own limit) or "cut" (over it while health is reduced).

    `quota` holds the numbers behind it, worked out when they are first read, or None where the policy never tells them;
    `rate_per_s` is the rate in force; `status` is the HTTP status that the policy chose.
    """

    __slots__ = ("_quota", "policy", "rate_per_s", "reason", "retry_after_s", "status")  # no dictionary is made for one

    def __init__(
        self,
        message: str = "",
        *,
        policy: str = "",
        reason: str = "quota",
        retry_after_s: float | None = None,
        quota: Quota | Callable[[], Quota] | None = None,
        rate_per_s: float | None = None,
        status: int = 429,
    ) -> None:
        if message:
            self.args = (message,)
        self.policy = policy
        self.reason = reason
        self.retry_after_s = retry_after_s
        self._quota = quota
        self.rate_per_s = rate_per_s
        self.status = status

    @property
    def quota(self) -> Quota | None:
        """What the caller has left."""
        if callable(self._quota):
            self._quota = self._quota()
        return self._quota

    def _what(self) -> str:
        limit = "limit" if self.rate_per_s is None else f"limit of {self.rate_per_s:g}/s"
        return f"over the {'reduced ' if self.reason == 'cut' else ''}{limit}"

    def _hint(self) -> str:
        if self.retry_after_s is None and self.rate_per_s is not None:
            return "; this call costs more than the bucket holds"
        return super()._hint()

    def __reduce__(self) -> tuple[Any, ...]:
        self.quota  # noqa: B018  # what works it out cannot be pickled
        return _reduced(self, RateLimited.__slots__)


_BREAKER_IS: Final = {"half_open": "half-open and its probes are taken", "forced": "held open by its operator"}


class CircuitOpen(Rejected):
    """A circuit breaker refused. `reason` is "open", "half_open" (all probes are taken) or "forced"."""

    __slots__ = ("policy", "reason", "retry_after_s")  # no dictionary is made for one

    def _what(self) -> str:
        return f"the circuit breaker is {_BREAKER_IS.get(self.reason, 'open')}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduced(self, CircuitOpen.__slots__)


def _reduced(refusal: Rejected, slots: Sequence[str]) -> tuple[Any, ...]:
    """What pickles and copies a refusal: exceptions of themselves know nothing of slots."""
    return type(refusal), refusal.args, {**refusal.__dict__, **{name: getattr(refusal, name) for name in slots}}


class DeadlineExceeded(Rejected, TimeoutError):
    """The time for the call has run out. `reason` is "expired" or, before any work began, "expired_on_arrival"."""


def refusal_in(error: BaseException) -> Rejected | None:
    """The refusal that `error` is, or the first one of a group that holds nothing else; None for any other error.

    A task group wraps what its tasks raise in a group, also where there is only one.
    """
    if isinstance(error, Rejected):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    refusals = [refusal_in(member) for member in error.exceptions]
    return None if None in refusals else refusals[0]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration file: where (1-based line and column), in which key, and what to do."""

    source: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}:{self.column}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigError(ResilienceError):
    """A configuration cannot be used. `problems` lists every fault found, in the order of the file."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ConfigError:
        """Make the error that reports `problems`, one a line."""
        return cls("\n".join(str(problem) for problem in problems), problems)
