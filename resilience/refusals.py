"""What can be set on the answers to refused requests over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resilience.settings import Kind, option, validate

LOWEST: Final = 400
HIGHEST: Final = 599
BODIES: Final = ("problem", "none")


@dataclass(frozen=True, slots=True)
class RefusalSettings:
    """How a service answers what it refuses. The status of a limit that health has reduced is the limiter's own: `status`."""

    quota_status: int = option(
        Kind.COUNT, "HTTP status for a client over its own limit", default=429, minimum=LOWEST, maximum=HIGHEST
    )
    open_status: int = option(
        Kind.COUNT,
        "HTTP status while a breaker is open, and for refusals of guards that are not of this toolkit",
        default=503,
        minimum=LOWEST,
        maximum=HIGHEST,
    )
    deadline_status: int = option(
        Kind.COUNT, "HTTP status when the deadline has passed", default=504, minimum=LOWEST, maximum=HIGHEST
    )
    body: str = option(
        Kind.CHOICE, "what the answer holds: a problem document (RFC 9457), or nothing", default="problem", choices=BODIES
    )

    def __post_init__(self) -> None:
        validate(self)
