"""The rate limiter: a token bucket, or one for each key, whose rate follows the health signal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

from resilience.call import Call, Decision, Outcome
from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, to_us
from resilience.errors import Quota, RateLimited
from resilience.health import NEVER_US, PPB, HealthSignal
from resilience.layers.base import Wait
from resilience.layers.keys import KeyFunction, bounded, key_function
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.limiter.state import LimiterState
from resilience.layers.limiter.tokens import TokenClock
from resilience.registry import enrol

log = logging.getLogger("resilience")
CostFunction = Callable[[Call], int]


class RateLimiter:
    """Admits `rate_per_s` calls a second and bursts of `burst`; refuses or delays what is over.

    Args:
        rate_per_s: tokens that come back each second, above 0.
        burst: tokens a full bucket holds; default one second's worth, at least 1.
        key: None for one bucket; "client_address", "forwarded_address", "header:NAME", or a function of the `Call`.
        cost: tokens one call takes, 0 or more (0 only looks), or a function of the `Call`.
        max_wait_s: how long a call may wait for its tokens; default 0, refuse at once.
        max_keys: buckets kept at most; beyond, new keys share one.
        status: HTTP status of a refusal while health is reduced, 429 (default) or 503.
        fields: when responses carry RateLimit fields: "refused" (default), "always" or "never".
        trusted_proxies: addresses or networks whose X-Forwarded-For is believed.
        shadow: count and report what would be refused, refuse nothing.
        health: the signal that cuts the rate; None for none.
        name: for telemetry, errors and response fields.
        clock: where time comes from.

    Raises:
        ValueError: a setting is out of range.
    """

    kind: ClassVar[str] = "limiter"
    votes_at_start = False

    def __init__(
        self,
        rate_per_s: float,
        burst: int | None = None,
        *,
        key: str | KeyFunction | None = None,
        cost: int | CostFunction = 1,
        max_wait_s: float = 0.0,
        max_keys: int = 100_000,
        status: int = 429,
        fields: str = "refused",
        trusted_proxies: tuple[str, ...] = (),
        shadow: bool = False,
        health: HealthSignal | None = None,
        name: str = "limiter",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        settings = RateLimiterSettings(
            rate_per_s=rate_per_s,
            burst=burst,
            key=None if callable(key) else key,
            cost=1 if callable(cost) else cost,
            max_wait_s=max_wait_s,
            max_keys=max_keys,
            status=status,
            fields=fields,
            trusted_proxies=trusted_proxies,
            shadow=shadow,
        )
        state = self._new_state(name, settings, health, clock.now_us())
        self._bind(name, clock, settings, state, key, cost if callable(cost) else None)

    def _new_state(self, name: str, settings: RateLimiterSettings, health: HealthSignal | None, now_us: int) -> LimiterState:
        return LimiterState(settings, health, now_us)

    @classmethod
    def over(cls, state: LimiterState, settings: RateLimiterSettings, *, name: str, clock: Clock) -> Self:
        """A limiter of these settings over a state that exists already; `LimiterState.configure` makes the state follow."""
        limiter = cls.__new__(cls)
        limiter._bind(name, clock, settings, state, settings.key, None)
        return limiter

    def _bind(
        self,
        name: str,
        clock: Clock,
        settings: RateLimiterSettings,
        state: LimiterState,
        key: str | KeyFunction | None,
        cost: CostFunction | None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.state = state
        self.key_of = None if key is None else key_function(key, settings.trusted_proxies)
        self.goes_by_peer = key == "client_address" and not settings.trusted_proxies
        self._cost_of = cost
        self.usual_cost = int(settings.cost)
        # Whether a call that has no cost of its own has only to take that; and what it asks, looked up once.
        self.is_usual = cost is None and 0 < settings.cost <= settings.capacity and settings.max_wait_s == 0
        self._usual = (self.key_of, state.draw, settings) if self.is_usual else None
        self._max_wait_us = to_us(settings.max_wait_s)
        self._burst = settings.capacity
        enrol(self)

    # --- deciding ----------------------------------------------------------------------------------------------------------

    @property
    def has_effects(self) -> bool:
        return self._max_wait_us > 0 and not self.settings.shadow

    def admit(self, call: Call) -> Wait | None:
        usual = self._usual
        if usual is None or call.cost is not None:
            return self._admit(call)
        key_of, draw, settings = usual
        key = None if key_of is None else key_of(call) if call.key is None else bounded(call.key)
        short_us = draw(key, None, call.now_us, settings)
        if short_us:
            self.refuse(call, key, self.usual_cost, -short_us)
        return None

    def _admit(self, call: Call) -> Wait | None:
        """A call that has a cost of its own, or one of a limiter that lets calls wait."""
        key, cost = self._key_for(call), self._cost_for(call)
        if cost > self._burst:
            self.refuse(call, key, cost, None)
            return None
        if self._max_wait_us:
            return self._take_or_queue(call, key, cost)
        wait_us = self.state.take(key, cost, call.now_us, self.settings)
        if wait_us:
            self.refuse(call, key, cost, wait_us)
        return None

    def _key_for(self, call: Call) -> str | None:
        return None if self.key_of is None else self.key_of(call) if call.key is None else bounded(call.key)

    def _cost_for(self, call: Call) -> int:
        if call.cost is not None:
            return self._checked(call.cost)
        if self._cost_of is None:
            return int(self.settings.cost)
        try:
            return self._checked(self._cost_of(call))
        except Exception:
            # A function of the user's that raises must neither fail the request nor free it of its limit.
            log.exception("the cost function %r of %s failed; the call costs 1", self._cost_of, self.name)
            return 1

    def _checked(self, cost: object) -> int:
        if not isinstance(cost, int) or cost < 0:  # below 0 it would fill the bucket
            raise ValueError(f"{self.name}: the cost of a call must be a whole number, at least 0, got {cost!r}")
        return int(cost)

    def _take_or_queue(self, call: Call, key: str | None, cost: int) -> Wait | None:
        patience_us = self._max_wait_us
        if call.deadline_us is not None:
            patience_us = max(0, min(patience_us, call.deadline_us - call.now_us))
        wait_us, due = self.state.reserve(key, cost, call.now_us, patience_us, self.settings)
        if wait_us == 0:
            return None
        if wait_us > patience_us:
            self.refuse(call, key, cost, wait_us)
            return None
        call.decision = Decision.QUEUED
        if self.settings.shadow:  # it would have waited
            return None
        return Wait(wait_us / US_PER_S, lambda: self.state.give_back(key, cost, due, self.clock.now_us()))

    def refuse(self, call: Call, key: str | None, cost: int, wait_us: int | None) -> None:
        """Refuse a call that would have to wait for so long by the arithmetic; None: for ever. In the shadow it passes."""
        state, settings = self.state, self.settings
        if wait_us is None:
            with state.lock:
                state.count_refusal(settings)
        if settings.shadow:
            call.decision = Decision.WOULD_REJECT
            return
        now_us = call.now_us
        if wait_us is not None:
            wait_us = state.wait_for(cost, wait_us)
        tokens = state.told_by(settings, wait_us, now_us)
        cut = wait_us is not None and state.tokens.factor_ppb < PPB
        raise RateLimited(
            policy=self.name,
            reason="cut" if cut else "quota",
            retry_after_s=self._next_step_s(cut=cut) if wait_us is None or wait_us == NEVER_US else wait_us / US_PER_S,
            quota=None if settings.fields == "never" else partial(state.quota, self.name, key, cost, now_us, tokens),
            rate_per_s=tokens.rate_per_s,
            status=settings.status if cut else 429,
        )

    def _next_step_s(self, *, cut: bool) -> float | None:
        """When it may be worth a try where the bucket cannot hold so many: a cut may end by then."""
        health = self.state.health
        return health.settings.every_s if cut and health is not None else None

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        """A limiter keeps nothing to settle: what a later layer refuses gets no tokens back."""

    # --- telling -----------------------------------------------------------------------------------------------------------

    @property
    def rate_per_s(self) -> float:
        """The effective rate: the configured rate x the health factor."""
        self.state.sync(self.clock.now_us())
        return self.state.tokens.rate_per_s

    def quota(self, call: Call) -> Quota:
        """What the caller of `call` has left."""
        return self._quota(call, self.state.clock_of(self.settings, call.now_us))

    def _quota(self, call: Call, tokens: TokenClock) -> Quota:
        return self.state.quota(self.name, self._key_for(call), 1, call.now_us, tokens)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self.state.renew_lock()

    def attributes(self, call: Call) -> Mapping[str, Any]:
        key_of = self.key_of
        key = None if key_of is None else key_of(call) if call.key is None else bounded(call.key)
        tokens, remaining = self.state.standing(key, call.now_us, self.settings)
        return attributes_of(tokens, remaining)

    def decisions(self) -> Mapping[str, int]:
        state = self.state
        counted = {
            Decision.ADMITTED: state.admitted,
            Decision.REJECTED: state.rejected,
            Decision.QUEUED: state.queued,
            Decision.WOULD_REJECT: state.would_reject,
        }
        return {decision.value: count for decision, count in counted.items()}

    def status(self) -> Mapping[str, Any]:
        return {
            "rate_per_s": self.rate_per_s,
            "configured_rate_per_s": self.settings.rate_per_s,
            "capacity": self.state.tokens.capacity / 1e9,
            "keys": 0 if self.key_of is None else len(self.state.table),
            "shared_the_overflow_bucket": self.state.table.overflowed,
            **self.decisions(),
        }

    def __repr__(self) -> str:
        return f"RateLimiter({self.name!r}, {self.settings.rate_per_s:g}/s, burst {self.settings.capacity})"


def attributes_of(tokens: TokenClock, remaining: int) -> dict[str, Any]:
    """What a span tells of a limiter: the factor and the rate of the clock that the call goes by, and the whole tokens left."""
    return {
        "resilience.health.factor": tokens.factor_ppb / 1e9,
        "resilience.limiter.rate": tokens.rate_per_s,
        "resilience.limiter.remaining": remaining,
    }
