"""The state of a limit whose buckets live in a store: what is asked of it, and the local share that decides while it is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from resilience.health import HealthSignal
from resilience.layers.limiter.questions import Buckets, Take
from resilience.layers.limiter.settings import MIN_RATE_PER_S, RateLimiterSettings
from resilience.layers.limiter.shared_bucket import UNIT, Decided, Pace, epoch_of, pace_of
from resilience.layers.limiter.state import LimiterState
from resilience.layers.limiter.tokens import TOKEN

OnStoreError = Literal["local", "open", "closed"]
"""What a limit does while its store is away: go by a local share of it, let all through, or refuse all."""
_CLOCK_WAS_SET_US: Final = 1_000_000
"""A store's clock that is so far from where it was has been set, or is heard of for the first time; by less, it is not known."""


class ByShare:
    """What became of a question that the local share has decided, in the place of an answer of the store."""


BY_SHARE: Final = ByShare()


class SharedLimiterState(LimiterState):
    """Like a local one it has settings, signal, token clock and counts; its own table stays empty.

    share: the buckets of this process for the time without the store. They are kept, not refilled, from one such time to the next.
    has_fleet_health: whether all who ask about its buckets hear of health from one board, so that their epochs can be compared.
    last: what became of the last question.
    """

    def __init__(
        self,
        name: str,
        settings: RateLimiterSettings,
        health: HealthSignal | None,
        now_us: int,
        buckets: Buckets,
        on_store_error: OnStoreError = "local",
        *,
        has_fleet_health: bool = True,
    ) -> None:
        super().__init__(settings, health, now_us)
        self.name = name
        self.buckets = buckets
        self.on_store_error = on_store_error
        self.has_fleet_health = has_fleet_health
        self._shared_for = settings, buckets.workers
        self.share = LimiterState(_share_of(*self._shared_for), health, now_us)
        self.without_store = 0
        self.last: Decided | ByShare | None = None
        self._pace: Pace | None = None
        self._paced_for: tuple[object, ...] = ()
        self._paced_offset_us = 0
        buckets.prepare(name, _most_keys(settings))

    def question(self, key: str | None, cost: int, now_us: int, patience_us: int = 0, timeout_us: int = 1 << 62) -> Take:
        """What the store is asked about a call."""
        tokens, health = self.tokens, self.health
        if health is not None and (
            now_us >= tokens.until_us or now_us >= health.stretch.until_us or health.phase is not tokens.phase
        ):
            self.sync(now_us)
        fresh_units = tokens.capacity
        if tokens.floor != -fresh_units:  # since the capacity last changed, a full bucket may hold less
            reading = tokens.read(now_us)
            fresh_units = reading - tokens.full(reading)
        return Take(self.name, key, self.pace(), fresh_units * UNIT // TOKEN, cost, patience_us, timeout_us)

    def pace(self) -> Pace:
        """What the limit allows in this phase of its signal.

        The settings in force decide, also about a call that began under those before: there is one bucket for all processes, which
        take over new settings one after the other. What such a call costs, how long it would wait and what it is told are its own.
        """
        health, settings = self.health, self.settings
        phase = None if health is None else health.phase
        epoch = health.epoch if health is not None and self.has_fleet_health else 0
        before, offset_us = self._paced_for, self.buckets.offset_us
        is_same_view = self._pace is not None and before[0] is settings and before[1] is phase and before[2] == epoch
        if self._pace is None or not is_same_view or abs(offset_us - self._paced_offset_us) >= _CLOCK_WAS_SET_US:
            start_us = 0 if phase is None else max(0, phase.start_us + offset_us)
            told = 0 if health is None else epoch_of(health.name, epoch)
            self._pace = pace_of(settings.exact_rate_per_s, settings.capacity, told, phase, start_us)
            self._paced_for = (settings, phase, epoch)
            self._paced_offset_us = offset_us
        return self._pace

    def share_settings(self, now_us: int) -> RateLimiterSettings:
        """The settings of the local share now; the share follows the limit and the number of workers."""
        settings, workers = self.settings, self.buckets.workers
        if self._shared_for[0] is not settings or self._shared_for[1] != workers:
            self.share.configure(_share_of(settings, workers), now_us)
            self._shared_for = settings, workers
        return self.share.settings

    def configure(self, settings: RateLimiterSettings, now_us: int) -> None:
        if _most_keys(settings) != _most_keys(self.settings):
            self.buckets.prepare(self.name, _most_keys(settings))
        super().configure(settings, now_us)

    def move_to(self, health: HealthSignal | None, now_us: int) -> None:
        super().move_to(health, now_us)
        self.share.move_to(health, now_us)


def _most_keys(settings: RateLimiterSettings) -> int | None:
    return None if settings.key is None else settings.max_keys


def _share_of(settings: RateLimiterSettings, workers: int) -> RateLimiterSettings:
    """A worker's part of a limit. Its bucket holds one call at least: a cost that fits the limit fits the share."""
    workers = max(1, workers)
    burst = max(1, settings.capacity // workers, min(settings.cost, settings.capacity))
    return replace(settings, rate_per_s=max(MIN_RATE_PER_S, settings.rate_per_s / workers), burst=burst)
