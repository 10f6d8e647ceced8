"""The limiter against naive buckets of whole numbers that are filled every tenth of a second.

Takes, queues and waiters that leave; cuts, lapses and recoveries of two signals; new settings, calls that come late under the old
ones, and moves between the signals. A second machine sets the clock back as well, and holds the limiter to its bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from resilience import Call, HealthSignal, RateLimiter
from resilience.health import NEVER_US, PPB, HealthSettings, Hold
from resilience.layers.limiter import RateLimiterSettings
from resilience.testing import ManualClock
from tests.soak.sizes import MACHINE, SIDE_MACHINE

pytestmark = [pytest.mark.soak, pytest.mark.slow]

TICK_US: Final = 100_000
TICKS_PER_S: Final = 10
UNITS: Final = 2 * TICKS_PER_S * PPB
"""Units in one token of the naive buckets: half a token a second, at any factor, is a whole number of them a tick."""
KEYS: Final = ("alice", "bob", "carol")
SIGNALS: Final = ("one", "other")
Judge = Callable[[str, int, int, int], None]
"""Of the key, the cost, the patience in microseconds and the wait that a take was told."""


class NaiveBuckets:
    """Levels in whole units. The factor is told before each tick."""

    def __init__(self, halves_per_s: int, burst: int) -> None:
        self.halves_per_s, self.burst = halves_per_s, burst
        self.factor_ppb = PPB
        self.fullest = burst * UNITS  # the level of a bucket that nobody has touched
        self.levels: dict[str, int] = defaultdict(lambda: self.fullest)
        self.issued = 0

    @property
    def capacity(self) -> int:
        return max(UNITS, self.burst * self.factor_ppb * (UNITS // PPB))

    @property
    def pace_per_tick(self) -> int:
        return self.halves_per_s * self.factor_ppb

    def tick(self) -> None:
        capacity, more = self.capacity, self.pace_per_tick
        self.issued += more
        self.fullest = min(capacity, self.fullest + more)
        for key, level in self.levels.items():
            self.levels[key] = min(capacity, level + more)

    def change(self, *, factor_ppb: int | None = None, halves_per_s: int | None = None, burst: int | None = None) -> None:
        """What exceeds the new capacity is gone; nothing comes."""
        self.factor_ppb = self.factor_ppb if factor_ppb is None else factor_ppb
        self.halves_per_s = self.halves_per_s if halves_per_s is None else halves_per_s
        self.burst = self.burst if burst is None else burst
        capacity = self.capacity
        self.fullest = min(capacity, self.fullest)
        for key, level in self.levels.items():
            self.levels[key] = min(capacity, level)

    def take(self, key: str, cost: int, patience_us: int) -> int:
        if cost * UNITS > self.capacity:
            return NEVER_US
        missing = cost * UNITS - self.levels[key]
        wait_us = 0 if missing <= 0 else -(-missing * TICK_US // self.pace_per_tick)
        if wait_us <= patience_us:
            self.levels[key] -= cost * UNITS
        return wait_us

    def due(self, key: str) -> int:
        """How much will have been issued when the level of `key` is back at zero."""
        return self.issued - self.levels[key]

    def give_back(self, key: str, cost: int, due: int) -> None:
        if self.issued < due:
            self.levels[key] = min(self.fullest, self.levels[key] + cost * UNITS)


class TwinSignals:
    """A signal that is read only when its limiter is used, and a twin that is read at every tick, for the model."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.signal, self.twin = (HealthSignal(every_s=1.0, clock=clock) for _ in range(2))
        self._holds = [(self.signal, Hold()), (self.twin, Hold())]

    @property
    def factor_ppb(self) -> int:
        return self.twin.factor_ppb_at(self.clock.now_us())

    def opened(self, open_for_us: int | None) -> None:
        now_us = self.clock.now_us()
        for signal, hold in self._holds:
            signal.opened(hold, now_us, None if open_for_us is None else now_us + open_for_us)

    def closed(self) -> None:
        for signal, hold in self._holds:
            signal.closed(hold, self.clock.now_us())

    def reached(self) -> None:
        for signal, hold in self._holds:
            signal.reached(hold, self.clock.now_us())

    def configure(self, settings: HealthSettings) -> None:
        for signal, _ in self._holds:
            signal.configure(settings, self.clock.now_us())


class LimiterMachine(RuleBasedStateMachine):
    """Every rule but the judgement on what a take was told."""

    max_keys = 100_000

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.signals = {name: TwinSignals(self.clock) for name in SIGNALS}
        self.follows: str | None = "one"
        self.limiter, self.by_ones = (
            RateLimiter(
                10.0,
                burst=20,
                key="client_address",
                max_keys=self.max_keys,
                health=self.signals["one"].signal,
                clock=self.clock,
            )
            for _ in range(2)
        )  # the second takes one token at a time whatever the first has taken at once
        self.earlier: list[RateLimiterSettings] = []
        self.model = NaiveBuckets(20, 20)
        self.waiting: list[tuple[str, int, int, int, int]] = []  # key, cost, due: by the limiter, by ones, by the model
        self.admitted: dict[str, list[tuple[int, int, int]]] = defaultdict(list)  # issued, capacity, cost

    @property
    def factor_ppb(self) -> int:
        return PPB if self.follows is None else self.signals[self.follows].factor_ppb

    def remaining(self, limiter: RateLimiter, key: str) -> int:
        return limiter.quota(Call(key=key, now_us=self.clock.now_us())).remaining

    def change(self, apply: Callable[[], None], watched: bool) -> None:
        """Nothing that changes, save time, refills a bucket."""
        before = [self.remaining(self.limiter, key) for key in KEYS] if watched else []
        apply()
        self.model.change(factor_ppb=self.factor_ppb)
        if watched:
            after = [self.remaining(self.limiter, key) for key in KEYS]
            assert all(now <= was for was, now in zip(before, after, strict=True)), (before, after)

    def judge(self, key: str, cost: int, patience_us: int, wait_us: int) -> None:
        """Say whether what a take was told is right, and let the model follow."""
        raise NotImplementedError

    def judge_late(self, key: str, cost: int, patience_us: int, wait_us: int) -> None:
        """The same for a take under settings that are no longer in force: it was let in, or queued."""
        raise NotImplementedError

    def judge_ones(self, wait_us: int, ones_us: list[int]) -> None:
        """Say whether as many tokens, taken one at a time, are there when those taken at once are."""
        raise NotImplementedError

    def hold_the_bound(self, key: str, cost: int) -> None:
        """In any window the cost that was let in is at most the capacity at its start and what was issued in it."""
        self.admitted[key].append((self.model.issued, self.model.capacity, cost * UNITS))
        total = 0
        for issued, capacity, units in reversed(self.admitted[key]):
            total += units
            assert total <= capacity + (self.model.issued - issued)

    # --- what callers do ----------------------------------------------------------------------------------------------

    @rule(ticks=strategies.one_of(strategies.integers(1, 15), strategies.integers(1, 200)))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.clock.advance(TICK_US / 1e6)
            self.model.tick()
            self.model.change(factor_ppb=self.factor_ppb)

    @rule(key=strategies.sampled_from(KEYS), cost=strategies.integers(0, 30), patience_s=strategies.sampled_from([0, 0, 0, 2, 20]))
    def take(self, key: str, cost: int, patience_s: int) -> None:
        self.reserve(self.limiter.settings, self.judge, key, cost, patience_s * 1_000_000)

    @rule(key=strategies.sampled_from(KEYS), cost=strategies.integers(0, 30))
    def take_at_once(self, key: str, cost: int) -> None:
        self.take_now(self.limiter.settings, self.judge, key, cost)

    @precondition(lambda self: self.earlier)
    @rule(
        data=strategies.data(),
        key=strategies.sampled_from(KEYS),
        cost=strategies.integers(0, 30),
        patience_s=strategies.sampled_from([None, None, 0, 2]),
    )
    def a_late_call_takes(self, data: strategies.DataObject, key: str, cost: int, patience_s: int | None) -> None:
        """One that found its pipeline before the settings changed. What it is told of its bucket is in order."""
        settings = data.draw(strategies.sampled_from(self.earlier[::-1]))
        late = RateLimiter.over(self.limiter.state, settings, name="late", clock=self.clock)
        quota = late.quota(Call(key=key, now_us=self.clock.now_us()))
        assert min(quota.limit, quota.window_s) >= 1
        assert min(quota.remaining, quota.available_in_s) >= 0
        if patience_s is None:
            self.take_now(settings, self.judge_late, key, cost)
        else:
            self.reserve(settings, self.judge_late, key, cost, patience_s * 1_000_000)

    def reserve(self, settings: RateLimiterSettings, judge: Judge, key: str, cost: int, patience_us: int) -> None:
        now_us = self.clock.now_us()
        wait_us, due = self.limiter.state.reserve(key, cost, now_us, patience_us, settings)
        judge(key, cost, patience_us, wait_us)
        if wait_us > patience_us:
            return
        ones = [self.by_ones.state.reserve(key, 1, now_us, patience_us, settings) for _ in range(cost)]
        self.judge_ones(wait_us, [one_us for one_us, _ in ones])
        if wait_us == 0:
            self.hold_the_bound(key, cost)
        else:
            self.waiting.append((key, cost, due, ones[-1][1] if ones else due, self.model.due(key)))

    def take_now(self, settings: RateLimiterSettings, judge: Judge, key: str, cost: int) -> None:
        now_us = self.clock.now_us()
        wait_us = self.limiter.state.take(key, cost, now_us, settings)
        judge(key, cost, 0, wait_us)
        if wait_us == 0:
            self.hold_the_bound(key, cost)
            self.judge_ones(0, [self.by_ones.state.take(key, 1, now_us, settings) for _ in range(cost)])

    @precondition(lambda self: self.waiting)
    @rule(data=strategies.data())
    def a_waiter_goes(self, data: strategies.DataObject) -> None:
        key, cost, due, due_by_ones, due_by_model = self.waiting.pop(data.draw(strategies.integers(0, len(self.waiting) - 1)))
        self.limiter.state.give_back(key, cost, due, self.clock.now_us())
        self.model.give_back(key, cost, due_by_model)
        for _ in range(cost):
            self.by_ones.state.give_back(key, 1, due_by_ones, self.clock.now_us())

    # --- what breakers and operators do -------------------------------------------------------------------------------

    @rule(name=strategies.sampled_from(SIGNALS), open_for_ticks=strategies.one_of(strategies.none(), strategies.integers(0, 60)))
    def a_breaker_opens(self, name: str, open_for_ticks: int | None) -> None:
        """None: it is forced open. Else the signal lets go of it by itself unless it is reached."""
        self.signals[name].opened(None if open_for_ticks is None else open_for_ticks * TICK_US)
        self.model.change(factor_ppb=self.factor_ppb)

    @rule(name=strategies.sampled_from(SIGNALS))
    def a_breaker_is_reached(self, name: str) -> None:
        self.signals[name].reached()

    @rule(name=strategies.sampled_from(SIGNALS), watched=strategies.booleans())
    def a_breaker_closes(self, name: str, watched: bool) -> None:
        self.change(self.signals[name].closed, watched)

    @rule(
        halves_per_s=strategies.sampled_from([2, 5, 20, 14]),
        burst=strategies.integers(1, 30),
        watched=strategies.booleans(),
    )
    def is_configured(self, halves_per_s: int, burst: int, watched: bool) -> None:
        def apply() -> None:
            changed = replace(self.limiter.settings, rate_per_s=halves_per_s / 2, burst=burst)
            self.earlier.append(self.limiter.settings)
            self.limiter, self.by_ones = (self.reloaded(limiter, changed) for limiter in (self.limiter, self.by_ones))
            self.model.change(halves_per_s=halves_per_s, burst=burst)

        self.change(apply, watched)

    def reloaded(self, limiter: RateLimiter, settings: RateLimiterSettings) -> RateLimiter:
        limiter.state.configure(settings, self.clock.now_us())
        return RateLimiter.over(limiter.state, settings, name=limiter.name, clock=self.clock)

    @rule(
        name=strategies.sampled_from(SIGNALS),
        cut=strategies.sampled_from([0.0, 0.25, 0.7, 0.9]),
        recover=strategies.integers(1, 40),
        every_s=strategies.sampled_from([1.0, 2.0, 0.5]),
        watched=strategies.booleans(),
    )
    def health_is_configured(self, name: str, cut: float, recover: int, every_s: float, watched: bool) -> None:
        settings = HealthSettings(cut=cut, recover=recover / 100, every_s=every_s)
        self.change(lambda: self.signals[name].configure(settings), watched)

    @rule(name=strategies.one_of(strategies.none(), strategies.sampled_from(SIGNALS)), watched=strategies.booleans())
    def moves_to_another_signal(self, name: str | None, watched: bool) -> None:
        def apply() -> None:
            self.follows = name
            for limiter in (self.limiter, self.by_ones):
                limiter.state.move_to(None if name is None else self.signals[name].signal, self.clock.now_us())

        self.change(apply, watched)


class LimiterAgainstModel(LimiterMachine):
    """Time runs forward, and everything is as the model says, to the microsecond."""

    def judge(self, key: str, cost: int, patience_us: int, wait_us: int) -> None:
        assert wait_us == self.model.take(key, cost, patience_us)

    def judge_late(self, key: str, cost: int, patience_us: int, wait_us: int) -> None:
        """It is let in only where a call of now would be, and queued behind those of now."""
        if wait_us <= patience_us:
            assert wait_us == max(self.model.take(key, cost, patience_us), min(wait_us, 1))

    def judge_ones(self, wait_us: int, ones_us: list[int]) -> None:
        assert max(ones_us, default=wait_us) == wait_us

    @rule(key=strategies.sampled_from(KEYS))
    def is_read(self, key: str) -> None:
        quota = self.limiter.quota(Call(key=key, now_us=self.clock.now_us()))
        assert quota.remaining == max(0, self.model.levels[key] // UNITS)
        assert quota.limit == self.model.capacity // UNITS
        assert self.remaining(self.by_ones, key) == quota.remaining


class LimiterWhenTimeGoesBack(LimiterMachine):
    """The clock is set back now and then, and there are more keys than places. The bound holds over the time that went forward."""

    max_keys = 2

    def __init__(self) -> None:
        super().__init__()
        self.seen_ppb: dict[tuple[str, int], int] = defaultdict(int)

    @rule(ticks=strategies.one_of(strategies.integers(1, 5), strategies.integers(1, 300)))
    def the_clock_is_set_back(self, ticks: int) -> None:
        self.clock.step_back(ticks * TICK_US / 1e6)

    @property
    def factor_ppb(self) -> int:
        """A factor seen once is not unseen before the next cut or recovery begins."""
        if self.follows is None:
            return PPB
        factor_ppb = super().factor_ppb
        phase = (self.follows, self.signals[self.follows].twin.phase.number)
        self.seen_ppb[phase] = max(factor_ppb, self.seen_ppb[phase])
        return self.seen_ppb[phase]

    def change(self, apply: Callable[[], None], watched: bool) -> None:
        """What was issued before the clock was set back may be read only when something changes: it is no refill."""
        super().change(apply, watched=False)

    def judge(self, key: str, cost: int, patience_us: int, wait_us: int) -> None:
        assert wait_us >= 0
        assert len(self.limiter.state.table) <= self.max_keys

    judge_late = judge

    def judge_ones(self, wait_us: int, ones_us: list[int]) -> None:
        """One that was not looked at while the clock was ahead has not been issued as much."""
        assert min(ones_us, default=0) >= 0


TestLimiterAgainstModel = LimiterAgainstModel.TestCase
TestLimiterAgainstModel.settings = MACHINE
TestLimiterWhenTimeGoesBack = LimiterWhenTimeGoesBack.TestCase
TestLimiterWhenTimeGoesBack.settings = SIDE_MACHINE
