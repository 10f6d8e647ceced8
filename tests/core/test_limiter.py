"""The token bucket: exact to the microsecond and the token."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, strategies

from resilience import Call, Pipeline, RateLimited, RateLimiter
from resilience.testing import ManualClock
from tests.core.helpers import Drive, succeed, vectors

MICROSECOND_S = 0.000_001


def take(limiter: RateLimiter, clock: ManualClock, cost: int | None = None, key: str | None = None) -> RateLimited | None:
    """One call's admission: None, or the refusal."""
    try:
        limiter.admit(Call("test", cost=cost, key=key, now_us=clock.now_us()))
    except RateLimited as refusal:
        return refusal
    return None


def admitted(limiter: RateLimiter, clock: ManualClock, tries: int, key: str | None = None) -> int:
    """How many of `tries` calls at this instant get in."""
    return sum(take(limiter, clock, key=key) is None for _ in range(tries))


def test_a_burst_and_then_the_rate(clock: ManualClock, drive: Drive) -> None:
    pipeline = Pipeline("p", RateLimiter(10.0, burst=20, name="api", clock=clock))
    for _ in range(20):
        assert drive(pipeline, succeed) == "done"
    with pytest.raises(RateLimited) as refused:
        drive(pipeline, succeed)
    assert (refused.value.policy, refused.value.reason, refused.value.retry_after_s) == ("api", "quota", 0.1)
    assert (refused.value.status, str(refused.value)) == (429, "api: over the limit of 10/s; retry in 0.1 s")
    for _ in range(30):
        clock.advance(0.1)
        assert drive(pipeline, succeed) == "done"
        with pytest.raises(RateLimited):
            drive(pipeline, succeed)


def test_redis_cell_vectors(clock: ManualClock) -> None:
    table = vectors("token_bucket_redis_cell")
    limiter = RateLimiter(1 / table["emission_s"], burst=table["limit"], clock=clock)
    start_s = clock.now_us() / 1e6
    for at_s, cost, limited, remaining, _, retry_after_s in table["rows"]:
        clock.advance(start_s + at_s - clock.now_us() / 1e6)
        refusal = take(limiter, clock, cost)
        assert (refusal is not None) == limited, (at_s, cost)
        assert limiter.quota(Call(now_us=clock.now_us())).remaining == remaining, (at_s, cost)
        if refusal is not None:
            assert refusal.retry_after_s == (None if retry_after_s == -1 else retry_after_s)


@pytest.mark.parametrize(
    ("rate_per_s", "expected_s"),
    [
        (1 / 3600, 3600.0),
        (5 / 10, 2.0),
        (0.1, 10.0),
        (1 / 3, 3.0),
        (1 / 7, 7.0),
        (100.0, 0.01),
        (1_000_000.0, MICROSECOND_S),
        (1 / 86_400, 86_400.0),
        (1 / 2_592_000, 2_592_000.0),
        (10 / 60, 6.0),
    ],
)
def test_rates_mean_what_they_say(clock: ManualClock, rate_per_s: float, expected_s: float) -> None:
    limiter = RateLimiter(rate_per_s, burst=1, clock=clock)
    assert take(limiter, clock) is None
    for _ in range(3):
        refusal = take(limiter, clock)
        assert refusal is not None
        assert refusal.retry_after_s == expected_s
        clock.advance(expected_s - MICROSECOND_S)
        assert take(limiter, clock) is not None
        clock.advance(MICROSECOND_S)
        assert take(limiter, clock) is None


@given(
    period_s=strategies.integers(1, 100_000),
    count=strategies.integers(1, 1_000),
    burst=strategies.integers(1, 50),
    waits_us=strategies.lists(strategies.integers(0, 3_000_000), min_size=1, max_size=30),
    cost=strategies.integers(1, 50),
)
def test_the_hint_is_exact(period_s: int, count: int, burst: int, waits_us: list[int], cost: int) -> None:
    clock = ManualClock()
    limiter = RateLimiter(count / period_s, burst=burst, clock=clock)
    for wait_us in waits_us:
        clock.advance(wait_us / 1e6)
        take(limiter, clock)
    refusal = take(limiter, clock, min(cost, burst))
    if refusal is not None:
        assert refusal.retry_after_s is not None
        clock.advance(refusal.retry_after_s - MICROSECOND_S)
        assert take(limiter, clock, min(cost, burst)) is not None, "a microsecond too early"
        clock.advance(MICROSECOND_S)
        assert take(limiter, clock, min(cost, burst)) is None, "at the hint"


@given(
    cost=strategies.integers(1, 20),
    rate_per_s=strategies.sampled_from([0.5, 1.0, 1 / 3, 7.0, 1 / 3600, 1_000.0]),
    waits_us=strategies.lists(strategies.integers(0, 30_000_000), max_size=20),
)
def test_one_of_n_is_n_of_one(cost: int, rate_per_s: float, waits_us: list[int]) -> None:
    clock = ManualClock()
    at_once, one_by_one = (RateLimiter(rate_per_s, burst=20, clock=clock) for _ in range(2))
    for wait_us in waits_us:
        clock.advance(wait_us / 1e6)
        if take(at_once, clock, cost) is None:
            assert all(take(one_by_one, clock, 1) is None for _ in range(cost))
        call = Call(now_us=clock.now_us())
        assert at_once.quota(call) == one_by_one.quota(call)


def test_a_cost_above_the_burst_is_refused_for_good(clock: ManualClock) -> None:
    limiter = RateLimiter(10.0, burst=5, max_wait_s=3600.0, clock=clock)
    refusal = take(limiter, clock, 6)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_s) == ("quota", None)
    assert "costs more than the bucket holds" in str(refusal)
    assert limiter.decisions() == {"admitted": 0, "rejected": 1, "queued": 0, "would_reject": 0}
    assert take(limiter, clock, 5) is None, "it took nothing"


def test_cost_zero_peeks(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=1, clock=clock)
    assert all(take(limiter, clock, 0) is None for _ in range(100))
    assert take(limiter, clock, 1) is None
    assert take(limiter, clock, 0) is None, "looking costs nothing, also at an empty bucket"
    assert RateLimiter(1.0, cost=0, clock=clock).admit(Call(now_us=clock.now_us())) is None


def test_cost_of_the_limiter_of_the_call_and_of_a_function(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=10, cost=4, clock=clock)
    assert [take(limiter, clock) is None for _ in range(3)] == [True, True, False]
    assert take(limiter, clock, 2) is None, "a cost on the call goes first"
    by_name = RateLimiter(1.0, burst=10, cost=lambda call: len(call.name), clock=clock)
    by_name.admit(Call("1234567", now_us=clock.now_us()))
    with pytest.raises(RateLimited):
        by_name.admit(Call("1234", now_us=clock.now_us()))


@pytest.mark.parametrize("cost", [-1, 0.5, "1", None, KeyError("no such tariff")])
def test_a_broken_cost_function_neither_fails_the_call_nor_frees_it(
    clock: ManualClock, drive: Drive, caplog: pytest.LogCaptureFixture, cost: Any
) -> None:
    def broken(call: Call) -> Any:
        if isinstance(cost, Exception):
            raise cost
        return cost

    pipeline = Pipeline("p", RateLimiter(1.0, burst=2, cost=broken, name="api", clock=clock))
    assert [drive(pipeline, succeed) for _ in range(2)] == ["done", "done"]
    with pytest.raises(RateLimited):
        drive(pipeline, succeed)
    assert [record.getMessage() for record in caplog.records] == [
        f"the cost function {broken!r} of api failed; the call costs 1",
    ] * 3


def test_a_cost_given_by_hand_must_be_a_count(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=10, cost=3, clock=clock)
    with pytest.raises(ValueError, match="at least 0, got -5"):
        limiter.admit(Call(cost=-5))


def test_time_going_backwards_counts_as_zero(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=3, clock=clock)
    assert admitted(limiter, clock, 5) == 3
    clock.step_back(3600.0)
    assert admitted(limiter, clock, 5) == 0
    clock.advance(3600.0)
    assert admitted(limiter, clock, 5) == 0, "an hour back and forth issues nothing"
    clock.advance(2.0)
    assert admitted(limiter, clock, 5) == 2


def test_a_long_sleep_fills_to_the_burst_and_no_more(clock: ManualClock) -> None:
    limiter = RateLimiter(1_000.0, burst=7, clock=clock)
    assert admitted(limiter, clock, 10) == 7
    clock.advance(10 * 365 * 86_400.0)
    assert admitted(limiter, clock, 10) == 7


@pytest.mark.parametrize(("rate_per_s", "burst"), [(100.0, 100), (100.9, 100), (0.2, 1), (1.0, 1)])
def test_the_burst_is_one_second_of_the_rate_unless_set(clock: ManualClock, rate_per_s: float, burst: int) -> None:
    assert admitted(RateLimiter(rate_per_s, clock=clock), clock, 200) == burst


def test_a_later_refusal_gives_no_tokens_back(clock: ManualClock, drive: Drive) -> None:
    first, second = RateLimiter(1.0, burst=3, name="first", clock=clock), RateLimiter(1.0, burst=1, name="second", clock=clock)
    pipeline = Pipeline("p", first, second)
    drive(pipeline, succeed)
    for policy in ("second", "second", "first"):
        with pytest.raises(RateLimited) as refused:
            drive(pipeline, succeed)
        assert refused.value.policy == policy


def test_shadow_counts_and_refuses_nothing(clock: ManualClock, drive: Drive) -> None:
    limiter = RateLimiter(1.0, burst=2, shadow=True, clock=clock)
    pipeline = Pipeline("p", limiter)
    assert [drive(pipeline, succeed) for _ in range(5)] == ["done"] * 5
    assert take(limiter, clock, 3) is None
    assert limiter.decisions() == {"admitted": 2, "rejected": 0, "queued": 0, "would_reject": 4}
    clock.advance(1.0)
    drive(pipeline, succeed)
    assert limiter.decisions()["admitted"] == 3, "what would have been refused took nothing"


def test_sixty_four_threads_count_exactly(clock: ManualClock) -> None:
    threads, takes, burst = 64, 2_000, 50_000
    limiter = RateLimiter(1.0, burst=burst, clock=clock)
    got = [0] * threads
    start = threading.Barrier(threads)

    def work(index: int) -> None:
        start.wait()
        count = 0
        for _ in range(takes):
            count += limiter.state.take(None, 1, 1) == 0
        got[index] = count

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(got) == burst
    assert limiter.decisions() == {"admitted": burst, "rejected": threads * takes - burst, "queued": 0, "would_reject": 0}


def test_what_is_left_is_told(clock: ManualClock) -> None:
    limiter = RateLimiter(2.0, burst=10, name="api", clock=clock)
    call = Call(now_us=clock.now_us())
    quota = limiter.quota(call)
    assert (quota.policy, quota.limit, quota.window_s, quota.remaining, quota.available_in_s) == ("api", 10, 5, 10, 0.0)
    assert admitted(limiter, clock, 10) == 10
    quota = limiter.quota(call)
    assert (quota.remaining, quota.available_in_s) == (0, 0.5)
    clock.advance(0.75)
    quota = limiter.quota(Call(now_us=clock.now_us()))
    assert (quota.remaining, quota.available_in_s) == (1, 0.25)
    clock.advance(0.25)
    assert admitted(limiter, clock, 2) == 2
    refusal = take(limiter, clock, 4)
    assert refusal is not None
    assert refusal.quota is not None
    assert refusal.quota.available_in_s == refusal.retry_after_s == 2.0, "in time for this call's cost"


def test_status_and_name(clock: ManualClock) -> None:
    limiter = RateLimiter(2.5, burst=10, name="api", clock=clock)
    assert limiter.status()["rate_per_s"] == limiter.status()["configured_rate_per_s"] == 2.5
    assert limiter.status()["capacity"] == 10
    assert repr(limiter) == "RateLimiter('api', 2.5/s, burst 10)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_per_s": 0.0}, "rate_per_s: must be between 1e-09/s"),
        ({"rate_per_s": float("inf")}, "rate_per_s: must be finite"),
        ({"rate_per_s": "5"}, "rate_per_s: must be a rate such as 100/s"),
        ({"burst": 0}, "burst: must be between 1 and"),
        ({"burst": 1.5}, "burst: must be a whole number, got 1.5"),
        ({"cost": -1}, "cost: must be between 0"),
        ({"cost": 1.5}, "cost: must be a whole number, got 1.5"),
        ({"cost": True}, "cost: must be a whole number, got True"),
        ({"max_wait_s": -1.0}, "max_wait_s: must be between 0 s and 3600 s"),
        ({"max_keys": 0}, "max_keys"),
        ({"status": 500}, "status: must be 429 or 503, got 500"),
        ({"fields": "sometimes"}, "fields: must be one of always, refused, never, got 'sometimes'"),
        ({"key": 5}, "key: must be text, got 5"),
        ({"key": "cookie"}, "key: 'cookie' is unknown; write client_address"),
        ({"key": "header:"}, "names no header"),
        ({"key": "client_address", "trusted_proxies": ("10.0.0.300",)}, "10.0.0.300"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        RateLimiter(**{"rate_per_s": 1.0, **settings})
