"""What is promised, in one table: for each figure its bound, and whether a run has kept it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Verdict(Enum):
    """How a run stands to a target."""

    REACHED = "reached"
    MISSED = "MISSED"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Target:
    """A bound on one figure of one group. `slack`: how many times that the short form lets pass, being hasty."""

    group: str
    figure: str
    bound: float
    at_most: bool = True
    slack: float = 2.5
    unit: str = "x"
    in_smoke: bool = True

    def allowed(self, *, is_smoke: bool) -> float:
        """The bound that this run is held to."""
        if not is_smoke:
            return self.bound
        return self.bound * self.slack if self.at_most else self.bound / self.slack

    def judge(self, figures: Mapping[str, float], *, is_smoke: bool = False) -> Verdict:
        """Whether the figures of its group keep it."""
        figure = figures.get(self.figure)
        if figure is None:
            return Verdict.UNKNOWN
        allowed = self.allowed(is_smoke=is_smoke)
        return Verdict.REACHED if (figure <= allowed if self.at_most else figure >= allowed) else Verdict.MISSED


TARGETS: Final = (
    Target("asgi", "four layers / fused floor", 1.6),
    Target("asgi", "four layers / SlowAPI", 0.25),
    Target("asgi", "four layers / usual stitching", 0.25),
    Target("asgi", "four layers / leanest stitching", 0.75),
    Target("wsgi", "four layers / fused floor", 1.8),
    Target("wsgi", "four layers / flask-limiter", 0.125, slack=4.0),
    Target("grpc", "threads: four layers / fused floor", 2.3),
    Target("grpc", "asyncio: four layers / fused floor", 2.3),
    Target("bucket", "admitted, one key / limits", 0.4),
    Target("bucket", "admitted, 100,000 keys / limits", 0.4),
    Target("bucket", "refusing / admitting, one key", 1.0),
    Target("bucket", "refusing / admitting, 100,000 keys", 1.0),
    Target("breaker", "closed: layer / cheapest peer", 2.0),
    Target("breaker", "open: layer / cheapest peer", 2.0),
    Target("breaker", "closed: pipeline / cheapest peer", 2.0, slack=5.0),
    Target("breaker", "open: pipeline / cheapest peer", 2.0, slack=5.0),
    Target("breaker", "awaited: pipeline / cheapest peer", 2.0, slack=5.0),
    Target("breaker", "refusing / admitting", 1.0),
    Target("retry", "sync: retry / backoff", 1.0),
    Target("retry", "async: retry / backoff", 1.0),
    Target("retry", "sync: retry / tenacity", 0.25),
    Target("retry", "async: retry / tenacity", 0.25),
    Target("calls", "four layers / leanest stitching", 0.75),
    Target("calls", "four layers / usual stitching", 0.25),
    Target("spans", "request: sampled / SDK alone", 1.2),
    Target("contention", "bucket: 8 threads / 1", 0.8, at_most=False, slack=5.0),
    Target("contention", "breaker: 8 threads / 1", 0.8, at_most=False, slack=5.0),
    Target("contention", "bucket: 8 threads / limits", 5.0, at_most=False, slack=10.0),
    Target("contention", "breaker: 8 threads / limits", 5.0, at_most=False, slack=10.0),
    Target("growth", "1,000 routes / 10", 1.3),
    Target("growth", "1,000 routes / 10, with patterns", 1.3),
    Target("growth", "600 policies not in use / none", 1.3),
    Target("growth", "growth with clients / that of the floor", 1.3),
    Target("memory", "100,000 keys: bytes a key", 160, unit="B", slack=1.25),
    Target("memory", "1,000,000 keys: bytes a key", 160, unit="B", in_smoke=False),
    Target("memory", "100,000 keys: longest decision", 1.0, unit="ms"),
    Target("memory", "1,000,000 keys: longest decision", 1.0, unit="ms", in_smoke=False),
    Target("imports", "resilience over opentelemetry-api", 50, unit="ms"),
)


def targets_of(group: str, *, is_smoke: bool) -> list[Target]:
    """The targets of one group, as far as this form measures them."""
    return [target for target in TARGETS if target.group == group and (target.in_smoke or not is_smoke)]
