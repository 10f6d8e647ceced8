"""What a demo writes down while it runs: each request as its client saw it, and what the service said of itself meanwhile.

All instants are seconds on one monotonic clock since the demo began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Answer(Enum):
    """How a request ended for its client."""

    OK = "ok"
    FAILED = "502, the dependency failed"
    QUOTA = "429, over the limit"
    CUT = "429, over the cut limit"
    BREAKER = "503, breaker open"
    DEADLINE = "504, deadline"
    ERROR = "500"
    OTHER = "something else"
    NONE = "no answer"

    @property
    def by_limiter(self) -> bool:
        """Whether the rate limiter refused it. Whatever else a client hears, the limiter has admitted the request."""
        return self in (Answer.QUOTA, Answer.CUT)

    @property
    def is_refusal(self) -> bool:
        """Whether a guard refused it and should say when to come back; nobody can say that of a deadline."""
        return self.by_limiter or self is Answer.BREAKER


_STATUSES = {500: Answer.ERROR, 502: Answer.FAILED, 503: Answer.BREAKER, 504: Answer.DEADLINE}


def classify(status: int, problem_type: str) -> Answer:
    """What an HTTP status means here; the `type` of its problem document tells the two refusals of a limiter apart."""
    if 200 <= status < 300:
        return Answer.OK
    if status == 429:
        return Answer.CUT if problem_type.endswith("#temporary-reduced-capacity") else Answer.QUOTA
    return _STATUSES.get(status, Answer.OTHER)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        due_s: when the load's even pace wanted it sent. Requests are counted by this: should the client fall behind for a
            moment and catch up at once, the count is spread as it was meant.
        answered_s: when its answer had come, or when the client gave up waiting.
        says_when: whether its answer had a Retry-After.
        trace_id: of its trace in hexadecimal, when it was to be recorded; else empty.
    """

    due_s: float
    answered_s: float
    answer: Answer
    says_when: bool = False
    trace_id: str = ""

    @property
    def admitted(self) -> bool:
        """Whether it got an answer, and not from the limiter."""
        return self.answer is not Answer.NONE and not self.answer.by_limiter


@dataclass(frozen=True, slots=True)
class Reading:
    """What the service said of itself: asked at `asked_s`, heard at `heard_s`, so true at some instant between."""

    asked_s: float
    heard_s: float
    breaker: str
    factor: float
    rate_per_s: float


@dataclass(slots=True)
class Recording:
    """Everything that was written down. Marks are instants by name, such as "opened"."""

    samples: list[Sample] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    held_back: list[float] = field(default_factory=list)
    """When a request was due but not sent, because too many were unanswered."""

    @property
    def latest(self) -> Reading | None:
        """The last reading."""
        return self.readings[-1] if self.readings else None


def reading_of(status: Mapping[str, Any], *, asked_s: float, heard_s: float, breaker: str, limiter: str) -> Reading:
    """Pick out of `Toolkit.status()` what a demo watches."""
    return Reading(
        asked_s,
        heard_s,
        status["breakers"][breaker]["state"],
        status["health"]["default"]["factor"],
        status["limiters"][limiter]["rate_per_s"],
    )
