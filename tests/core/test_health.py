"""The health signal: one cut an incident, and a recovery by whole steps of elapsed time."""

from __future__ import annotations

import pytest

from resilience import CircuitBreaker, HealthSignal, Pipeline, RateLimiter
from resilience.health import HealthSettings, Hold
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Drive, attempt, fail, no_jitter, succeed, vectors

MINUTE_S = 60.0


class Service:
    """A limiter of 100/s and one breaker that opens at the first failure, probes after 30 s, and closes at one success."""

    def __init__(self, clock: ManualClock, drive: Drive, floor: float | None = None) -> None:
        self.clock = clock
        self.health = HealthSignal(floor=floor, clock=clock)
        self.limiter = RateLimiter(100.0, burst=200, health=self.health, clock=clock)
        self._drive = drive
        self._pipeline = Pipeline("service", self.breaker("first"))

    def breaker(self, name: str) -> CircuitBreaker:
        """One more breaker on the same signal."""
        return CircuitBreaker(consecutive_failures=1, probes=1, health=self.health, name=name, clock=self.clock, uniform=no_jitter)

    def trip(self) -> None:
        """The breaker opens."""
        assert attempt(self._pipeline, fail, self._drive) == "failed"

    def recover(self) -> None:
        """Its open time passes, and a probe succeeds."""
        self.clock.advance(30.0)
        assert attempt(self._pipeline, succeed, self._drive) == "ok"

    def fail_probe(self) -> None:
        """Its open time passes, and a probe fails."""
        self.clock.advance(30.0)
        assert attempt(self._pipeline, fail, self._drive) == "failed"


def test_the_rate_climbs_by_five_a_minute(clock: ManualClock, drive: Drive) -> None:
    service = Service(clock, drive)
    assert service.limiter.rate_per_s == 100
    service.trip()
    assert service.limiter.rate_per_s == 30
    service.recover()
    rates = []
    for _ in range(16):
        rates.append(service.limiter.rate_per_s)
        clock.advance(MINUTE_S)
    assert rates == [30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, 100]


@pytest.mark.parametrize("minute", range(16))
def test_one_jump_finds_every_step(clock: ManualClock, drive: Drive, minute: int) -> None:
    service = Service(clock, drive)
    service.trip()
    service.recover()
    clock.advance(minute * MINUTE_S)
    assert service.limiter.rate_per_s == min(100, 30 + 5 * minute)
    assert service.health.factor == vectors("health_recovery")["factor_after_minute"][minute]


def test_a_step_is_given_only_when_it_is_full(clock: ManualClock, drive: Drive) -> None:
    service = Service(clock, drive)
    service.trip()
    service.recover()
    clock.advance(59.999_999)
    assert service.limiter.rate_per_s == 30
    clock.advance(0.000_001)
    assert service.limiter.rate_per_s == 35


@pytest.mark.parametrize(("floor", "rate_per_s"), [(None, 30), (0.05, 15), (0.4, 40), (0.9, 50)])
def test_a_trip_half_way_up(clock: ManualClock, drive: Drive, floor: float | None, rate_per_s: float) -> None:
    service = Service(clock, drive, floor=0.3 if floor == 0.9 else floor)
    service.trip()
    service.recover()
    clock.advance((50 - round(service.limiter.rate_per_s)) / 5 * MINUTE_S)
    assert service.limiter.rate_per_s == 50
    if floor == 0.9:  # raised since: a cut never lifts the factor
        service.health.configure(HealthSettings(floor=0.9))
    service.trip()
    assert service.limiter.rate_per_s == rate_per_s
    assert service.health.incidents == 2


def test_two_breakers_opening_in_one_incident_cut_once(clock: ManualClock, drive: Drive) -> None:
    service = Service(clock, drive, floor=0.01)
    second = Pipeline("second", service.breaker("second"))
    service.trip()
    clock.advance(5.0)
    attempt(second, fail, drive)
    assert service.limiter.rate_per_s == 30
    assert service.health.incidents == 1
    service.recover()  # at 35 s; the second opened at 5 s and has no probe yet
    clock.advance(10 * MINUTE_S)
    attempt(second, succeed, drive)
    assert (service.limiter.rate_per_s, service.health.incidents) == (75, 1), "the second let go at 95 s, nine minutes ago"


def test_recovery_waits_for_the_last_breaker(clock: ManualClock, drive: Drive) -> None:
    service = Service(clock, drive)
    second = Pipeline("second", service.breaker("second"))
    service.trip()
    attempt(second, fail, drive)
    service.recover()
    clock.advance(50.0)
    assert service.limiter.rate_per_s == 30
    attempt(second, succeed, drive)
    clock.advance(59.0)
    assert service.limiter.rate_per_s == 30
    clock.advance(1.0)
    assert service.limiter.rate_per_s == 35


def test_a_failed_probe_does_not_cut_again(clock: ManualClock, drive: Drive) -> None:
    service = Service(clock, drive, floor=0.01)
    service.trip()
    for _ in range(10):
        service.fail_probe()
        assert service.limiter.rate_per_s == 30
    assert service.health.incidents == 1
    service.recover()
    clock.advance(MINUTE_S)
    assert service.limiter.rate_per_s == 35


def test_each_move_of_the_factor_is_told_once(clock: ManualClock) -> None:
    health = HealthSignal(name="shop", clock=clock)
    hold = Hold()
    with RecordingObserver() as observer:
        told = health.opened(hold, clock.now_us(), clock.now_us())
        assert [(event.old_factor, event.factor, event.reason) for event in told] == [(1.0, 0.3, "incident")]  # type: ignore[union-attr]
        assert health.opened(hold, clock.now_us(), clock.now_us()) == []
        health.closed(hold, clock.now_us())
        for _ in range(3):
            clock.advance(MINUTE_S)
            assert health.factor == health.factor
    assert [(event.signal, event.old_factor, event.factor, event.reason) for event in observer.events] == [  # type: ignore[union-attr]
        ("shop", 0.3, 0.35, "recovery"),
        ("shop", 0.35, 0.4, "recovery"),
        ("shop", 0.4, 0.45, "recovery"),
    ]


def test_a_thread_that_is_late_tells_no_fall_of_the_factor(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    holds = [Hold(), Hold()]
    opened_us = clock.now_us()
    health.opened(holds[0], opened_us, opened_us)
    health.closed(holds[0], opened_us)
    clock.advance(MINUTE_S)
    assert health.factor == 0.35
    assert health.closed(holds[1], clock.now_us() - 1) == []
    assert health.factor == 0.35


def test_a_factor_of_many_steps_does_not_drift(clock: ManualClock) -> None:
    health = HealthSignal(cut=0.99, recover=0.001, every_s=0.001, clock=clock)
    hold = Hold()
    health.opened(hold, clock.now_us(), clock.now_us())
    health.closed(hold, clock.now_us())
    for step in range(1, 991):
        clock.advance(0.001)
        assert health.factor == (10 + step) / 1000
    clock.advance(86_400.0)
    assert health.factor == 1.0


def test_reading_never_blocks_on_what_is_not_due(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    with health._lock:
        assert health.factor == 1.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cut": 1.0}, "HealthSettings.cut: must be between 0 % and 99 %, got 100 %"),
        ({"cut": -0.1}, "HealthSettings.cut"),
        ({"recover": 0.0}, "HealthSettings.recover"),
        ({"every_s": 0.0}, "HealthSettings.every_s"),
        ({"floor": 0.0}, "HealthSettings.floor"),
        ({"floor": float("nan")}, "HealthSettings.floor: must be finite, got nan"),
        ({"cut": True}, "HealthSettings.cut: must be a share such as 70% or 0.7, got True"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        HealthSignal(**settings)  # type: ignore[arg-type]


def test_status_says_what_an_operator_asks(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    health.opened(Hold(), clock.now_us(), clock.now_us())
    assert health.status() == {"factor": 0.3, "in_incident": True, "incidents": 1}
    clock.advance(MINUTE_S)
    assert health.status() == {"factor": 0.3, "in_incident": False, "incidents": 1}
    assert repr(health) == "HealthSignal('default', factor=0.3)"
