"""The errors this toolkit raises. `Rejected` is the one root of refusals; each is a fresh exception that carries its hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ResilienceError(Exception):
    """The root of every error of this package."""


class Rejected(ResilienceError):
    """A guard refused the call.

    Attributes:
        policy: the name of the policy that refused.
        reason: one word for telemetry and problem bodies, such as "quota", "cut", "open", "expired".
        retry_after_s: seconds until a new try can succeed, or None where none is known or none would.
    """

    def __init__(self, message: str, *, policy: str = "", reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.policy = policy
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Quota:
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

    `quota` holds the numbers behind it, or None where the policy never tells them; `status` is the HTTP status that it chose.
    """

    def __init__(
        self,
        message: str,
        *,
        policy: str = "",
        reason: str = "quota",
        retry_after_s: float | None = None,
        quota: Quota | None = None,
        status: int = 429,
    ) -> None:
        super().__init__(message, policy=policy, reason=reason, retry_after_s=retry_after_s)
        self.quota = quota
        self.status = status


class CircuitOpen(Rejected):
    """A circuit breaker refused. `reason` is "open", "half_open" (all probes are taken) or "forced"."""


class DeadlineExceeded(Rejected, TimeoutError):
    """The time for the call has run out. `reason` is "expired" or, before any work began, "expired_on_arrival"."""


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
