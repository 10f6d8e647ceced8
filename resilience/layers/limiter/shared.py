"""The rate limiter whose buckets live in a store that several processes share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast, get_args

from resilience.call import Call, Decision
from resilience.clock import US_PER_S, Clock
from resilience.errors import Quota, RateLimited
from resilience.health import NEVER_US, HealthSignal
from resilience.layers.base import Ask, Wait
from resilience.layers.keys import KeyFunction, bounded
from resilience.layers.limiter.layer import CostFunction, RateLimiter, attributes_of
from resilience.layers.limiter.questions import Answer, Away, HasBuckets, Take
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.limiter.shared_bucket import NEVER, UNIT, Decided
from resilience.layers.limiter.shared_state import BY_SHARE, ByShare, OnStoreError, SharedLimiterState
from resilience.layers.limiter.state import LimiterState
from resilience.layers.limiter.tokens import TOKEN, TokenClock

_Token = Decided | ByShare | None


class SharedRateLimiter(RateLimiter):
    """A `RateLimiter` whose buckets are in a store, so that all processes that open the store share one limit.

    What the store, or the local share, said of a call is its token, so that the caller can be told.

    Args:
        store: what `resilience.stores.open_store` has opened.
        rate_per_s: tokens that come back each second, for all processes together, above 0.
        burst: tokens a full bucket holds; default one second's worth, at least 1.
        name: which limit of the store it is: limiters of one name share their buckets.
        on_store_error: what it does while the store is away: "local" (default: a share of the limit, the rate and burst divided by
            the processes seen), "open" (let all through) or "closed" (refuse all).
        options: any other of `RateLimiter`. A `health` of the same store (`resilience.stores.shared_health`) is the fleet's.

    Raises:
        ValueError: a setting is out of range.
    """

    shared: SharedLimiterState
    """Its state, which is a shared one."""

    def __init__(
        self,
        store: HasBuckets,
        rate_per_s: float,
        burst: int | None = None,
        *,
        name: str,
        on_store_error: OnStoreError = "local",
        **options: Any,
    ) -> None:
        if on_store_error not in get_args(OnStoreError):
            known = ", ".join(get_args(OnStoreError))
            raise ValueError(f"SharedRateLimiter.on_store_error: must be one of {known}, got {on_store_error!r}")
        _check_name(name)
        if not hasattr(store, "buckets"):  # only its class is told: settings and URLs may hold a password
            raise ValueError(f"SharedRateLimiter.store: must be what open_store has opened, got {type(store).__name__}")
        self._buckets = store.buckets
        self._on_store_error: OnStoreError = on_store_error
        super().__init__(rate_per_s, burst, name=name, **options)

    def _new_state(self, name: str, settings: RateLimiterSettings, health: HealthSignal | None, now_us: int) -> LimiterState:
        return SharedLimiterState(name, settings, health, now_us, self._buckets, self._on_store_error)

    def _bind(
        self,
        name: str,
        clock: Clock,
        settings: RateLimiterSettings,
        state: LimiterState,
        key: str | KeyFunction | None,
        cost: CostFunction | None,
    ) -> None:
        super()._bind(name, clock, settings, state, key, cost)
        self.shared = cast(SharedLimiterState, state)

    # --- deciding ----------------------------------------------------------------------------------------------------------

    @property
    def has_effects(self) -> bool:
        return self.shared.buckets.needs_io or super().has_effects

    def admit(self, call: Call) -> Any:
        key = None if self.key_of is None else self.key_of(call) if call.key is None else bounded(call.key)
        cost = self._cost_for(call)
        if cost > self._burst:
            self.refuse(call, key, cost, None)
            return None
        state, now_us = self.shared, call.now_us
        patience_us, timeout_us = self._max_wait_us, NEVER_US
        if call.deadline_us is not None:
            timeout_us = max(0, call.deadline_us - now_us)
            patience_us = min(patience_us, timeout_us)
        question = state.question(key, cost, now_us, patience_us, timeout_us)
        answer = state.buckets.take(question)
        if answer is None:
            return Ask(state.buckets, question, partial(self._answered, call, question))
        return self._answered(call, question, answer)

    def _answered(self, call: Call, question: Take, answer: Answer) -> Any:
        state = self.shared
        if isinstance(answer, Away):
            return self._without_store(call, question, answer)
        state.last = answer
        if answer.wait_us and not answer.taken:
            return self._refuse_as_told(call, question, answer)
        with state.lock:
            if answer.wait_us:
                state.queued += 1
            else:
                state.admitted += 1
        if not answer.wait_us:
            return answer
        call.decision = Decision.QUEUED
        if self.settings.shadow:  # it would have waited
            return answer
        call.held.append((self, answer))  # a call that has waited has no other token
        due_us = call.now_us + answer.wait_us + state.buckets.offset_us
        return Wait(answer.wait_us / US_PER_S, lambda: state.buckets.give_back(question, answer, due_us))

    def _refuse_as_told(self, call: Call, question: Take, answer: Decided) -> _Token:
        state, settings = self.shared, self.settings
        with state.lock:
            state.count_refusal(settings)
        if settings.shadow:
            call.decision = Decision.WOULD_REJECT
            return answer
        call.held.append((self, answer))  # for whoever asks, until the call is settled, what is left for it
        tokens = state.told_by(settings, answer.wait_us, call.now_us)
        retry_after_s: float | None = answer.wait_us / US_PER_S
        if answer.wait_us == NEVER:  # fits a full bucket, but not one of the size that health leaves it
            health = state.health
            retry_after_s = health.settings.every_s if answer.is_cut and health is not None else None
        raise RateLimited(
            policy=self.name,
            reason="cut" if answer.is_cut else "quota",
            retry_after_s=retry_after_s,
            quota=None if settings.fields == "never" else partial(self._told, answer, question.least, tokens),
            rate_per_s=tokens.rate_per_s,
            status=settings.status if answer.is_cut else 429,
        )

    # --- while the store is away ---------------------------------------------------------------------------------------------

    def _without_store(self, call: Call, question: Take, away: Away) -> Any:
        state, cost = self.shared, question.least
        with state.lock:
            state.without_store += 1
        if state.on_store_error == "open":
            state.last = None
            with state.lock:
                state.admitted += 1
            return None
        if state.on_store_error == "closed":
            return self._refuse_for_now(call, away)
        state.last = BY_SHARE
        state.share_settings(call.now_us)
        wait_us, due = state.share.reserve(question.key, cost, call.now_us, question.patience_us, state.share.settings)
        if wait_us > question.patience_us:
            return self._refuse_by_share(call, question, wait_us)
        if cost:
            state.buckets.owe(question, cost)
        with state.lock:
            state.queued += wait_us > 0
            state.admitted += wait_us == 0
        if not wait_us:
            return BY_SHARE
        call.decision = Decision.QUEUED
        if self.settings.shadow:
            return BY_SHARE
        call.held.append((self, BY_SHARE))
        return Wait(wait_us / US_PER_S, lambda: state.share.give_back(question.key, cost, due, self.clock.now_us()))

    def _refuse_for_now(self, call: Call, away: Away) -> None:
        """Nobody passes without the store. It is told as a reduced capacity: it is not the caller's quota."""
        with self.state.lock:
            self.state.count_refusal(self.settings)
        if self.settings.shadow:
            call.decision = Decision.WOULD_REJECT
            return
        raise RateLimited(
            policy=self.name,
            reason="cut",
            retry_after_s=max(1, away.retry_after_us) / US_PER_S,
            rate_per_s=self.state.clock_of(self.settings, call.now_us).rate_per_s,
            status=self.settings.status,
        )

    def _refuse_by_share(self, call: Call, question: Take, wait_us: int) -> _Token:
        state = self.shared
        with state.lock:
            state.count_refusal(self.settings)
        if self.settings.shadow:
            call.decision = Decision.WOULD_REJECT
            return BY_SHARE
        call.held.append((self, BY_SHARE))
        share, now_us = state.share, call.now_us
        told = None
        if self.settings.fields != "never":
            told = partial(share.quota, self.name, question.key, question.least, now_us, share.tokens)
        raise RateLimited(
            policy=self.name,
            reason="cut",
            retry_after_s=None if wait_us == NEVER_US else wait_us / US_PER_S,
            quota=told,
            rate_per_s=share.tokens.rate_per_s,
            status=self.settings.status,
        )

    # --- telling -----------------------------------------------------------------------------------------------------------

    def _told(self, answer: Decided, cost: int, tokens: TokenClock) -> Quota:
        """What is left, as the store has told it. `tokens` is the clock that the call goes by, with its limit and window."""
        pace = self.shared.pace()
        health = self.state.health
        now_us = self.clock.now_us() + self.shared.buckets.offset_us
        numerator, capacity = pace.at(0 if health is None else pace.step_at(now_us))
        missing = min(cost * UNIT, capacity) - answer.units
        if missing <= 0:  # enough for this call: the next whole token, unless the bucket is full
            missing = UNIT - answer.units % UNIT if answer.units < capacity else 0
        limit = tokens.capacity // TOKEN
        return Quota(
            self.name,
            limit=limit,
            window_s=max(1, -(-tokens.wait_us(tokens.capacity) // US_PER_S)),
            remaining=max(0, min(limit, answer.units // UNIT)),
            available_in_s=missing * pace.denominator / numerator / US_PER_S,
        )

    def _quota(self, call: Call, tokens: TokenClock) -> Quota:
        """By what the store or the share said of the call; else what a full bucket has."""
        state = self.shared
        found = next((token for layer, token in call.held if layer is self and token is not None), None)
        if found is None and self.key_of is None:
            found = state.last
        if isinstance(found, ByShare):
            state.share_settings(call.now_us)
            return state.share.quota(self.name, self._key_for(call), 1, call.now_us, state.share.tokens)
        if found is None:
            pace = state.pace()
            found = Decided(0, 0, pace.at(pace.step_at(self.clock.now_us() + state.buckets.offset_us))[1], False)
        return self._told(found, 1, tokens)

    def attributes(self, call: Call) -> Mapping[str, Any]:
        tokens = self.state.clock_of(self.settings, call.now_us)
        return attributes_of(tokens, self._quota(call, tokens).remaining)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        super().renew_locks()
        self.shared.share.renew_lock()

    def status(self) -> Mapping[str, Any]:
        state = self.shared
        told = dict(super().status())
        del told["keys"], told["shared_the_overflow_bucket"]
        return {
            **told,
            "store": state.buckets.status(),
            "on_store_error": state.on_store_error,
            "decided_without_store": state.without_store,
            "share_per_s": state.share_settings(self.clock.now_us()).rate_per_s,
        }


def _check_name(name: object) -> None:
    """Without one, there would be no telling which limit of the store it is."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"SharedRateLimiter.name: must be text, got {name!r}")
