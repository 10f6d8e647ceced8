"""The health board of the host: what one process's breaker does to the limits of all."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, Hold
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import pace_of
from resilience.stores.host import HostStore
from resilience.testing import ManualClock
from tests.stores.host.conftest import MakeStore


class Process:
    """A process as far as health goes: a store of its own, one signal, one breaker."""

    def __init__(self, store: HostStore, clock: ManualClock, quorum: int = 1) -> None:
        self.store = store
        self.clock = clock
        self.signal = FleetHealthSignal(store, quorum=quorum, settings=HealthSettings(), name="default", clock=clock)
        self.hold = Hold()
        store.join(self.signal)

    def open(self, for_s: float | None = 30.0) -> None:
        now_us = self.clock.now_us()
        self.signal.opened(self.hold, now_us, None if for_s is None else now_us + round(for_s * 1e6))

    def close(self) -> None:
        self.signal.closed(self.hold, self.clock.now_us())

    @property
    def factor(self) -> float:
        return self.signal.factor


Start = Callable[..., Process]


@pytest.fixture
def start(make_store: MakeStore, clock: ManualClock) -> Start:
    return lambda quorum=1: Process(make_store(), clock, quorum)


def beat(*processes: Process, seconds: float = 0.0) -> None:
    """Each beats; then every half second again, for so long."""
    for process in processes:
        process.store.beat()
    for _ in range(round(seconds * 2)):
        processes[0].clock.advance(0.5)
        for process in processes:
            process.store.beat()


def test_an_opening_is_seen_by_all_at_their_next_beat(start: Start) -> None:
    one, two, three = start(), start(), start()
    one.open()
    assert [one.factor, two.factor] == [0.3, 1.0], "the opener is cut at once"
    beat(one, two, three)
    assert [process.factor for process in (one, two, three)] == [pytest.approx(0.3)] * 3
    assert {process.signal.epoch for process in (one, two, three)} == {2}, "counted from 1"


def test_one_incident_is_one_cut_for_all(start: Start) -> None:
    processes = [start() for _ in range(4)]
    for process in processes:
        process.open()
    beat(*processes, seconds=3)
    assert all(process.factor == pytest.approx(0.3) for process in processes)
    assert {process.signal.status()["fleet_incident"] for process in processes} == {1}


def test_recovery_begins_with_the_last_and_all_climb_together(start: Start) -> None:
    one, two, idle = start(), start(), start()
    one.open(None)
    two.open(None)
    beat(one, two, idle, seconds=2)
    one.close()
    beat(one, two, idle, seconds=60)
    assert idle.factor == pytest.approx(0.3), "one still holds it"
    two.close()
    beat(two)
    ended_us = two.clock.now_us()
    beat(one, two, idle, seconds=59)
    assert {process.factor for process in (one, two, idle)} == {0.3}
    beat(one, two, idle, seconds=1)
    assert {process.factor for process in (one, two, idle)} == {0.35}
    assert {process.signal.phase.start_us for process in (one, two, idle)} == {ended_us}
    beat(one, two, idle, seconds=60 * 13)
    assert {process.factor for process in (one, two, idle)} == {1.0}


def test_the_mark_of_a_killed_process_lapses_after_five_seconds(start: Start) -> None:
    killed, other = start(), start()
    killed.open(None)
    beat(killed, other)
    beat(other, seconds=4.5)
    assert other.signal.status()["fleet_incident"] == 1
    assert other.signal.in_incident
    beat(other, seconds=0.5)
    assert not other.signal.in_incident
    started_us = other.signal.phase.start_us
    beat(other, seconds=61)
    assert other.factor == pytest.approx(0.35)
    assert other.clock.now_us() - started_us >= 61_000_000


def test_a_process_that_was_stopped_and_wakes_starts_no_second_incident(start: Start) -> None:
    stopped, other = start(), start()
    stopped.open(None)
    beat(stopped, other, seconds=1)
    beat(other, seconds=10)  # the mark has lapsed
    assert not other.signal.in_incident
    beat(stopped, other, seconds=3)
    assert other.signal.status()["fleet_incident"] == 1
    assert other.factor == stopped.factor == pytest.approx(0.3)
    beat(stopped, other, seconds=60)
    assert other.factor == stopped.factor == pytest.approx(0.35)


def test_a_quorum(start: Start) -> None:
    one, two, three = start(2), start(2), start(2)
    one.open(None)
    beat(one, two, three, seconds=1)
    assert [process.factor for process in (one, two, three)] == [1.0] * 3
    two.open(None)
    beat(one, two, three, seconds=1)
    assert [process.factor for process in (one, two, three)] == [pytest.approx(0.3)] * 3


def test_a_process_that_starts_takes_what_is_there(start: Start) -> None:
    one = start()
    one.open(None)
    beat(one)
    assert start().factor == pytest.approx(0.3)


def test_a_board_whose_lock_was_not_to_be_had_is_asked_again_soon(start: Start) -> None:
    one, two = start(), start()
    one.open(None)
    beat(one)
    turn = two.store._boards["default"]._turn
    turn.held, turn.is_late = True, True
    beat(two)
    assert (two.factor, two.store.next_beat_s) == (1.0, 0.05)
    turn.held = False
    beat(two)
    assert (two.factor, two.store.next_beat_s) == (0.3, 0.4)


def test_who_leaves_takes_its_mark_along(start: Start) -> None:
    one, two = start(), start()
    one.open(None)
    beat(one, two)
    one.store.leave(one.signal)
    beat(two)
    assert not two.signal.in_incident


def test_a_board_that_is_lost_is_restored_by_who_has_seen_it(start: Start, folder: Path) -> None:
    """A cleaner of temporary files removes all: the incident goes on, it is not a second one."""
    one, two = start(), start()
    one.open(None)
    beat(one, two, seconds=1)
    for path in folder.rglob("*.*"):
        path.unlink()
    beat(two, one, seconds=2)
    assert one.signal.status()["fleet_incident"] == two.signal.status()["fleet_incident"] == 1
    assert one.factor == two.factor == pytest.approx(0.3)
    one.close()
    beat(one, two, seconds=60 + 6)  # until marks that were lost with it would have lapsed, nobody knows that there are none
    assert one.factor == two.factor == pytest.approx(0.35)


def test_without_its_board_a_process_goes_by_its_own_breakers(make_store: MakeStore, folder: Path, clock: ManualClock) -> None:
    (folder / f"resilience-{os.geteuid()}").touch()  # nothing can be made where a file is in the way
    process = Process(make_store(), clock)
    beat(process, seconds=3)
    assert not process.signal.status()["shared"]
    process.open(None)
    assert process.factor == pytest.approx(0.3)
    process.close()
    beat(process, seconds=60)
    assert process.factor == pytest.approx(0.35)
    assert "Not a directory" in process.store.status()["trouble"]


def test_workers_are_counted(start: Start) -> None:
    one, two, three, parent = start(), start(), start(), start()
    pace = pace_of(Fraction(1), 1, 0)
    for process in (one, two, three):
        process.store.buckets.take(Take("limit", None, pace, pace.capacity, 1))
    beat(one, two, three, parent)
    beat(one, two, three, parent)
    assert one.store.buckets.workers == parent.store.buckets.workers == 3, "one that decides nothing is none"
    three.store.close()
    beat(one)
    assert one.store.buckets.workers == 2
    beat(one, seconds=5)
    assert one.store.buckets.workers == 1, "one that does not beat is not there"
