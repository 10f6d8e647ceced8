"""The health signal against a naive one that is ticked every second, over any sequence of what breakers and operators do."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import HealthSignal, RateLimiter
from resilience.clock import US_PER_S
from resilience.health import HealthSettings, Hold
from resilience.testing import ManualClock
from tests.soak.sizes import MACHINE

pytestmark = [pytest.mark.soak, pytest.mark.slow]

BREAKERS = 4


class NaiveHold:
    """A breaker of the model that is open or half-open."""

    def __init__(self, open_until_s: int | None) -> None:
        self.open_until_s = open_until_s  # None: forced open
        self.reached_s = open_until_s

    def lets_go_at(self, every_s: int) -> int | None:
        return None if self.reached_s is None else self.reached_s + every_s


class NaiveSignal:
    """What §4.1 of the design says, one second after the other."""

    def __init__(self) -> None:
        self.now_s = 0
        self.factor = Fraction(1)
        self.incidents = 0
        self.holds: dict[int, NaiveHold] = {}
        self.recovering_since_s: int | None = None
        self.settings: HealthSettings | None = None
        self.configure(HealthSettings(floor=0.3))

    def tick(self) -> None:
        self.now_s += 1
        self.let_go()
        since_s = self.recovering_since_s
        if since_s is not None and self.now_s > since_s and (self.now_s - since_s) % self.every_s == 0:
            self.factor = min(Fraction(1), self.factor + self.recover)

    def let_go(self) -> None:
        ends = [hold.lets_go_at(self.every_s) for hold in self.holds.values()]
        if ends and all(end is not None and end <= self.now_s for end in ends):
            self.holds.clear()
            self.recovering_since_s = self.now_s

    def opened(self, breaker: int, open_until_s: int | None) -> None:
        if not self.holds:
            self.incidents += 1
            self.factor = min(self.factor, max(self.floor, self.factor * (1 - self.cut)))
        self.recovering_since_s = None
        self.holds[breaker] = NaiveHold(open_until_s)

    def closed(self, breaker: int) -> None:
        if self.holds.pop(breaker, None) is not None:
            if not self.holds:
                self.recovering_since_s = self.now_s
            self.let_go()

    def reached(self, breaker: int) -> None:
        hold = self.holds.get(breaker)
        if hold is None or hold.open_until_s is None or self.now_s < hold.open_until_s:
            return
        end = hold.lets_go_at(self.every_s)
        if end is not None and self.now_s < end:
            hold.reached_s = self.now_s

    def configure(self, new: HealthSettings) -> None:
        if new != self.settings:
            self.settings = new
            self.cut, self.recover = (Fraction(round(share * 100), 100) for share in (new.cut, new.recover))
            self.floor = 1 - self.cut if new.floor is None else Fraction(round(new.floor * 100), 100)
            self.every_s = int(new.every_s)
            if self.recovering_since_s is not None:
                self.recovering_since_s = self.now_s
            self.let_go()


class SignalAgainstModel(RuleBasedStateMachine):
    """Reads the real signal only now and then, so that much of its time passes unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.signal = HealthSignal(floor=0.3, clock=self.clock)
        self.limiter = RateLimiter(100.0, health=self.signal, clock=self.clock)
        self.holds = [Hold() for _ in range(BREAKERS)]
        self.model = NaiveSignal()
        self.start_us = self.clock.now_us()

    @rule(seconds=strategies.one_of(strategies.integers(1, 90), strategies.integers(1, 1_500)))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        for _ in range(seconds):
            self.model.tick()

    @rule(breaker=strategies.integers(0, BREAKERS - 1), open_for_s=strategies.integers(1, 90))
    def opens(self, breaker: int, open_for_s: int) -> None:
        now_us = self.clock.now_us()
        self.signal.opened(self.holds[breaker], now_us, now_us + open_for_s * US_PER_S)
        self.model.opened(breaker, self.model.now_s + open_for_s)

    @rule(breaker=strategies.integers(0, BREAKERS - 1))
    def is_forced_open(self, breaker: int) -> None:
        self.signal.opened(self.holds[breaker], self.clock.now_us(), None)
        self.model.opened(breaker, None)

    @precondition(lambda self: self.model.holds)
    @rule(breaker=strategies.integers(0, BREAKERS - 1))
    def closes(self, breaker: int) -> None:
        self.signal.closed(self.holds[breaker], self.clock.now_us())
        self.model.closed(breaker)

    @rule(breaker=strategies.integers(0, BREAKERS - 1))
    def is_reached(self, breaker: int) -> None:
        self.signal.reached(self.holds[breaker], self.clock.now_us())
        self.model.reached(breaker)

    @rule(
        cut=strategies.integers(1, 99),
        recover=strategies.integers(1, 100),
        floor=strategies.one_of(strategies.none(), strategies.integers(1, 100)),
        every_s=strategies.sampled_from([1, 7, 30, 60]),
    )
    def is_configured(self, cut: int, recover: int, floor: int | None, every_s: int) -> None:
        settings = HealthSettings(cut / 100, recover / 100, float(every_s), None if floor is None else floor / 100)
        self.signal.configure(settings)
        self.model.configure(settings)

    @rule()
    def is_read(self) -> None:
        assert abs(self.signal.factor - self.model.factor) < 1e-8
        assert (self.signal.in_incident, self.signal.incidents) == (bool(self.model.holds), self.model.incidents)
        assert abs(self.limiter.rate_per_s - 100 * self.model.factor) < 1e-6

    @invariant()
    def time_is_the_same(self) -> None:
        assert self.clock.now_us() - self.start_us == self.model.now_s * US_PER_S

    def teardown(self) -> None:
        self.is_read()
        self.time_passes(60)
        self.is_read()


TestSignalAgainstModel = SignalAgainstModel.TestCase
TestSignalAgainstModel.settings = MACHINE
