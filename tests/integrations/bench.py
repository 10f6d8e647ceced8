"""One of each layer over one manual clock, for the tests of every framework's room."""

from __future__ import annotations

import contextlib

from resilience import Call, CircuitBreaker, CircuitOpen, Deadline, HealthSignal, Outcome, Pipeline, RateLimiter
from resilience.testing import ManualClock


class Layers:
    """One of each layer over one manual clock, in the order deadline, limiter, breaker."""

    def __init__(
        self,
        *,
        default_s: float | None = 5.0,
        rate_per_s: float = 1.0,
        burst: int = 1_000,
        fields: str = "refused",
        streams: bool = False,
        slow_call_s: float | None = None,
        min_calls: int = 1,
        probes: int = 1,
        cost: int = 1,
        status: int = 429,
    ) -> None:
        self.clock = ManualClock()
        self.health = HealthSignal(clock=self.clock)
        self.deadline = Deadline(default_s, 60.0, streams=streams, name="api", clock=self.clock)
        self.limiter = RateLimiter(
            rate_per_s,
            burst,
            fields=fields,
            cost=cost,
            status=status,
            health=self.health,
            name="api",
            clock=self.clock,
        )
        self.breaker = CircuitBreaker(
            min_calls=min_calls,
            probes=probes,
            slow_call_s=slow_call_s,
            open_for_s=30.0,
            health=self.health,
            name="orders",
            clock=self.clock,
            uniform=lambda: 0.0,
        )
        self.pipeline = Pipeline("api", self.deadline, self.limiter, self.breaker)

    def open_breaker(self) -> None:
        """One failure opens it."""
        with contextlib.suppress(OSError):
            Pipeline("direct", self.breaker).call(_fail)
        assert self.breaker.state.value == "open"

    def half_open(self) -> None:
        """The next call is the one probe that decides, so that what it counted as can be seen."""
        self.open_breaker()
        self.clock.advance(30.0)

    def outcome(self) -> str:
        """What the one probe counted as: "ok", "failed", "ignored"; "held" while its permit is out, "untouched" if none came."""
        state = self.breaker.state.value
        if state == "open" and self.breaker.status()["opens_for_s"] == 0:
            return "untouched"
        if state != "half_open":
            return {"closed": "ok", "open": "failed"}[state]
        call = Call(now_us=self.clock.now_us())
        try:
            ticket = self.breaker.admit(call)
        except CircuitOpen:
            return "held"
        assert ticket is not None
        self.breaker.settle(ticket, Outcome.IGNORED, call, call.now_us)
        return "ignored"


def _fail() -> None:
    raise OSError("the dependency is down")
