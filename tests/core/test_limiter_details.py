"""What a limiter tells, counts and hands on, to the word: what operators and dashboards read."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from resilience import Call, HealthSignal, RateLimited, RateLimiter
from resilience.call import Decision
from resilience.errors import Quota
from resilience.health import Hold
from resilience.layers.base import Wait
from resilience.layers.limiter import RateLimiterSettings
from resilience.layers.limiter.state import LimiterState
from resilience.layers.limiter.table import BucketTable
from resilience.layers.limiter.tokens import TokenClock
from resilience.testing import ManualClock
from tests.core.test_limiter import admitted, take


def call_at(clock: ManualClock, key: str | None = None, cost: int | None = None) -> Call:
    return Call("test", key=key, cost=cost, now_us=clock.now_us())


def cut_signal(clock: ManualClock, **settings: Any) -> HealthSignal:
    """A signal in an incident that does not end."""
    health = HealthSignal(**{"cut": 0.6, "clock": clock, **settings})
    health.opened(Hold(), clock.now_us(), None)
    return health


# --- what is told -----------------------------------------------------------------------------------------------------


def test_spans_carry_factor_rate_and_what_is_left(clock: ManualClock) -> None:
    limiter = RateLimiter(10.0, burst=20, health=cut_signal(clock), clock=clock)
    assert admitted(limiter, clock, 3) == 3
    assert limiter.attributes(call_at(clock)) == {
        "resilience.health.factor": 0.4,
        "resilience.limiter.rate": 4.0,
        "resilience.limiter.remaining": 5,
    }


def test_spans_of_a_keyed_limiter_speak_of_the_callers_own_bucket(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=5, key=lambda call: call.name, clock=clock)
    assert admitted(limiter, clock, 2, "alice") == 2
    left = {key: limiter.attributes(call_at(clock, key))["resilience.limiter.remaining"] for key in ("alice", "bob")}
    assert left == {"alice": 3, "bob": 5}
    assert limiter.quota(call_at(clock)).remaining == 5
    assert admitted(limiter, clock, 1, "test") == 1
    assert limiter.quota(call_at(clock)).remaining == 4, "a call without a key of its own has the one that the function gives it"


@pytest.mark.parametrize("seed", range(20))
def test_spans_tell_what_the_quota_tells(clock: ManualClock, seed: int) -> None:
    """Whatever has happened: takes, waits, cuts, more keys than there is room for, and changes of settings around the call."""
    dice, health = random.Random(seed), HealthSignal(recover=0.2, every_s=1.0, clock=clock)
    hold = Hold()
    present = RateLimiterSettings(rate_per_s=4.0, burst=6, key="host", max_keys=2)
    state = LimiterState(present, health, clock.now_us())
    layers = [RateLimiter.over(state, present, name="l", clock=clock)]
    for _ in range(60):
        clock.advance(dice.choice((0.0, 0.0, 0.1, 0.7)))
        change = dice.random()
        if change < 0.1:
            health.opened(hold, clock.now_us(), None)
        elif change < 0.2:
            health.closed(hold, clock.now_us())
        elif change < 0.25:
            present = replace(present, rate_per_s=dice.uniform(1.0, 9.0), burst=dice.randint(1, 9))
            state.configure(present, clock.now_us())
            layers.append(RateLimiter.over(state, present, name="l", clock=clock))
        layer, call = dice.choice(layers[-2:]), call_at(clock, dice.choice("abcd"))
        with contextlib.suppress(RateLimited):
            layer.admit(call)
        told = layer.attributes(call)
        clock_of_call = state.clock_of(layer.settings, call.now_us)
        assert told == {
            "resilience.health.factor": clock_of_call.factor_ppb / 1e9,
            "resilience.limiter.rate": clock_of_call.rate_per_s,
            "resilience.limiter.remaining": layer.quota(call).remaining,
        }


def remaining(limiter: RateLimiter, clock: ManualClock) -> int:
    told: int = limiter.attributes(call_at(clock))["resilience.limiter.remaining"]
    assert type(told) is int
    return told


def test_a_refusal_tells_of_the_callers_own_bucket(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=2, key=lambda call: call.name, clock=clock)
    assert admitted(limiter, clock, 2, "alice") == 2
    with pytest.raises(RateLimited) as refused:
        limiter.admit(call_at(clock, "alice"))
    assert refused.value.quota is not None
    assert refused.value.quota.remaining == 0


def test_spans_tell_what_has_come_back_since(clock: ManualClock) -> None:
    limiter = RateLimiter(1_000_000.0, burst=5, clock=clock)
    assert admitted(limiter, clock, 5) == 5
    assert remaining(limiter, clock) == 0
    clock.advance(1e-6)
    assert remaining(limiter, clock) == 1
    clock.advance(60.0)
    assert remaining(limiter, clock) == 5, "it holds no more"


@pytest.mark.parametrize("rate_per_s", [0.0005, 0.0003])  # of which a microsecond is no whole number of units
def test_spans_tell_parts_of_a_token_as_nothing(clock: ManualClock, rate_per_s: float) -> None:
    limiter = RateLimiter(rate_per_s, burst=3, clock=clock)
    assert admitted(limiter, clock, 3) == 3
    clock.advance(1.5 / rate_per_s)
    assert remaining(limiter, clock) == 1


def test_spans_of_calls_without_a_key_ask_the_function_for_it(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=5, key=lambda call: call.name, clock=clock)
    assert admitted(limiter, clock, 2, "test") == 2
    assert remaining(limiter, clock) == 3


def test_spans_follow_the_signal_to_the_very_instant(clock: ManualClock) -> None:
    def factor() -> float:
        told: float = limiter.attributes(call_at(clock))["resilience.health.factor"]
        return told

    health, hold = HealthSignal(recover=0.2, every_s=1.0, clock=clock), Hold()
    limiter = RateLimiter(10.0, burst=10, health=health, clock=clock)
    assert admitted(limiter, clock, 1) == 1
    health.opened(hold, clock.now_us(), clock.now_us())
    assert factor() == 0.3, "an incident that no call of its own has met yet"
    clock.advance(1.0)  # the hold has lapsed
    clock.advance(1.0)
    assert factor() == 0.5, "a step that nobody else has asked the signal for"
    clock.advance(1.0)
    assert health.factor == 0.7
    assert factor() == 0.7, "a step that somebody has asked the signal for before"


@pytest.mark.parametrize(("key", "keys"), [(None, 0), ("method", 2)])
def test_status_counts_the_keys_of_a_keyed_limiter(clock: ManualClock, key: str | None, keys: int) -> None:
    limiter = RateLimiter(2.0, burst=4, key=(lambda call: None) if key else None, clock=clock)
    take(limiter, clock, 1, "alice")
    take(limiter, clock, 5, "bob")
    take(limiter, clock, 1, "carol")
    assert limiter.status() == {
        "rate_per_s": 2.0,
        "configured_rate_per_s": 2.0,
        "capacity": 4.0,
        "keys": keys,
        "shared_the_overflow_bucket": 0,
        "admitted": 2,
        "rejected": 1,
        "queued": 0,
        "would_reject": 0,
    }


@pytest.mark.parametrize(
    ("cost", "message", "retry_after_s"),
    [
        (1, "api: over the limit of 2/s; retry in 0.5 s", 0.5),
        (3, "api: over the limit of 2/s; retry in 1.5 s", 1.5),
        (5, "api: over the limit of 2/s; this call costs more than the bucket holds", None),
    ],
)
def test_a_refusal_in_words(clock: ManualClock, cost: int, message: str, retry_after_s: float | None) -> None:
    limiter = RateLimiter(2.0, burst=4, status=503, name="api", clock=clock)
    assert admitted(limiter, clock, 4) == 4
    refusal = take(limiter, clock, cost)
    assert refusal is not None
    assert (str(refusal), refusal.policy, refusal.reason, refusal.retry_after_s) == (message, "api", "quota", retry_after_s)
    assert refusal.status == 429, "the status that was chosen is for a reduced limit"


@pytest.mark.parametrize(
    ("cost", "message", "retry_after_s"),
    [
        (1, "api: over the reduced limit of 4/s; retry in 0.25 s", 0.25),
        (9, "api: over the reduced limit of 4/s; retry in 7 s", 7.0),
    ],
)
def test_a_refusal_while_health_is_cut_in_words(clock: ManualClock, cost: int, message: str, retry_after_s: float) -> None:
    """What no bucket of the reduced size holds can be tried again when health has climbed by a step."""
    limiter = RateLimiter(10.0, burst=20, status=503, health=cut_signal(clock, every_s=7.0), name="api", clock=clock)
    assert admitted(limiter, clock, 8) == 8
    refusal = take(limiter, clock, cost)
    assert refusal is not None
    assert (str(refusal), refusal.policy, refusal.reason, refusal.retry_after_s) == (message, "api", "cut", retry_after_s)
    assert refusal.status == 503


@pytest.mark.parametrize(("fields", "told"), [("never", False), ("refused", True), ("always", True)])
def test_a_refusal_brings_the_numbers_unless_they_are_never_told(clock: ManualClock, fields: str, told: bool) -> None:
    limiter = RateLimiter(1.0, burst=1, fields=fields, clock=clock)
    take(limiter, clock)
    refusal = take(limiter, clock)
    assert refusal is not None
    assert (refusal.quota is not None) is told


@pytest.mark.parametrize("cost", [-1, 1.0, "1"])
def test_a_cost_that_is_no_count_is_named(clock: ManualClock, cost: Any) -> None:
    limiter = RateLimiter(1.0, burst=5, name="api", clock=clock)
    with pytest.raises(ValueError, match=rf"^api: the cost of a call must be a whole number, at least 0, got {cost!r}$"):
        limiter.admit(Call(cost=cost, now_us=clock.now_us()))


@pytest.mark.parametrize(("cost", "available_in_s"), [(3, 1.0), (4, 2.0), (6, 3.0)])
def test_a_refusal_brings_the_numbers_of_the_callers_own_bucket(clock: ManualClock, cost: int, available_in_s: float) -> None:
    limiter = RateLimiter(1.0, burst=5, key=lambda call: None, name="api", clock=clock)
    assert admitted(limiter, clock, 3, "alice") == 3
    assert admitted(limiter, clock, 5, "bob") == 5
    refusal = take(limiter, clock, cost, "alice")
    assert refusal is not None
    assert refusal.quota == Quota("api", limit=5, window_s=5, remaining=2, available_in_s=available_in_s)


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "window_s"),
    [(10.0, 10, 1), (10.0, 1, 1), (4.0, 10, 3), (2.0, 10, 5), (3.0, 10, 4), (1 / 3600, 2, 7_200), (1e9, 1, 1)],
)
def test_the_window_is_in_whole_seconds_rounded_up(clock: ManualClock, rate_per_s: float, burst: int, window_s: int) -> None:
    quota = RateLimiter(rate_per_s, burst, clock=clock).quota(call_at(clock))
    assert quota.window_s == window_s
    assert isinstance(quota.window_s, int), "the RateLimit fields know no fractions"


def test_the_limit_that_is_told_is_in_whole_tokens(clock: ManualClock) -> None:
    limiter = RateLimiter(5.0, burst=5, health=cut_signal(clock, cut=0.5), clock=clock)
    quota = limiter.quota(call_at(clock))
    assert (quota.limit, quota.remaining, quota.window_s) == (2, 2, 1)
    assert isinstance(quota.limit, int)


def test_a_full_bucket_has_all_there_is_now_also_where_tokens_are_rare(clock: ManualClock) -> None:
    limiter = RateLimiter(1 / 3600, burst=1, clock=clock)
    for _ in range(20):
        assert limiter.quota(call_at(clock)).available_in_s == 0.0
        clock.advance(0.000_001)


def test_the_last_microsecond_of_a_wait_is_told(clock: ManualClock) -> None:
    limiter = RateLimiter(0.001, burst=1, clock=clock)
    assert take(limiter, clock) is None
    clock.advance(999.999_999)
    refusal = take(limiter, clock)
    assert refusal is not None
    assert refusal.quota is not None
    assert refusal.quota.available_in_s == refusal.retry_after_s == 0.000_001
    clock.advance(0.000_001)
    assert take(limiter, clock) is None


def test_a_call_that_began_under_a_larger_burst_is_not_told_to_come_back(clock: ManualClock) -> None:
    """The burst was lowered under it while health is well: no recovery will make room for it."""
    settings = RateLimiterSettings(1.0, burst=10)
    state = LimiterState(settings, HealthSignal(clock=clock), clock.now_us())
    before = RateLimiter.over(state, settings, name="api", clock=clock)
    state.configure(RateLimiterSettings(1.0, burst=5), clock.now_us())
    refusal = take(before, clock, 8)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_s) == ("quota", None)
    assert str(refusal) == "api: over the limit of 1/s; this call costs more than the bucket holds"


def test_a_call_whose_time_is_over_waits_for_nothing(clock: ManualClock) -> None:
    limiter = RateLimiter(1e6, burst=1, max_wait_s=1.0, clock=clock)
    assert take(limiter, clock) is None
    call = call_at(clock)
    call.deadline_us = call.now_us
    with pytest.raises(RateLimited):
        limiter.admit(call)
    call.deadline_us = call.now_us + 1
    reserve(limiter, call).cancel()


def test_the_hint_at_the_instant_of_a_step_goes_by_the_new_rate(clock: ManualClock) -> None:
    health = HealthSignal(cut=0.5, recover=0.25, every_s=10.0, clock=clock)
    limiter = RateLimiter(1.0, burst=100, cost=100, health=health, clock=clock)
    hold = Hold()
    health.opened(hold, clock.now_us(), None)
    health.closed(hold, clock.now_us())
    assert take(limiter, clock, 50) is None
    hints = []
    for _ in range(3):
        refusal = take(limiter, clock, 30)
        hints.append(None if refusal is None else refusal.retry_after_s)
        clock.advance(10.0)
    assert hints == [60.0, 33.333_334, 17.5], "30 at 0.5/s; 25 at 0.75/s; 17.5 at 1/s"


def test_a_microsecond_is_enough_for_a_token_that_comes_each_microsecond(clock: ManualClock) -> None:
    limiter = RateLimiter(1e6, burst=1, clock=clock)
    for _ in range(3):
        assert take(limiter, clock) is None
        assert take(limiter, clock) is not None
        clock.advance(0.000_001)
    assert limiter.decisions() == {"admitted": 3, "rejected": 3, "queued": 0, "would_reject": 0}


@pytest.mark.parametrize(
    ("rate_per_s", "elapsed_us", "issued"),
    [
        (Fraction(1), -1_000, 0),  # time that goes backwards
        (Fraction(1), 0, 0),
        (Fraction(1), 1, 1_000),
        (Fraction(1, 3), 1, 333),
        (Fraction(1, 3), 2, 666),
        (Fraction(1, 3), 3, 1_000),
        (Fraction(1, 3), 10 * 365 * 86_400_000_000 + 1, 105_120_000_000_000_333),  # ten years
    ],
)
def test_what_is_issued_is_exact_however_long_it_takes(rate_per_s: Fraction, elapsed_us: int, issued: int) -> None:
    tokens = TokenClock(rate_per_s, 1, None, 5_000)
    assert tokens.read(5_000 + elapsed_us) == issued
    assert isinstance(tokens.read(5_000 + elapsed_us), int)


def test_a_limiter_that_is_made_during_a_recovery_climbs_along(clock: ManualClock) -> None:
    health = HealthSignal(cut=0.5, recover=0.25, every_s=10.0, clock=clock)
    hold = Hold()
    health.opened(hold, clock.now_us(), None)
    health.closed(hold, clock.now_us())
    clock.advance(5.0)
    limiter = RateLimiter(8.0, health=health, clock=clock)
    rates = []
    for elapsed_s in (0.0, 4.999_999, 0.000_001, 10.0, 10.0):
        clock.advance(elapsed_s)
        rates.append(limiter.rate_per_s)
    assert rates == [4.0, 4.0, 6.0, 8.0, 8.0]


# --- what is counted --------------------------------------------------------------------------------------------------


def test_the_decision_of_a_call_that_waits_and_of_one_in_the_shadow(clock: ManualClock) -> None:
    waiting = RateLimiter(1.0, burst=1, max_wait_s=1.0, clock=clock)
    shadow = RateLimiter(1.0, burst=1, shadow=True, clock=clock)
    calls = [call_at(clock) for _ in range(4)]
    waiting.admit(calls[0])
    reserve(waiting, calls[1]).cancel()
    shadow.admit(calls[2])
    shadow.admit(calls[3])
    assert [getattr(call, "decision", None) for call in calls] == [None, Decision.QUEUED, None, Decision.WOULD_REJECT]


def test_a_shadow_counts_what_it_would_have_refused_once(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=2, shadow=True, clock=clock)
    for cost in (3, 1, 1, 4, 1, 2):
        assert limiter.admit(call_at(clock, cost=cost)) is None
    assert limiter.decisions() == {"admitted": 2, "rejected": 0, "queued": 0, "would_reject": 4}


def test_refusals_are_counted_once_each(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=2, clock=clock)
    for cost in (2, 1, 1, 3, 3):
        take(limiter, clock, cost)
    assert limiter.decisions() == {"admitted": 1, "rejected": 4, "queued": 0, "would_reject": 0}


# --- what is handed on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", ["alice", "bob"])
def test_a_cancelled_wait_goes_back_to_its_own_key(clock: ManualClock, cancelled: str) -> None:
    limiter = RateLimiter(1.0, burst=1, key=lambda call: None, max_wait_s=3.0, clock=clock)
    waiters: dict[str, Wait] = {}
    for key in ("alice", "bob"):
        assert limiter.admit(call_at(clock, key)) is None
        waiters[key] = reserve(limiter, call_at(clock, key))
    clock.advance(0.5)
    waiters.pop(cancelled).cancel()
    others = {key: reserve(limiter, call_at(clock, key)) for key in ("alice", "bob")}
    assert {key: waiter.wait_s for key, waiter in others.items()} == {"alice": 1.5, "bob": 1.5} | {cancelled: 0.5}
    for waiter in (*waiters.values(), *others.values()):
        waiter.cancel()


def test_a_wait_that_is_cancelled_after_a_cut_gives_back_at_the_rate_of_then(clock: ManualClock) -> None:
    health = HealthSignal(cut=0.5, clock=clock)
    limiter = RateLimiter(1.0, burst=2, max_wait_s=10.0, health=health, clock=clock)
    assert admitted(limiter, clock, 2) == 2
    waiter = reserve(limiter, call_at(clock))
    health.opened(Hold(), clock.now_us(), None)
    clock.advance(1.0)
    waiter.cancel()
    again = reserve(limiter, call_at(clock))
    assert again.wait_s == 1.0, "half a token is there, and the rest comes at half the rate"
    again.cancel()


def test_tokens_that_are_due_at_this_very_instant_are_not_given_back(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, max_wait_s=10.0, clock=clock)
    assert admitted(limiter, clock, 1) == 1
    waiters = [reserve(limiter, call_at(clock)) for _ in range(2)]
    clock.advance(1.0)
    for waiter in waiters:
        waiter.cancel()
    again = reserve(limiter, call_at(clock))
    assert again.wait_s == 1.0, "the first of them stays spent, the second was not there yet"
    again.cancel()


def test_one_that_would_wait_too_long_is_told_of_its_own_bucket(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=2, key=lambda call: None, max_wait_s=1.0, clock=clock)
    assert admitted(limiter, clock, 2, "alice") == 2
    with pytest.raises(RateLimited) as refused:
        limiter.admit(Call(key="alice", cost=2, now_us=clock.now_us()))
    assert refused.value.quota == Quota("limiter", limit=2, window_s=2, remaining=0, available_in_s=2.0)


def test_a_cost_on_the_call_goes_before_the_cost_function(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=10, cost=lambda call: 7, clock=clock)
    assert [take(limiter, clock, 5) is None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("taken", "available_in_s"), [(0, 0.0), (1, 1.0), (2, 1.0), (3, 1.0)])
def test_the_next_token_is_told_unless_the_bucket_is_full(clock: ManualClock, taken: int, available_in_s: float) -> None:
    limiter = RateLimiter(1.0, burst=3, clock=clock)
    assert admitted(limiter, clock, taken) == taken
    assert limiter.quota(call_at(clock)).available_in_s == available_in_s


def test_a_wait_that_is_cancelled_after_its_bucket_was_forgotten(clock: ManualClock) -> None:
    """Long after, others have taken its place in the table: it gets one again, with a bucket that is full and no fuller."""
    limiter = RateLimiter(1.0, burst=1, key=lambda call: None, max_wait_s=3.0, max_keys=20, clock=clock)
    assert limiter.admit(call_at(clock, "alice")) is None
    waiter = reserve(limiter, call_at(clock, "alice"))
    for _ in range(3):
        clock.advance(60.0)
        for number in range(20):
            assert limiter.admit(call_at(clock, f"{clock.now_us()} {number}")) is None
    assert len(limiter.state.table) == 20
    clock.advance(60.0)
    waiter.cancel()
    assert limiter.quota(call_at(clock, "alice")).remaining == 1


def reserve(limiter: RateLimiter, call: Call) -> Wait:
    """Tokens that come later."""
    waiter = limiter.admit(call)
    assert isinstance(waiter, Wait)
    return waiter


def test_a_limiter_made_over_a_state_goes_on_with_its_buckets(clock: ManualClock) -> None:
    settings = RateLimiterSettings(2.0, burst=3, key="header:x-user", max_wait_s=0.5)
    state = LimiterState(settings, None, clock.now_us())
    first = RateLimiter.over(state, settings, name="api", clock=clock)
    assert [first.admit(call_at(clock, "alice")) for _ in range(3)] == [None] * 3
    again = RateLimiter.over(state, settings, name="api", clock=clock)
    waiter = reserve(again, call_at(clock, "alice"))
    assert waiter.wait_s == 0.5
    with pytest.raises(RateLimited, match=r"^api: over the limit of 2/s; retry in 1 s$"):
        again.admit(call_at(clock, "alice"))
    assert again.admit(call_at(clock, "bob")) is None
    waiter.cancel()
    assert (again.clock, again.has_effects, repr(again)) == (clock, True, "RateLimiter('api', 2/s, burst 3)")


def test_a_limit_that_becomes_one_for_each_key_gives_each_a_bucket_of_its_own(clock: ManualClock) -> None:
    together = RateLimiterSettings(1.0, burst=2, max_keys=100)
    apart = RateLimiterSettings(1.0, burst=2, max_keys=100, key="header:x-user")
    state = LimiterState(together, None, clock.now_us())
    limiter = RateLimiter.over(state, together, name="api", clock=clock)
    assert [take(limiter, clock, key=key) is None for key in ("alice", "bob", "alice")] == [True, True, False]
    state.configure(apart, clock.now_us())
    limiter = RateLimiter.over(state, apart, name="api", clock=clock)
    assert [take(limiter, clock, key=key) is None for key in ("alice", "bob", "alice", "alice")] == [True, True, True, False]


def test_the_cost_of_a_limiter_made_over_a_state_is_that_of_its_settings(clock: ManualClock) -> None:
    settings = RateLimiterSettings(1.0, burst=6, cost=2)
    limiter = RateLimiter.over(LimiterState(settings, None, clock.now_us()), settings, name="api", clock=clock)
    assert [take(limiter, clock, None) is None for _ in range(4)] == [True, True, True, False]


def test_a_wait_is_the_first_whole_microsecond_at_which_the_token_is_there(clock: ManualClock) -> None:
    """35 of 18 billionths of a token a microsecond: a token takes 514,285,714.3 of them."""
    limiter = RateLimiter(7 / 3600, burst=1, clock=clock)
    assert limiter.state.reserve(None, 1, clock.now_us(), 0, limiter.settings)[0] == 0
    wait_us, _ = limiter.state.reserve(None, 1, clock.now_us(), 0, limiter.settings)
    assert (wait_us, type(wait_us)) == (514_285_715, int)


def test_a_full_table_keeps_what_it_has_not_looked_at_and_looks_at_few() -> None:
    table = BucketTable(20, full=0)
    for number in range(20):
        table.put(f"k{number}", 100 + number, 0)
    table.put("one more", 7, 0)
    assert (len(table), table.overflow, len(table.old[0])) == (20, 7, 12), "eight were looked at"
    assert [table.get(f"k{number}", 0) for number in range(20)] == list(range(100, 120))
    table.put("k15", 200, 0)
    assert table.get("k15", 0) == 200
