"""Calls that found their layer just before its settings changed, and come to its limiter just after.

A call keeps the settings with which it began: for half a second it is decided by what was there when these ended. It never gets
what the settings in force would refuse, so that late calls and present ones together stay within the bound.
"""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Call, HealthSignal, RateLimiter
from resilience.errors import Quota
from resilience.health import NEVER_US, Hold
from resilience.layers.base import Wait
from resilience.layers.limiter import RateLimiterSettings
from resilience.layers.limiter.state import LimiterState
from resilience.testing import ManualClock
from tests.core.test_limiter import MICROSECOND_S, take

STRAGGLE_S = 0.5
LATE_KEYS = 4_096
HOURLY = 1 / 3600


class Limit:
    """One limiter's state, and the layers over it of the settings that were in force one after the other."""

    def __init__(self, clock: ManualClock, rate_per_s: float, burst: int, health: HealthSignal | None = None, **more: Any) -> None:
        self.clock = clock
        self.settings = RateLimiterSettings(rate_per_s, burst, **more)
        self.state = LimiterState(self.settings, health, clock.now_us())
        self.layer = self._layer()

    def reload(self, rate_per_s: float, burst: int, **more: Any) -> RateLimiter:
        """Put new settings in force. Returns the layer of the ones before: who comes through it from now on comes late."""
        late = self.layer
        self.settings = RateLimiterSettings(rate_per_s, burst, **more)
        self.state.configure(self.settings, self.clock.now_us())
        self.layer = self._layer()
        return late

    def _layer(self) -> RateLimiter:
        return RateLimiter.over(self.state, self.settings, name="api", clock=self.clock)


class Takes:
    """Calls through a layer: those that are refused at once, or those that may queue and have no patience left."""

    def __init__(self, queue: bool) -> None:
        self.queue = queue

    def __call__(self, layer: RateLimiter, tries: int = 2_000, cost: int = 1, key: str | None = None) -> int:
        """How many get in."""
        return sum(self.wait_us(layer, cost, key) == 0 for _ in range(tries))

    def wait_us(self, layer: RateLimiter, cost: int = 1, key: str | None = None) -> int:
        """What one is told; 0 where it got in."""
        now_us = layer.clock.now_us()
        if self.queue:
            return layer.state.reserve(key, cost, now_us, 0, layer.settings)[0]
        return layer.state.take(key, cost, now_us, layer.settings)


@pytest.fixture(params=[False, True], ids=["at once", "queue"])
def got(request: pytest.FixtureRequest) -> Takes:
    """Each test that takes this goes both ways through the state."""
    return Takes(request.param)


def quota(layer: RateLimiter, key: str | None = None) -> Quota:
    return layer.quota(Call(key=key, now_us=layer.clock.now_us()))


# --- decided by what was there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "expected"),
    [
        (HOURLY, 8, 3),
        (10.0, 9, 3),
        (10.0, 6, 3),
        (HOURLY, 4, 3),
        (1e6, 1_000_000, 3),
        (1e6, 8, 3),  # the bucket of now is full again, of tokens that were issued after their time
        (HOURLY, 2, 2),  # the smaller bucket of now holds for late calls too
    ],
)
def test_late_calls_have_what_was_there_when_their_settings_ended(
    clock: ManualClock, rate_per_s: float, burst: int, expected: int, got: Takes
) -> None:
    """Refilled at the old rate up to that instant, and at no rate since."""
    limit = Limit(clock, 10.0, 8)
    assert got(limit.layer) == 8
    clock.advance(0.35)
    late = limit.reload(rate_per_s, burst)
    clock.advance(0.1)
    assert got(late) == expected


@pytest.mark.parametrize(("elapsed_s", "expected"), [(0.0, 2), (STRAGGLE_S - MICROSECOND_S, 2), (STRAGGLE_S, 502)])
def test_half_a_second_after_the_change_nobody_is_late(clock: ManualClock, elapsed_s: float, expected: int, got: Takes) -> None:
    limit = Limit(clock, HOURLY, 2)
    late = limit.reload(1_000.0, 1_000)
    clock.advance(elapsed_s)
    assert got(late) == expected


@pytest.mark.parametrize(("changes", "expected"), [(1, 2), (2, 2), (16, 2), (17, 202)])
def test_the_last_sixteen_changes_are_remembered(clock: ManualClock, changes: int, expected: int, got: Takes) -> None:
    """Nobody makes more within half a second, and a reload in a loop must not fill the memory."""
    limit = Limit(clock, HOURLY, 2)
    late = limit.reload(1_000.0, 1_000)
    for number in range(1, changes):
        limit.reload(1_000.0, 1_000 + number)
    clock.advance(0.2)
    assert got(late) == expected


def test_each_late_call_goes_by_its_own_settings(clock: ManualClock, got: Takes) -> None:
    limit = Limit(clock, 10.0, 100)
    assert got(limit.layer) == 100
    lates = []
    for rate_per_s in (20.0, 40.0, 80.0):
        clock.advance(0.1)
        lates.append(limit.reload(rate_per_s, 100))
    clock.advance(0.1)
    assert [quota(late).remaining for late in lates] == [1, 3, 7]
    assert [got(layer) for layer in (*lates, limit.layer)] == [1, 2, 4, 8], "each leaves to the next what was issued since"


def test_settings_that_are_in_force_again_are_not_those_of_before(clock: ManualClock, got: Takes) -> None:
    limit = Limit(clock, 10.0, 10)
    assert got(limit.layer) == 10
    first = limit.reload(HOURLY, 10)
    limit.reload(10.0, 10)
    clock.advance(0.3)
    assert got(first) == 3


def test_of_two_spells_of_the_same_settings_the_later_one_counts(clock: ManualClock, got: Takes) -> None:
    limit = Limit(clock, 10.0, 10)
    assert got(limit.layer) == 10
    first = limit.reload(HOURLY, 10)
    limit.reload(10.0, 10)
    clock.advance(0.3)
    limit.reload(HOURLY, 10)
    assert got(first) == 3


@pytest.mark.parametrize("changed", [{"status": 503}, {"max_keys": 5}, {"max_wait_s": 1.0}, {"fields": "always"}])
def test_a_change_that_leaves_rate_and_burst_makes_nobody_late(clock: ManualClock, changed: dict[str, Any], got: Takes) -> None:
    limit = Limit(clock, 10.0, 10)
    limit.reload(20.0, 10)
    limit.reload(10.0, 10)
    assert got(limit.layer) == 10
    late = limit.reload(10.0, 10, **changed)
    clock.advance(0.3)
    assert got(late) == 3


def test_a_call_that_read_the_clock_before_the_change_is_late_too(clock: ManualClock) -> None:
    limit = Limit(clock, HOURLY, 2)
    began_us = clock.now_us()
    clock.advance(10.0)
    late = limit.reload(1_000.0, 1_000)
    assert limit.state.take(None, 3, began_us, late.settings) > 0
    assert limit.state.take(None, 2, began_us, late.settings) == 0


def test_what_a_late_call_tells_of_its_limit_is_what_held_when_it_ended(clock: ManualClock) -> None:
    health, hold = HealthSignal(cut=0.5, recover=0.5, every_s=0.1, clock=clock), Hold()
    health.opened(hold, clock.now_us(), None)
    limit = Limit(clock, 10.0, 100, health)
    assert take(limit.layer, clock, 50) is None
    clock.advance(1.0)
    late = limit.reload(20.0, 200)
    health.closed(hold, clock.now_us())
    clock.advance(0.2)
    told = [layer.attributes(Call(now_us=clock.now_us())) for layer in (late, limit.layer)]
    assert told == [
        {"resilience.health.factor": 0.5, "resilience.limiter.rate": 5.0, "resilience.limiter.remaining": 5},
        {"resilience.health.factor": 1.0, "resilience.limiter.rate": 20.0, "resilience.limiter.remaining": 8},
    ], "5 tokens came in the second before the change, 1 in the step after it, and 2 when health was back"


def test_refusals_are_counted_as_the_settings_have_it_under_which_the_call_began(clock: ManualClock, got: Takes) -> None:
    limit = Limit(clock, HOURLY, 1, shadow=True)
    late = limit.reload(HOURLY, 1)
    assert (got(limit.layer, 3), got(late, 2)) == (1, 0)
    assert limit.layer.decisions() == {"admitted": 1, "rejected": 2, "queued": 0, "would_reject": 2}


def test_a_take_without_settings_goes_by_those_in_force(clock: ManualClock) -> None:
    limit = Limit(clock, HOURLY, 1, shadow=True)
    limit.reload(1_000.0, 1_000)
    clock.advance(0.1)
    assert sum(limit.state.take(None, 1, clock.now_us()) == 0 for _ in range(500)) == 101
    assert (limit.state.rejected, limit.state.would_reject) == (399, 0)


# --- both together within the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "late", "present"),
    [
        ((1.0, 100), (1_000.0, 100), 100, 0),
        ((1_000.0, 100), (1.0, 100), 100, 0),
        ((1.0, 100), (1_000.0, 40), 40, 0),  # the smaller bucket of now holds for late calls too
        ((1.0, 40), (1_000.0, 100), 40, 60),  # what was issued since is for those of now alone
    ],
)
@pytest.mark.parametrize("key", [None, "alice"])
def test_late_calls_and_present_ones_share_one_bucket(
    clock: ManualClock,
    before: tuple[float, int],
    after: tuple[float, int],
    late: int,
    present: int,
    key: str | None,
    got: Takes,
) -> None:
    for late_first in (True, False):
        limit = Limit(clock, *before)
        earlier = limit.reload(*after)
        clock.advance(0.06)
        if late_first:
            assert (got(earlier, key=key), got(limit.layer, key=key)) == (late, present)
        else:
            assert (got(limit.layer, key=key), got(earlier, key=key)) == (late + present, 0)


@pytest.mark.parametrize("after", [(HOURLY, 100), (1e6, 100), (1e6, 2), (HOURLY, 2), (5.0, 5)])
def test_a_late_call_is_not_refused_what_both_settings_have_for_it(
    clock: ManualClock, after: tuple[float, int], got: Takes
) -> None:
    """Its bucket is full, and was. It may be long ago in tokens: with a fast limit all of them have been issued since."""
    limit = Limit(clock, 5.0, 5)
    late = limit.reload(*after)
    clock.advance(STRAGGLE_S - MICROSECOND_S)
    assert [got(late, 1, cost=2, key=key) for key in ("alice", "bob")] == [1, 1]


@pytest.mark.parametrize("costs", [[2], [1, 1]])
def test_a_late_call_of_two_tokens_is_two_late_calls_of_one(clock: ManualClock, costs: list[int], got: Takes) -> None:
    """The bucket of now has been refilled since, so what is taken from it is booked later than what was there in their time."""
    limit = Limit(clock, 10.0, 20)
    late = limit.reload(1.0, 2)
    clock.advance(0.1)
    assert [got(late, 1, cost) for cost in costs] == [1] * len(costs)
    assert got(late, 1) == 0


def test_late_calls_of_many_keys_are_held_to_the_books_of_now(clock: ManualClock, got: Takes) -> None:
    """Of so many there are no books of their own: they get too little rather than too much."""
    limit = Limit(clock, 10.0, 20)
    late = limit.reload(100.0, 20)
    clock.advance(0.1)
    with_books = [got(late, 1, cost=1, key=str(number)) for number in range(LATE_KEYS)]
    assert sum(with_books) == LATE_KEYS
    assert [got(late, 21, key=key) for key in ("0", str(LATE_KEYS - 1), "one more")] == [19, 19, 10]


def test_a_late_call_finds_no_more_than_health_leaves_of_the_bucket_of_now(clock: ManualClock, got: Takes) -> None:
    health = HealthSignal(cut=0.9, clock=clock)
    limit = Limit(clock, HOURLY, 100, health)
    late = limit.reload(HOURLY, 200)
    health.opened(Hold(), clock.now_us(), None)
    assert (got(late), got(limit.layer)) == (20, 0)


def test_a_late_call_that_only_looks_is_let_in(clock: ManualClock, got: Takes) -> None:
    limit = Limit(clock, HOURLY, 1)
    late = limit.reload(1_000.0, 1_000)
    clock.advance(0.1)
    assert got(limit.layer) == 101
    assert (got(late, 1, cost=0), got(late, 1)) == (1, 0)


def test_a_look_by_a_call_of_now_takes_nothing_from_late_ones(clock: ManualClock, got: Takes) -> None:
    """Their bucket was full, and the smaller one of now has been refilled since, many times over."""
    limit = Limit(clock, 10.0, 2)
    assert got(limit.layer, 1) == 1
    clock.advance(0.1)
    late = limit.reload(1e6, 1)
    clock.advance(0.1)
    assert got(limit.layer, 1, cost=0) == 1
    assert got(late, 1) == 1


# --- what a late call is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "elapsed_s", "cost", "told", "remaining", "retry_after_s"),
    [
        ((10.0, 99), 0.0, 1, "own", 0, 0.1),  # what it waits for comes at the pace of now
        ((10.0, 99), 0.2, 1, "own", 0, MICROSECOND_S),  # a call of now would have been let in
        ((10.0, 9), 0.0, 1, "own", 0, 0.1),
        ((10.0, 8), 0.0, 1, "present", 0, 0.1),  # the smaller bucket of now refuses it too
        ((1e6, 8), 0.0, 2, "present", 0, 2 * MICROSECOND_S),
        ((10.0, 8), 0.2, 1, "own", 0, MICROSECOND_S),  # the smaller bucket of now has what it asks for
        ((10.0, 8), 0.2, 9, "present", 2, None),  # and never holds so much
        ((10.0, 8), 0.2, 10, "present", 2, None),
        ((10.0, 99), 0.2, 10, "own", 0, None),
    ],
)
def test_a_refusal_tells_of_the_limit_that_refused(
    clock: ManualClock,
    after: tuple[float, int],
    elapsed_s: float,
    cost: int,
    told: str,
    remaining: int,
    retry_after_s: float | None,
) -> None:
    before = (HOURLY, 9)
    limit = Limit(clock, *before)
    assert take(limit.layer, clock, 9) is None
    late = limit.reload(*after)
    clock.advance(elapsed_s)
    refusal = take(late, clock, cost)
    assert refusal is not None
    assert refusal.quota is not None
    assert (refusal.rate_per_s, refusal.quota.limit) == (before if told == "own" else after)
    assert (refusal.quota.remaining, refusal.retry_after_s) == (remaining, retry_after_s)


@pytest.mark.parametrize(
    ("after", "taken", "elapsed_s", "remaining", "available_in_s"),
    [
        ((10.0, 8), 0, 0.0, 3, 0.05),
        ((5.0, 8), 0, 0.0, 3, 0.1),
        ((10.0, 99), 0, 0.1, 3, 0.05),
        ((10.0, 99), 2, 0.0, 1, 0.05),
        ((10.0, 99), 3, 0.0, 0, 0.05),
        ((10.0, 99), 5, 0.2, 0, 0.1),  # those of now have had more than was there in its time
        ((10.0, 2), 0, 0.0, 2, 0.0),  # the bucket of now is full
    ],
)
def test_what_a_late_call_has_left(
    clock: ManualClock, after: tuple[float, int], taken: int, elapsed_s: float, remaining: int, available_in_s: float
) -> None:
    """Of the two buckets the emptier one; what comes, comes at the pace of now."""
    limit = Limit(clock, 10.0, 8, key="client_address")
    assert take(limit.layer, clock, 8, "alice") is None
    clock.advance(0.35)
    late = limit.reload(*after, key="client_address")
    clock.advance(elapsed_s)
    assert take(limit.layer, clock, taken, "alice") is None
    assert quota(late, "alice") == Quota("api", limit=8, window_s=1, remaining=remaining, available_in_s=available_in_s)


# --- late calls that wait ---------------------------------------------------------------------------------------------


def test_a_late_call_waits_behind_those_of_now_at_their_pace(clock: ManualClock) -> None:
    limit = Limit(clock, HOURLY, 1, max_wait_s=1.0)
    assert take(limit.layer, clock) is None
    late = limit.reload(10.0, 10, max_wait_s=1.0)
    waiters = [layer.admit(Call(now_us=clock.now_us())) for layer in (late, limit.layer, late)]
    assert [wait.wait_s for wait in waiters if wait is not None] == [0.1, 0.2, 0.3]
    assert limit.layer.decisions()["queued"] == 3
    for wait in waiters:
        assert wait is not None
        wait.cancel()
    assert limit.state.reserve(None, 1, clock.now_us(), NEVER_US, limit.settings)[0] == 100_000, "each gave its place back"


def test_a_late_call_with_patience_waits_a_moment_for_what_calls_of_now_have(clock: ManualClock) -> None:
    limit = Limit(clock, HOURLY, 1, max_wait_s=1.0)
    assert take(limit.layer, clock) is None
    late = limit.reload(10.0, 10)
    clock.advance(0.2)
    waiter = late.admit(Call(now_us=clock.now_us()))
    assert isinstance(waiter, Wait)
    assert waiter.wait_s == MICROSECOND_S
    waiter.cancel()
    assert quota(limit.layer).remaining == 1, "its token was there already, and it was its own"
