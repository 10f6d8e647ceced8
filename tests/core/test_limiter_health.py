"""The limiter under the health signal: cuts, recoveries and new settings change its pace and never fill a bucket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilience import Call, HealthSignal, Pipeline, RateLimited, RateLimiter
from resilience.health import HealthSettings, Hold
from resilience.testing import ManualClock
from tests.core.helpers import Drive, succeed
from tests.core.test_limiter import MICROSECOND_S, admitted, take


class Health:
    """A signal with one breaker's hand on it."""

    def __init__(self, clock: ManualClock, **settings: Any) -> None:
        self.clock = clock
        self.signal = HealthSignal(clock=clock, **settings)
        self._hold = Hold()

    def cut(self) -> None:
        self.signal.opened(self._hold, self.clock.now_us(), None)

    def release(self) -> None:
        self.signal.closed(self._hold, self.clock.now_us())


@pytest.fixture
def health(clock: ManualClock) -> Health:
    return Health(clock)


def configure(limiter: RateLimiter, clock: ManualClock, **changes: Any) -> None:
    """Bring the limiter's state under new settings, as a reload does."""
    limiter.state.configure(replace(limiter.settings, **changes), clock.now_us())


@pytest.mark.parametrize("key", [None, "alice"])
def test_a_cut_takes_effect_at_its_instant(clock: ManualClock, health: Health, key: str | None) -> None:
    limiter = RateLimiter(10.0, burst=100, key=(lambda call: None) if key else None, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 100, key) == 100
    clock.advance(5.0)
    health.cut()
    clock.advance(5.0)
    assert admitted(limiter, clock, 200, key) == 30, "50 before the cut and 15 after it, clamped to the cut capacity"
    clock.advance(1.0)
    assert admitted(limiter, clock, 200, key) == 3
    assert limiter.rate_per_s == 3.0


@pytest.mark.parametrize("key", [None, "alice"])
def test_refill_before_the_cut_is_at_the_old_rate(clock: ManualClock, health: Health, key: str | None) -> None:
    limiter = RateLimiter(10.0, burst=100, key=(lambda call: None) if key else None, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 100, key) == 100
    clock.advance(1.5)
    health.cut()
    clock.advance(2.0)
    assert admitted(limiter, clock, 200, key) == 21


def test_a_full_bucket_is_cut_down_and_never_given_back(clock: ManualClock, health: Health) -> None:
    limiter = RateLimiter(1.0, burst=100, health=health.signal, clock=clock)
    health.cut()
    health.release()
    clock.advance(14 * 60.0)
    assert limiter.rate_per_s == 1.0
    assert admitted(limiter, clock, 1_000) == 95, "full at the capacity of minute 13, and the last step adds room, not tokens"


def test_a_cut_that_is_over_at_once_leaves_the_bucket_cut(clock: ManualClock) -> None:
    health = Health(clock, every_s=0.001, recover=1.0)
    limiter = RateLimiter(1.0, burst=100, health=health.signal, clock=clock)
    health.cut()
    health.release()
    clock.advance(0.001)
    assert health.signal.factor == 1.0
    assert admitted(limiter, clock, 1_000) == 30, "what was cut away comes back at the rate, not by recovering"
    clock.advance(10.0)
    assert admitted(limiter, clock, 1_000) == 10


def test_each_step_of_recovery_refills_at_its_own_rate(clock: ManualClock, health: Health) -> None:
    limiter = RateLimiter(1.0, burst=1_000, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 1_000) == 1_000
    health.cut()
    health.release()
    clock.advance(150.0)  # 60 s at 0.30, 60 s at 0.35, 30 s at 0.40
    assert admitted(limiter, clock, 1_000) == 18 + 21 + 12


def test_many_incidents_unseen_are_followed_one_by_one(clock: ManualClock, health: Health) -> None:
    """A bucket nobody touched for long is worth what was issued meanwhile, and never more."""
    seen, unseen = (RateLimiter(0.1, burst=1_000, health=health.signal, clock=clock) for _ in range(2))
    for limiter in (seen, unseen):
        assert admitted(limiter, clock, 1_000) == 1_000
    for _ in range(20):
        health.cut()
        clock.advance(10.0)
        health.release()
        clock.advance(150.0)
        take(seen, clock, 0)
    assert seen.quota(Call(now_us=clock.now_us())).remaining == 20 * 54 // 10, "3 s + 18 s + 21 s + 12 s worth, each time"
    assert seen.quota(Call(now_us=clock.now_us())) == unseen.quota(Call(now_us=clock.now_us()))
    for _ in range(100):  # more than the signal remembers
        health.cut()
        clock.advance(10.0)
        health.release()
        clock.advance(30.0)
        take(seen, clock, 0)
    call = Call(now_us=clock.now_us())
    assert unseen.quota(call).remaining <= seen.quota(call).remaining


def test_over_the_cut_limit_is_told_apart(clock: ManualClock, health: Health, drive: Drive) -> None:
    limiter = RateLimiter(10.0, burst=10, status=503, name="api", health=health.signal, clock=clock)
    pipeline = Pipeline("p", limiter)
    health.cut()
    for _ in range(3):
        drive(pipeline, succeed)
    with pytest.raises(RateLimited) as refused:
        drive(pipeline, succeed)
    error = refused.value
    assert (error.reason, error.status, error.quota and error.quota.limit) == ("cut", 503, 3)
    assert error.retry_after_s == pytest.approx(1 / 3, abs=1e-6)
    assert str(error) == "api: over the reduced limit of 3/s; retry in 0.333 s"


@pytest.mark.parametrize("max_wait_s", [0.0, 3600.0])
def test_a_cost_that_fits_the_burst_but_not_the_cut_capacity(clock: ManualClock, max_wait_s: float) -> None:
    health = Health(clock, every_s=20.0)
    limiter = RateLimiter(100.0, burst=10, max_wait_s=max_wait_s, health=health.signal, clock=clock)
    health.cut()
    refusal = take(limiter, clock, 4)
    assert refusal is not None, "not even with patience: no bucket of 3 ever holds 4"
    assert (refusal.reason, refusal.retry_after_s) == ("cut", 20.0)
    assert take(limiter, clock, 3) is None, "it took nothing"
    assert limiter.decisions()["rejected"] == 1
    hopeless = take(limiter, clock, 11)
    assert hopeless is not None
    assert (hopeless.reason, hopeless.retry_after_s) == ("quota", None), "above the burst, waiting never helps"


def test_the_capacity_is_at_least_one_token(clock: ManualClock, health: Health) -> None:
    limiter = RateLimiter(1.0, burst=2, health=health.signal, clock=clock)
    health.cut()
    assert admitted(limiter, clock, 5) == 1
    clock.advance(3.333_333)
    assert admitted(limiter, clock, 5) == 0
    clock.advance(MICROSECOND_S)
    assert admitted(limiter, clock, 5) == 1


def test_new_settings_refill_nothing(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=10, clock=clock)
    assert admitted(limiter, clock, 10) == 10
    clock.advance(4.0)
    for _ in range(50):
        configure(limiter, clock, burst=1_000, rate_per_s=1.0)
        configure(limiter, clock, burst=10, rate_per_s=1.0)
        configure(limiter, clock, burst=10, rate_per_s=100.0)
        configure(limiter, clock, burst=10, rate_per_s=1.0)
    assert admitted(limiter, clock, 1_000) == 4


def test_a_smaller_burst_clamps_and_a_larger_one_grows_at_the_rate(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=10, key=lambda call: None, clock=clock)
    keys = ("touched", "untouched")
    take(limiter, clock, 1, "touched")
    configure(limiter, clock, burst=5)
    configure(limiter, clock, burst=10)
    clock.advance(2.0)
    assert [limiter.quota(Call(key=key, now_us=clock.now_us())).remaining for key in keys] == [7, 7]
    clock.advance(100.0)
    assert [limiter.quota(Call(key=key, now_us=clock.now_us())).remaining for key in keys] == [10, 10]


def test_a_call_that_began_under_a_larger_burst(clock: ManualClock) -> None:
    """It keeps its settings, but the bucket is what it is now: refused, and with no hint that would never come true."""
    before = RateLimiter(1.0, burst=10, max_wait_s=60.0, clock=clock)
    configure(before, clock, burst=2)
    refusal = take(before, clock, 5)
    assert refusal is not None
    assert refusal.retry_after_s is None


def test_moving_to_another_signal_refills_nothing(clock: ManualClock, health: Health) -> None:
    limiter = RateLimiter(10.0, burst=100, health=health.signal, clock=clock)
    other = HealthSignal(clock=clock)
    assert admitted(limiter, clock, 100) == 100
    health.cut()
    clock.advance(1.0)
    limiter.state.move_to(other, clock.now_us())
    assert limiter.rate_per_s == 10.0
    clock.advance(1.0)
    assert admitted(limiter, clock, 100) == 13
    limiter.state.move_to(health.signal, clock.now_us())
    assert limiter.rate_per_s == 3.0
    limiter.state.move_to(None, clock.now_us())
    assert limiter.rate_per_s == 10.0
    clock.advance(1.0)
    assert admitted(limiter, clock, 100) == 10


def test_new_health_settings_are_followed(clock: ManualClock, health: Health) -> None:
    limiter = RateLimiter(10.0, burst=1_000, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 1_000) == 1_000
    health.cut()
    health.release()
    health.signal.configure(HealthSettings(every_s=1.0, recover=0.1))
    clock.advance(3.0)  # a second each at 3/s, 4/s and 5/s
    assert limiter.rate_per_s == 6.0
    assert admitted(limiter, clock, 1_000) == 12


def test_a_step_that_somebody_else_has_seen_first_counts_from_its_own_instant(clock: ManualClock) -> None:
    """Whoever reads a signal brings it up to now; a limiter on it still has to follow."""
    health = Health(clock, cut=0.5, recover=0.25, every_s=10.0)
    takes, tells = (RateLimiter(1.0, burst=4, health=health.signal, clock=clock) for _ in range(2))
    for limiter in (takes, tells):
        assert admitted(limiter, clock, 5) == 4
    health.cut()
    health.release()
    assert (takes.rate_per_s, tells.rate_per_s) == (0.5, 0.5)
    clock.advance(10.0)
    assert health.signal.factor == 0.75
    assert takes.state.take(None, 3, clock.now_us()) == 1_333_334, "2 are there; the third comes at three quarters of the rate"
    assert tells.quota(Call(now_us=clock.now_us())).limit == 3


def test_a_signal_that_lets_go_sooner_than_it_was_going_to_is_followed_by_a_limiter_that_nobody_reads(clock: ManualClock) -> None:
    health = Health(clock, cut=0.5, recover=0.25, every_s=10.0)
    limiter = RateLimiter(1.0, burst=4, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 5) == 4
    health.cut()
    assert limiter.rate_per_s == 0.5
    health.signal.opened(health._hold, clock.now_us(), clock.now_us() + 1_000_000)  # no longer for ever: no new phase begins
    clock.advance(21.0)
    assert limiter.state.take(None, 3, clock.now_us()) == 1_333_334, "the factor is three quarters since this instant"


@pytest.mark.parametrize("cuts", [1, 200], ids=["seen", "too many to be remembered"])
def test_a_signal_that_was_ahead_when_the_clock_was_set_back_issues_nothing(clock: ManualClock, cuts: int) -> None:
    """It moves at the later instant that it has seen; the limiter, which has not, must not be refilled up to there."""
    health = Health(clock, cut=0.0)
    clock.advance(10.0)
    health.signal.configure(HealthSettings(cut=0.0, every_s=30.0), clock.now_us())
    clock.step_back(10.0)
    limiter = RateLimiter(1.0, burst=10, health=health.signal, clock=clock)
    assert admitted(limiter, clock, 20) == 10
    for _ in range(cuts):
        health.cut()
        health.release()
    assert admitted(limiter, clock, 20) == 0
    clock.advance(3.0)
    assert admitted(limiter, clock, 20) == 3, "what came since"
