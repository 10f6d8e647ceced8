"""Buckets by key in a mapped file: bounded, never a burst by crowding others out, and right whoever was killed while writing."""

from __future__ import annotations

from fractions import Fraction

import pytest

from resilience.health import Phase
from resilience.layers.limiter.questions import Answer, Take
from resilience.layers.limiter.shared_bucket import UNIT, Decided, Pace, pace_of
from resilience.stores.host import HostStore
from resilience.stores.host.layout import OVERFLOW, PLAIN, RING_SIZE, STATE
from resilience.stores.host.table import Table
from resilience.testing import ManualClock
from tests.stores.host.conftest import MakeStore

SLOW = pace_of(Fraction(1, 1000), 2, 0)
QUICK = pace_of(Fraction(1), 2, 0)


def ask(store: HostStore, key: str | None, cost: int = 1, pace: Pace = SLOW) -> Answer:
    return store.buckets.take(Take("limit", key, pace, pace.capacity, cost))


def admitted(store: HostStore, key: str | None, cost: int = 1, pace: Pace = SLOW) -> bool:
    answer = ask(store, key, cost, pace)
    assert isinstance(answer, Decided), answer
    return answer.taken == cost


def keyed(store: HostStore) -> Table:
    return store.buckets._keyed["limit"]


@pytest.mark.parametrize("max_keys", [1, 7, 100, 5_000])
def test_keys_are_bounded_and_newcomers_share_one_bucket(store: HostStore, max_keys: int) -> None:
    store.buckets.prepare("limit", max_keys)
    assert [admitted(store, "old") for _ in range(3)] == [True, True, False]
    for number in range(2 * max_keys):
        admitted(store, f"a {number}")
    crowd = sum(admitted(store, f"b {number}") for number in range(1_000))
    assert not admitted(store, "old"), "who had spent is still known"
    assert crowd == 0, "what came before has spent the one burst that newcomers share"
    table = keyed(store)
    assert table.keys <= max_keys
    assert table.overflowed >= 1_000
    assert table.size.words * 8 < 80 * max_keys + 20_000


def test_all_keys_up_to_the_bound_have_buckets_of_their_own(store: HostStore) -> None:
    store.buckets.prepare("limit", 4_096)
    assert all(admitted(store, f"{number}", 2) for number in range(4_096))
    assert not any(admitted(store, f"{number}") for number in range(4_096))
    assert (keyed(store).keys, keyed(store).overflowed) == (4_096, 0)


def test_only_full_buckets_are_forgotten(store: HostStore, clock: ManualClock) -> None:
    store.buckets.prepare("limit", 50)
    for second in range(30):
        assert admitted(store, "busy", pace=QUICK) == (second == 0 or True)
        for number in range(20):
            assert admitted(store, f"{second} {number}", pace=QUICK)
        clock.advance(1.0)
    assert admitted(store, "busy", 2, QUICK)
    assert not admitted(store, "busy", 1, QUICK)
    for number in range(500):
        ask(store, f"crowd {number}", pace=QUICK)
    assert not admitted(store, "busy", 1, QUICK), "one that is not full is never forgotten"
    assert keyed(store).keys <= 50


def test_a_place_in_the_table_gives_no_second_burst(store: HostStore, clock: ManualClock) -> None:
    """A key that has spent from the overflow bucket, and then finds room, goes on from there."""
    store.buckets.prepare("limit", 1)
    assert admitted(store, "first", 1, QUICK)
    assert admitted(store, "second", 2, QUICK), "from the overflow bucket"
    clock.advance(1.0)
    assert keyed(store).overflowed == 1
    assert not admitted(store, "second", 2, QUICK), "the first is full and makes room, the overflow bucket is not"
    assert admitted(store, "second", 1, QUICK)


@pytest.mark.parametrize("key", [None, "somebody"])
def test_who_was_killed_while_writing_leaves_an_empty_bucket(make_store: MakeStore, clock: ManualClock, key: str | None) -> None:
    one, other = make_store(), make_store()
    assert admitted(one, key, 1, QUICK)
    table = one.buckets._plain["limit"] if key is None else keyed(one)
    record = PLAIN
    if key is not None:
        record = next(
            at for at in range(table.size.words - 1) if table._slots.is_record(at) and at > OVERFLOW and table.words[at + 3]
        )
    table.words[record] = 1 << 60  # half of what it was about to write
    table.words[STATE] = record
    assert not admitted(other, key, 1, QUICK), "it may have been spent"
    clock.advance(1.0)
    assert admitted(other, key, 1, QUICK), "and fills again at its rate"
    assert not admitted(one, key, 1, QUICK)
    assert table.words[STATE] == 0


def test_a_record_that_leads_nowhere_is_no_harm(store: HostStore) -> None:
    assert admitted(store, None)
    table = store.buckets._plain["limit"]
    for nonsense in (1, 3, 1_000_000, -7):
        table.words[STATE] = nonsense
        assert isinstance(ask(store, None), Decided)
        assert table.words[STATE] == 0


def test_whoever_read_the_clock_before_others_does_not_turn_time_back(make_store: MakeStore, clock: ManualClock) -> None:
    one, other = make_store(), make_store()
    pace = pace_of(Fraction(1000), 1_000, 0)
    assert admitted(one, None, 1_000, pace)
    before_us = clock.now_us()
    clock.advance(0.5)
    assert admitted(one, None, 500, pace)
    late = Take("limit", None, pace, pace.capacity, 1)
    other.buckets.take(late)
    for _ in range(5):
        assert other.buckets._plain["limit"].take(late, before_us) == Decided(0, 1_000, 0, False)
    clock.advance(0.1)
    assert isinstance(ask(one, None, 0, pace), Decided)
    assert ask(one, None, 0, pace) == Decided(0, 0, 100 * UNIT, False), "no stretch of time has counted twice"


def test_what_was_spent_elsewhere_is_charged_as_if_at_the_time(store: HostStore, clock: ManualClock) -> None:
    pace = pace_of(Fraction(10), 10, 0)
    assert admitted(store, None, 5, pace)
    clock.advance(10.0)
    store.buckets.owe(Take("limit", None, pace, pace.capacity, 12), 12)
    assert ask(store, None, 0, pace) == Decided(0, 0, 10 * UNIT, False), "the ten seconds have paid for it"
    store.buckets.owe(Take("limit", None, pace, pace.capacity, 4), 4)
    assert ask(store, None, 0, pace) == Decided(0, 0, 6 * UNIT, False)
    store.buckets.owe(Take("limit", None, pace, pace.capacity, 1_000), 1_000)
    assert ask(store, None, 0, pace) == Decided(0, 1_000_000, -10 * UNIT, False), (
        "no more than makes it as empty as it could be full"
    )
    store.buckets.owe(Take("limit", "nobody", pace, pace.capacity, 5), 5)
    assert admitted(store, "nobody", 10, pace), "one that was forgotten is full"


def test_debts_are_bounded(store: HostStore) -> None:
    for number in range(3_000):
        store.buckets.owe(Take("elsewhere", str(number), QUICK, QUICK.capacity, 1), 1)
    assert len(store.buckets._owed) <= 1_024


def test_more_keys_than_the_file_has_room_for_move_into_another(make_store: MakeStore, clock: ManualClock) -> None:
    one, other = make_store(), make_store()
    one.buckets.prepare("limit", 100)
    other.buckets.prepare("limit", 100)
    for number in range(100):
        assert admitted(one, f"{number}", 2)
    old = keyed(other)
    assert admitted(one, "beyond", 2)
    one.buckets.prepare("limit", 20_000)
    assert keyed(one).size.shards > old.size.shards
    ask(other, "0")
    assert keyed(other).file.inode == keyed(one).file.inode != old.file.inode, "the other process has followed"
    assert not any(admitted(other, f"{number}") for number in range(100)), "nobody has been given a fresh burst"
    assert not admitted(other, "beyond"), "nor has one that shared the overflow bucket"
    clock.advance(2_000.0)
    assert all(admitted(other, f"{number}", 2) for number in range(15_000))
    assert keyed(one).overflowed == 1


def test_fewer_keys_than_before_are_kept_by_and_by(store: HostStore, clock: ManualClock) -> None:
    store.buckets.prepare("limit", 1_000)
    for number in range(1_000):
        assert admitted(store, f"{number}", 2, QUICK)
    store.buckets.prepare("limit", 10)
    assert not admitted(store, "0", 1, QUICK)
    assert admitted(store, "new", 2, QUICK)
    assert keyed(store).overflowed == 1


def test_paces_of_long_ago_are_not_guessed(store: HostStore, clock: ManualClock) -> None:
    """The bucket of a key that nobody has asked about over more changes than are remembered has got nothing meanwhile."""
    assert admitted(store, "asleep", 2, QUICK)
    for epoch in range(1, 2 * RING_SIZE):
        phase = Phase(epoch, 0, 500_000_000 if epoch % 2 else 400_000_000, 0, 60_000_000)
        assert isinstance(ask(store, "awake", 0, pace_of(Fraction(1), 2, epoch, phase, clock.now_us())), Decided)
        clock.advance(0.001)
    clock.advance(10.0)
    last = pace_of(Fraction(1), 2, 2 * RING_SIZE, Phase(1, 0, 500_000_000, 0, 60_000_000), clock.now_us())
    assert not admitted(store, "asleep", 1, last)
    clock.advance(2.0)
    assert admitted(store, "asleep", 1, last)


def test_two_views_of_a_limit_at_one_time(make_store: MakeStore, clock: ManualClock) -> None:
    """One process has read the new configuration already: neither fills the bucket for the other."""
    one, other = make_store(), make_store()
    small, large = pace_of(Fraction(10), 10, 0), pace_of(Fraction(20), 20, 0)
    total = 0
    for _ in range(200):
        for store, pace in ((one, small), (other, large)):
            total += admitted(store, None, 1, pace)
        clock.advance(0.05)
    assert total <= 20 + 20 * 10


def test_whoever_was_forgotten_by_the_paces_is_forgotten_in_the_end(store: HostStore, clock: ManualClock) -> None:
    """Keys that nobody asks about any more make room, also where the pace that they went by is one too many changes ago."""
    store.buckets.prepare("limit", 20)
    for number in range(20):
        assert admitted(store, f"{number}", 1, QUICK)
    for epoch in range(1, 2 * RING_SIZE):
        phase = Phase(epoch, 0, 500_000_000 if epoch % 2 else 400_000_000, 0, 60_000_000)
        assert isinstance(ask(store, "0", 0, pace_of(Fraction(1), 2, epoch, phase, clock.now_us())), Decided)
        clock.advance(0.001)
    well = pace_of(Fraction(1), 2, 2 * RING_SIZE)
    for number in range(15):
        ask(store, f"early {number}", 1, well)
    clock.advance(10.0)
    before = keyed(store).overflowed
    assert all(admitted(store, f"new {number}", 1, well) for number in range(15))
    assert keyed(store).overflowed == before
