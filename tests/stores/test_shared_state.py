"""What a limiter asks: the pace of its limit in the phase of its signal, by the store's clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilience import HealthSignal
from resilience.health import Hold
from resilience.layers.limiter import RateLimiterSettings, SharedLimiterState
from resilience.layers.limiter.shared_bucket import CHANGES, EXACT, UNIT, Pace, epoch_of
from resilience.testing import ManualClock

SETTINGS = RateLimiterSettings(rate_per_s=100.0, burst=80)


class Buckets:
    """As much of a store as a question needs."""

    kind = "test"
    needs_io = False
    workers = 8
    offset_us = 0

    def prepare(self, limit: str, max_keys: int | None) -> None:
        """Nothing to make ready."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def state_of(clock: ManualClock, health: HealthSignal | None = None, **settings: Any) -> SharedLimiterState:
    return SharedLimiterState("api", replace(SETTINGS, **settings), health, clock.now_us(), Buckets())  # type: ignore[arg-type]


def test_a_steady_pace_is_made_once(clock: ManualClock) -> None:
    state = state_of(clock, HealthSignal(clock=clock))
    first = state.question("a", 3, clock.now_us(), 7, 9)
    assert (first.limit, first.key, first.least, first.most, first.patience_us, first.timeout_us) == ("api", "a", 3, 3, 7, 9)
    assert first.fresh_units == 80 * UNIT
    clock.advance(1_000.0)
    assert state.question(None, 1, clock.now_us()).pace is first.pace


def test_a_phase_that_climbs_begins_by_the_clock_of_the_store(clock: ManualClock) -> None:
    health, hold = HealthSignal(clock=clock), Hold()
    state = state_of(clock, health)
    health.opened(hold, clock.now_us(), None)
    clock.advance(5.0)
    health.closed(hold, clock.now_us())
    closed_us = clock.now_us()
    assert state.question(None, 1, clock.now_us()).pace.start_us == closed_us
    state.buckets.offset_us = 10**15  # type: ignore[misc]  # the store has been heard of
    pace = state.question(None, 1, clock.now_us()).pace
    assert (pace.start_us, pace.every_us, pace.steps) == (closed_us + 10**15, 60_000_000, 14)
    assert (pace.at(0), pace.at(14)) == ((30, 24 * UNIT), (100, 80 * UNIT))


@pytest.mark.parametrize("set_by_s", [-3_600, 3_600])
def test_recovery_goes_on_where_it_was_when_the_clock_of_the_store_is_set(clock: ManualClock, set_by_s: int) -> None:
    health, hold = HealthSignal(clock=clock), Hold()
    state = state_of(clock, health)
    state.buckets.offset_us = 10**15  # type: ignore[misc]
    health.opened(hold, clock.now_us(), None)
    health.closed(hold, clock.now_us())
    clock.advance(130.0)
    pace = state.question(None, 1, clock.now_us()).pace
    assert pace.step_at(clock.now_us() + state.buckets.offset_us) == 2
    state.buckets.offset_us += 20_000  # type: ignore[misc]  # as well as it is known
    assert state.question(None, 1, clock.now_us()).pace is pace
    state.buckets.offset_us += set_by_s * 1_000_000  # type: ignore[misc]
    pace = state.question(None, 1, clock.now_us()).pace
    assert pace.step_at(clock.now_us() + state.buckets.offset_us) == 2


def test_a_bucket_that_nobody_knows_is_not_filled_by_recovery(clock: ManualClock) -> None:
    health, hold = HealthSignal(clock=clock), Hold()
    state = state_of(clock, health, rate_per_s=0.1)
    health.opened(hold, clock.now_us(), None)
    health.closed(hold, clock.now_us())
    assert state.question(None, 1, clock.now_us()).fresh_units == 24 * UNIT
    clock.advance(60.0)
    assert state.question(None, 1, clock.now_us()).fresh_units == 24 * UNIT, "the step adds room, not tokens"
    clock.advance(60.0)
    assert state.question(None, 1, clock.now_us()).fresh_units == pytest.approx(26.1 * UNIT)


def test_the_share_follows_the_number_of_processes(clock: ManualClock) -> None:
    state = state_of(clock, cost=15)
    share = state.share_settings(clock.now_us())
    assert (share.rate_per_s, share.burst) == (12.5, 15), "one call fits it"
    state.buckets.workers = 2  # type: ignore[misc]
    share = state.share_settings(clock.now_us())
    assert (share.rate_per_s, share.burst) == (50.0, 40)
    state.configure(replace(state.settings, rate_per_s=10.0), clock.now_us())
    assert state.share_settings(clock.now_us()).rate_per_s == 5.0


def test_an_epoch_tells_whose_changes_it_counts() -> None:
    assert [epoch_of("default", changes) for changes in (0, 1, 7)] == [0, 1, 7]
    assert epoch_of("vip", 0) == 0, "no fleet has a part in it"
    assert len({epoch_of(f"signal {number}", 1) // CHANGES for number in range(100)} - {0}) == 100
    assert epoch_of("vip", 7) - epoch_of("vip", 2) == 5
    for name in ("default", "vip", "\udc80"):
        most = epoch_of(name, 10**12)
        assert most // CHANGES == epoch_of(name, 1) // CHANGES, "however many there are, they are never another signal's"
        assert most < EXACT
        assert Pace.unpack(Pace(most, 1, 1, UNIT).pack()).epoch == most


def test_a_limiter_that_is_moved_to_another_signal_of_the_fleet_asks_in_its_name(clock: ManualClock) -> None:
    class Fleets(HealthSignal):
        epoch = 5

    state = state_of(clock, Fleets(clock=clock))
    assert state.question(None, 1, clock.now_us()).pace.epoch == 5
    state.move_to(Fleets(clock=clock, name="vip"), clock.now_us())
    assert state.question(None, 1, clock.now_us()).pace.epoch == epoch_of("vip", 5)
