"""What can be set on a retry policy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from resilience.layers.retry.on import RetryOn
from resilience.settings import Kind, option, validate

JITTERS = ("full", "equal", "decorrelated", "none")
IDEMPOTENT_METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
"""The HTTP methods that do no more when they are sent twice than when they are sent once (RFC 9110, 9.2.2)."""
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Z]+")


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Settings of a retry policy. The wait grows from `backoff_base_s` to at most `backoff_max_s`; equal ends make it constant."""

    attempts: int = option(Kind.COUNT, "tries in all, the first included", default=3, minimum=1, maximum=100)
    backoff_base_s: float = option(Kind.DURATION, "the first wait's ceiling", default=0.1, minimum=0, maximum=3600)
    backoff_max_s: float = option(Kind.DURATION, "the longest wait's ceiling", default=2.0, minimum=0, maximum=3600)
    jitter: str = option(Kind.CHOICE, "how waits are spread", default="full", choices=JITTERS)
    on: tuple[str, ...] = option(
        Kind.NAMES,
        "what is retried: HTTP statuses in the place of 429, 502, 503 and 504, gRPC codes in the place of UNAVAILABLE and of "
        "RESOURCE_EXHAUSTED with a pushback, and besides them rate_limited, circuit_open, deadline",
        default=(),
    )
    methods: tuple[str, ...] = option(
        Kind.NAMES,
        "HTTP methods that are retried; a request of another one only with an Idempotency-Key header",
        default=IDEMPOTENT_METHODS,
    )
    max_advice_s: float = option(
        Kind.DURATION, "give up when the server asks for a longer wait", default=30.0, minimum=0, maximum=3600
    )
    budget_tokens: int = option(
        Kind.COUNT, "the retry budget's size; retries stop while half of it or less is left", default=10, minimum=1, maximum=1000
    )
    budget_ratio: float = option(Kind.NUMBER, "tokens that one success earns back", default=0.1, minimum=0.001, maximum=1000)
    when_nested: bool = option(Kind.FLAG, "retry even inside a call that is being retried further out", default=False)

    def __post_init__(self) -> None:
        validate(self)
        try:
            RetryOn.of(self.on)
        except ValueError as error:
            raise ValueError(f"RetrySettings.on: {error}") from None
        for method in self.methods:
            if _METHOD.fullmatch(method) is None:
                raise ValueError(f"RetrySettings.methods: must be upper-case HTTP methods such as GET, got {method!r}")
        if self.backoff_base_s > self.backoff_max_s:
            raise ValueError(
                f"RetrySettings.backoff: the first wait must be at most the longest, "
                f"got {self.backoff_base_s} s and {self.backoff_max_s} s"
            )
