"""One bucket a key: bounded, forgotten only when full, and never a way around the limit."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given, strategies

from resilience import Call, Pipeline, RateLimited, RateLimiter
from resilience.testing import ManualClock
from tests.core.helpers import Drive, succeed
from tests.core.test_limiter import admitted, take


def keyed(clock: ManualClock, burst: int = 2, rate_per_s: float = 1.0, max_keys: int = 100_000) -> RateLimiter:
    """A limiter whose calls bring their keys along."""
    return RateLimiter(rate_per_s, burst=burst, key=lambda call: None, max_keys=max_keys, clock=clock)


def test_each_key_has_its_own_bucket(clock: ManualClock) -> None:
    limiter = keyed(clock)
    assert [admitted(limiter, clock, 5, key) for key in ("alice", "bob", "alice")] == [2, 2, 0]
    assert len(limiter.state.table) == 2


def test_calls_without_a_key_share_one(clock: ManualClock) -> None:
    limiter = keyed(clock)
    assert [admitted(limiter, clock, 5) for _ in range(2)] == [2, 0]


def test_a_function_of_the_arguments(clock: ManualClock, drive: Drive) -> None:
    limiter = RateLimiter(1.0, burst=1, key=lambda call: call.name, clock=clock)
    pipeline = Pipeline("p", limiter)
    drive(pipeline, succeed)
    assert pipeline.call(str.upper, "x") == "X"
    with pytest.raises(RateLimited):
        pipeline.call(str.upper, "x")


def test_a_raising_key_function_is_no_free_pass(clock: ManualClock, drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: Call) -> str:
        raise LookupError("no session")

    pipeline = Pipeline("p", RateLimiter(1.0, burst=2, key=broken, clock=clock))
    assert [drive(pipeline, succeed) for _ in range(2)] == ["done", "done"]
    with pytest.raises(RateLimited):
        drive(pipeline, succeed)
    assert "the call shares the bucket of all that have no key" in caplog.text


def test_a_key_that_is_no_text_is_made_one(clock: ManualClock, drive: Drive) -> None:
    numbers = iter([7, 7, 8, 7])
    limiter = RateLimiter(1.0, burst=2, key=lambda call: next(numbers), clock=clock)  # type: ignore[arg-type, return-value]
    pipeline = Pipeline("p", limiter)
    for _ in range(3):
        drive(pipeline, succeed)
    with pytest.raises(RateLimited):
        drive(pipeline, succeed)


@pytest.mark.parametrize("max_keys", [1, 10, 5_000])
def test_ten_times_more_keys_than_places(clock: ManualClock, max_keys: int) -> None:
    limiter = keyed(clock, burst=2, max_keys=max_keys)
    keys = [f"key {number}" for number in range(10 * max_keys)]
    total = sum(take(limiter, clock, 2, key) is None for key in keys)
    assert total == max_keys + 1, "one burst for each place, and one for all others together"
    assert len(limiter.state.table) == max_keys
    assert admitted(limiter, clock, 3, keys[0]) == 0, "nobody was forgotten who had spent"
    clock.advance(1.0)
    assert sum(take(limiter, clock, 1, key) is None for key in keys[max_keys:]) == 1, "the overflow bucket fills at its one rate"
    assert sum(take(limiter, clock, 1, key) is None for key in keys[:max_keys]) == max_keys


def test_full_buckets_make_room(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=2, max_keys=10)
    assert [admitted(limiter, clock, 3, f"old {number}") for number in range(12)] == [2] * 11 + [0]
    clock.advance(2.0)
    assert [admitted(limiter, clock, 3, f"new {number}") for number in range(10)] == [2] * 10
    assert len(limiter.state.table) == 10


def test_the_status_counts_those_who_had_to_share_the_overflow_bucket(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=3, max_keys=10)
    assert sum(admitted(limiter, clock, 3, f"key {number}") for number in range(20)) == 33
    assert limiter.status()["shared_the_overflow_bucket"] == 3
    clock.advance(1.0)
    assert admitted(limiter, clock, 3, "one more") == 1
    assert limiter.status()["shared_the_overflow_bucket"] == 4


def test_only_full_buckets_are_forgotten(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=10, rate_per_s=0.001, max_keys=50)
    for number in range(50):
        assert take(limiter, clock, 10 if number % 5 else 1, f"key {number}") is None
    clock.advance(1_000.0)  # the ten that took 1 are full again
    for number in range(200):
        take(limiter, clock, 10, f"crowd {number}")
    assert [admitted(limiter, clock, 10, f"key {number}") for number in range(50) if number % 5] == [1] * 40


def test_a_place_in_the_table_is_no_second_burst(clock: ManualClock) -> None:
    """Who has spent from the overflow bucket does not get a fresh bucket as soon as a place is free."""
    limiter = keyed(clock, burst=4, rate_per_s=1.0, max_keys=1)
    assert take(limiter, clock, 4, "first") is None
    clock.advance(3.0)
    assert admitted(limiter, clock, 10, "late") == 4, "from the overflow bucket"
    clock.advance(1.0)  # the first one's bucket is full, and gives way
    assert admitted(limiter, clock, 10, "late") == 1
    assert admitted(limiter, clock, 10, "late") == 0


def test_a_peek_takes_no_place(clock: ManualClock) -> None:
    limiter = keyed(clock)
    for number in range(100):
        assert take(limiter, clock, 0, f"key {number}") is None
        limiter.quota(Call(key=f"key {number}", now_us=clock.now_us()))
    assert len(limiter.state.table) == 0


def test_fewer_places_after_a_reload(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=1, max_keys=100)
    for number in range(100):
        take(limiter, clock, 1, f"key {number}")
    limiter.state.configure(replace(limiter.settings, max_keys=10), clock.now_us())
    assert admitted(limiter, clock, 1, "key 50") == 0, "those who are known stay"
    assert [admitted(limiter, clock, 1, f"new {number}") for number in range(3)] == [1, 0, 0]
    clock.advance(1.0)
    for number in range(100):
        take(limiter, clock, 1, f"later {number}")
    assert len(limiter.state.table) <= 100
    for _ in range(50):
        clock.advance(1.0)
        take(limiter, clock, 1, "one more")
    assert len(limiter.state.table) <= 10


def test_a_table_that_becomes_much_larger_is_dealt_out_anew_and_keeps_its_levels(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=2, max_keys=100)
    names = [f"key {number}" for number in range(80)]
    assert all(take(limiter, clock, 1, name) is None for name in names)
    limiter.state.configure(replace(limiter.settings, max_keys=5_000_000), clock.now_us())
    assert len(limiter.state.table.young) > 1_000, "small enough that none stalls a call while it grows"
    assert len(limiter.state.table) == 80
    assert [admitted(limiter, clock, 3, name) for name in names] == [1] * 80
    limiter.state.configure(replace(limiter.settings, max_keys=6_000_000), clock.now_us())
    assert [admitted(limiter, clock, 3, name) for name in names] == [0] * 80


@pytest.mark.parametrize(("max_keys", "shards"), [(1, 1), (4_096, 1), (4_097, 2), (8_192, 2), (8_193, 4), (100_000, 32)])
def test_a_shard_is_made_for_four_thousand_keys(clock: ManualClock, max_keys: int, shards: int) -> None:
    assert len(keyed(clock, max_keys=max_keys).state.table.young) == shards


@pytest.mark.parametrize(("max_keys", "is_dealt_out"), [(4_096, False), (32_768, False), (32_769, True)])
def test_a_table_that_becomes_a_little_larger_is_not_dealt_out_anew(clock: ManualClock, max_keys: int, is_dealt_out: bool) -> None:
    """All keys are moved at once then, while every call waits: a shard may be eight times as full as it should before that."""
    limiter = keyed(clock, max_keys=4_096)
    shards = limiter.state.table.young
    limiter.state.configure(replace(limiter.settings, max_keys=max_keys), clock.now_us())
    assert (limiter.state.table.young is not shards) == is_dealt_out


@given(
    steps=strategies.lists(
        strategies.tuples(strategies.integers(0, 1_500_000), strategies.integers(0, 12), strategies.integers(1, 3)),
        max_size=120,
    )
)
def test_no_crowd_gets_a_key_more_than_its_bound(steps: list[tuple[int, int, int]]) -> None:
    clock = ManualClock()
    limiter = keyed(clock, burst=3, rate_per_s=1.0, max_keys=4)
    spent: dict[str, list[tuple[int, int]]] = {}
    for wait_us, number, cost in steps:
        clock.advance(wait_us / 1e6)
        key = f"key {number}"
        if take(limiter, clock, cost, key) is None:
            history = spent.setdefault(key, [])
            history.append((clock.now_us(), cost))
            for start, (since_us, _) in enumerate(history):
                window_us = clock.now_us() - since_us
                assert sum(cost for _, cost in history[start:]) * 1_000_000 <= 3 * 1_000_000 + window_us
    table = limiter.state.table
    assert len(table) == sum(map(len, (*table.young, *table.old))) <= 4


def test_long_keys_are_kept_as_hashes(clock: ManualClock) -> None:
    limiter = keyed(clock)
    long = "x" * 10_000
    assert [admitted(limiter, clock, 5, key) for key in (long, long + "y", long)] == [2, 2, 0]
    kept = [key for part in (*limiter.state.table.young, *limiter.state.table.old) for key in part]
    assert sorted(len(str(key)) for key in kept) == [32, 32]


def test_threads_on_many_keys_count_exactly(clock: ManualClock) -> None:
    limiter = keyed(clock, burst=5, max_keys=64)
    now_us = clock.now_us()
    got: list[int] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        got.append(sum(limiter.state.take(f"key {number % 200}", 1, now_us) == 0 for number in range(4_000)))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(got) == (64 + 1) * 5
