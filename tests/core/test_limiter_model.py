"""The limiter against naive buckets that are filled every tenth of a second, through cuts, recoveries and new settings."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from resilience import Call, HealthSignal, RateLimiter
from resilience.health import NEVER_US, HealthSettings, Hold
from resilience.testing import ManualClock

TICK_S = Fraction(1, 10)
KEYS = ("alice", "bob", "carol")


class NaiveBuckets:
    """Levels in exact fractions. The factor is told before each tick."""

    def __init__(self, rate_per_s: Fraction, burst: int) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self.factor = Fraction(1)
        self.fullest = Fraction(burst)  # the level of a bucket that nobody has touched
        self.levels: dict[str, Fraction] = defaultdict(lambda: self.fullest)
        self.issued = Fraction(0)

    @property
    def capacity(self) -> Fraction:
        return max(Fraction(1), self.burst * self.factor)

    @property
    def pace_per_s(self) -> Fraction:
        return self.rate_per_s * self.factor

    def tick(self) -> None:
        more = self.pace_per_s * TICK_S
        self.issued += more
        self.fullest = min(self.capacity, self.fullest + more)
        for key in self.levels:
            self.levels[key] = min(self.capacity, self.levels[key] + more)

    def change(self, *, factor: Fraction | None = None, rate_per_s: Fraction | None = None, burst: int | None = None) -> None:
        self.factor = self.factor if factor is None else factor
        self.rate_per_s = self.rate_per_s if rate_per_s is None else rate_per_s
        self.burst = self.burst if burst is None else burst
        self.fullest = min(self.capacity, self.fullest)
        for key in self.levels:
            self.levels[key] = min(self.capacity, self.levels[key])

    def take(self, key: str, cost: int, patience_us: int) -> int:
        if cost > self.capacity:
            return NEVER_US
        missing = cost - self.levels[key]
        wait_us = 0 if missing <= 0 else math.ceil(missing / self.pace_per_s * 1_000_000)
        if wait_us <= patience_us:
            self.levels[key] -= cost
        return wait_us

    def give_back(self, key: str, cost: int) -> None:
        self.levels[key] = min(self.fullest, self.levels[key] + cost)


class LimiterAgainstModel(RuleBasedStateMachine):
    """The limiter reads its signal only when it is used; a twin of the signal is read at every tick, for the model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.signal, self.twin = (HealthSignal(every_s=1.0, clock=self.clock) for _ in range(2))
        self.hold, self.twin_hold = Hold(), Hold()
        self.is_cut = False
        self.limiter = RateLimiter(10.0, burst=20, key=lambda call: None, health=self.signal, clock=self.clock)
        self.model = NaiveBuckets(Fraction(10), 20)
        self.waiting: list[tuple[str, int]] = []
        self.history: dict[str, list[tuple[Fraction, Fraction, int]]] = defaultdict(list)  # issued, capacity, cost

    def follow_factor(self) -> None:
        self.model.change(factor=Fraction(self.twin.factor_ppb_at(self.clock.now_us()), 1_000_000_000))

    @rule(ticks=strategies.one_of(strategies.integers(1, 15), strategies.integers(1, 200)))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.clock.advance(float(TICK_S))
            self.model.tick()
            self.follow_factor()

    @rule(key=strategies.sampled_from(KEYS), cost=strategies.integers(0, 30), patience_s=strategies.sampled_from([0, 0, 0, 2, 20]))
    def take(self, key: str, cost: int, patience_s: int) -> None:
        wait_us = self.limiter.state.take(key, cost, self.clock.now_us(), patience_s * 1_000_000)
        assert wait_us == self.model.take(key, cost, patience_s * 1_000_000)
        if wait_us == 0:
            self.history[key].append((self.model.issued, self.model.capacity, cost))
            self.hold_the_bound(key)
        elif wait_us <= patience_s * 1_000_000:
            self.waiting.append((key, cost))

    def hold_the_bound(self, key: str) -> None:
        """In any window the cost that was let in is at most the capacity at its start and what was issued in it."""
        history = self.history[key]
        total = 0
        for issued, capacity, cost in reversed(history):
            total += cost
            assert total <= capacity + (self.model.issued - issued)

    @precondition(lambda self: self.waiting)
    @rule(data=strategies.data())
    def a_waiter_goes(self, data: strategies.DataObject) -> None:
        key, cost = self.waiting.pop(data.draw(strategies.integers(0, len(self.waiting) - 1)))
        self.limiter.state.give_back(key, cost, self.clock.now_us())
        self.model.give_back(key, cost)

    @rule()
    def cut(self) -> None:
        now_us = self.clock.now_us()
        self.signal.opened(self.hold, now_us, None)
        self.twin.opened(self.twin_hold, now_us, None)
        self.follow_factor()

    @rule()
    def release(self) -> None:
        now_us = self.clock.now_us()
        self.signal.closed(self.hold, now_us)
        self.twin.closed(self.twin_hold, now_us)

    @rule(
        rate_per_s=strategies.sampled_from([Fraction(1), Fraction(5, 2), Fraction(10), Fraction(7)]),
        burst=strategies.integers(1, 30),
    )
    def configure(self, rate_per_s: Fraction, burst: int) -> None:
        changed = replace(self.limiter.settings, rate_per_s=float(rate_per_s), burst=burst)
        self.limiter.state.configure(changed, self.clock.now_us())
        self.model.change(rate_per_s=rate_per_s, burst=burst)

    @rule(recover=strategies.integers(1, 40), every_s=strategies.sampled_from([1.0, 2.0, 0.5]))
    def configure_health(self, recover: int, every_s: float) -> None:
        for signal in (self.signal, self.twin):
            signal.configure(HealthSettings(recover=recover / 100, every_s=every_s), self.clock.now_us())

    @rule(key=strategies.sampled_from(KEYS))
    def look(self, key: str) -> None:
        quota = self.limiter.quota(Call(key=key, now_us=self.clock.now_us()))
        assert quota.remaining == max(0, math.floor(self.model.levels[key]))
        assert quota.limit == math.floor(self.model.capacity)


TestLimiterAgainstModel = LimiterAgainstModel.TestCase
TestLimiterAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
