"""The health of a fleet, arithmetic alone: processes with clocks of their own, a board with another, and no store between them."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import HealthSignal, RateLimiter
from resilience.fleet_health import LAPSES_US, Board, FleetHealthSignal, FleetState, renewed
from resilience.health import HealthSettings, Hold
from resilience.testing import ManualClock
from tests.core.test_limiter import admitted

MINUTE_S = 60.0


class BoardInMemory:
    """The store's side: a board, a clock of its own, and an outage that a test can switch."""

    def __init__(self) -> None:
        self.board = Board(FleetState(), {})
        self.now_us = 1_800_000_000_000_000
        self.is_away = False

    def advance(self, duration_s: float) -> None:
        self.now_us += round(duration_s * 1_000_000)


class Process:
    """One process: its clock, its signal, and a breaker's hand on it."""

    def __init__(self, store: BoardInMemory, name: str, *, quorum: int = 1, skew_s: float = 0.0, **settings: Any) -> None:
        self.store = store
        self.name = name
        self.clock = ManualClock()
        self.clock.advance(1_000.0 + skew_s)
        self.woken = 0
        self.signal = FleetHealthSignal(self, quorum=quorum, settings=HealthSettings(**settings), name="default", clock=self.clock)
        self.hold = Hold()
        self.is_stopped = False

    def wake(self) -> None:
        self.woken += 1

    def open(self, hold: Hold | None = None) -> None:
        self.signal.opened(hold or self.hold, self.clock.now_us(), None)

    def close(self) -> None:
        self.signal.closed(self.hold, self.clock.now_us())

    def renew(self) -> None:
        """What the store's thread does once a second."""
        if self.is_stopped:
            return
        if self.store.is_away:
            self.signal.away(self.clock.now_us())
            return
        for _ in range(3):
            mark, openings = self.signal.mark(self.clock.now_us())
            self.store.board = renewed(self.store.board, self.name, mark, self.store.now_us)
            offset_us = self.store.now_us - self.clock.now_us()
            if self.signal.follow(self.store.board.state, openings, self.clock.now_us(), offset_us):
                return


class Fleet:
    """All of them, in step once a second."""

    def __init__(self, count: int = 4, **settings: Any) -> None:
        self.store = BoardInMemory()
        skews_s = (0.0, 61.0, -61.0, 5.5)
        self.processes = [Process(self.store, str(number), skew_s=skews_s[number % 4], **settings) for number in range(count)]
        self.run(1.0)

    def run(self, duration_s: float) -> None:
        """Let time pass, a second at a time."""
        for _ in range(round(duration_s)):
            self.store.advance(1.0)
            for process in self.processes:
                process.clock.advance(1.0)
                process.renew()

    @property
    def factors(self) -> list[float]:
        return [process.signal.factor for process in self.processes]

    @property
    def incidents(self) -> int:
        return self.store.board.state.incident


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_one_opening_cuts_all_within_a_second(fleet: Fleet) -> None:
    first = fleet.processes[0]
    woken = first.woken
    first.open()
    assert first.signal.factor == 0.3, "its own process at once"
    assert first.woken > woken
    fleet.run(1.0)
    assert fleet.factors == [0.3] * 4


def test_one_incident_is_one_cut_however_many_open(fleet: Fleet) -> None:
    fleet = Fleet(floor=0.01)
    for process in fleet.processes:
        process.open()
        fleet.run(1.0)
    assert fleet.factors == [0.3] * 4
    assert fleet.incidents == 1
    assert [process.signal.incidents for process in fleet.processes] == [1] * 4


def test_two_that_open_at_once_are_one_incident() -> None:
    fleet = Fleet(floor=0.01)
    for process in fleet.processes:
        process.open()
    fleet.run(2.0)
    assert fleet.factors == [0.3] * 4
    assert fleet.incidents == 1


def test_recovery_begins_when_the_last_closes_and_all_climb_together(fleet: Fleet) -> None:
    for process in fleet.processes[:2]:
        process.open()
    fleet.run(10.0)
    fleet.processes[0].close()
    fleet.run(200.0)
    assert fleet.factors == [0.3] * 4, "one still holds it"
    fleet.processes[1].close()
    fleet.run(MINUTE_S)
    assert fleet.factors == [0.3] * 4, "it was heard of a second later"
    fleet.run(1.0)
    assert fleet.factors == [0.35] * 4
    fleet.run(13 * MINUTE_S)
    assert fleet.factors == [1.0] * 4


def test_a_mark_that_is_not_renewed_lapses(fleet: Fleet) -> None:
    fleet.processes[0].open()
    fleet.run(10.0)
    fleet.processes[0].is_stopped = True
    fleet.run(4.0)
    assert fleet.store.board.state.in_incident
    fleet.run(1.0)
    assert not fleet.store.board.state.in_incident
    fleet.run(MINUTE_S)
    assert fleet.factors[1:] == [0.35] * 3, "counted from the instant at which it lapsed"


def test_a_process_that_wakes_after_the_end_starts_no_second_incident(fleet: Fleet) -> None:
    sleeper = fleet.processes[0]
    sleeper.open()
    fleet.run(2.0)
    sleeper.is_stopped = True
    fleet.run(10.0)
    assert not fleet.store.board.state.in_incident
    sleeper.is_stopped = False
    fleet.run(3.0)
    assert fleet.incidents == 1
    assert not fleet.store.board.state.in_incident
    fleet.run(MINUTE_S)
    assert fleet.factors == [0.35] * 4, "the sleeper climbs with the others"


def test_a_probe_that_fails_after_the_end_is_a_new_incident(fleet: Fleet) -> None:
    sleeper = fleet.processes[0]
    sleeper.open()
    fleet.run(2.0)
    sleeper.is_stopped = True
    fleet.run(10.0)
    sleeper.is_stopped = False
    fleet.run(1.0)
    sleeper.open()
    fleet.run(1.0)
    assert fleet.incidents == 2
    assert fleet.factors == [0.3] * 4


def test_a_probe_that_fails_in_the_next_incident_is_a_part_of_that(fleet: Fleet) -> None:
    """Its process was stopped while the incident ended that its breaker was marked with, and holds the next one as others do."""
    sleeper, other = fleet.processes[1], fleet.processes[2]
    sleeper.open()
    fleet.run(2.0)
    sleeper.is_stopped = True
    fleet.run(10.0)
    other.open()
    fleet.run(1.0)
    sleeper.is_stopped = False
    fleet.run(1.0)
    assert set(fleet.store.board.marks) == {other.name}, "that its breaker is open still is no news"
    sleeper.open()
    fleet.run(1.0)
    other.close()
    fleet.run(2 * MINUTE_S)
    assert fleet.factors == [0.3] * 4
    assert fleet.incidents == 2
    sleeper.close()
    fleet.run(MINUTE_S + 1)
    assert fleet.factors == [0.35] * 4


def test_a_store_that_forgets_is_told_again(fleet: Fleet) -> None:
    fleet = Fleet(floor=0.01)
    fleet.processes[2].open()
    fleet.run(5.0)
    fleet.store.board = Board(FleetState(), {})
    fleet.run(1.0)
    assert fleet.factors == [0.3] * 4, "no second cut"
    assert fleet.incidents == 1
    assert fleet.store.board.state.in_incident
    fleet.run(20.0)
    assert fleet.store.board.state.in_incident, "its mark was renewed"
    fleet.processes[2].close()
    fleet.run(2 * MINUTE_S + 1)
    assert fleet.factors == [0.4] * 4
    fleet.store.board = Board(FleetState(), {})
    fleet.run(MINUTE_S)
    assert fleet.factors == [0.45] * 4, "a climb goes on where it was"


def test_a_process_that_starts_takes_what_there_is(fleet: Fleet) -> None:
    fleet.processes[0].open()
    fleet.run(3.0)
    fleet.processes[0].close()
    fleet.run(3 * MINUTE_S + 1)
    fleet.processes.append(Process(fleet.store, "new", skew_s=1_000.0))
    fleet.run(1.0)
    assert fleet.factors == [0.45] * 5
    assert fleet.processes[-1].signal.incidents == 0


def test_an_incident_that_is_over_at_once_was_one(fleet: Fleet) -> None:
    fleet.processes[0].open()
    fleet.processes[0].close()
    fleet.run(3.0)
    assert fleet.incidents == 1
    assert fleet.factors == [0.3] * 4
    assert not fleet.store.board.state.in_incident
    fleet.run(14 * MINUTE_S)
    assert fleet.factors == [1.0] * 4


def test_a_quorum_cuts_all_and_one_alone_nobody() -> None:
    fleet = Fleet(quorum=2)
    fleet.processes[0].open()
    fleet.run(10.0)
    assert fleet.factors == [1.0] * 4
    fleet.processes[3].open()
    fleet.run(2.0)
    assert fleet.factors == [0.3] * 4
    fleet.processes[3].close()
    fleet.run(10.0)
    assert fleet.store.board.state.in_incident, "it stays while any is open"
    fleet.processes[0].close()
    fleet.run(MINUTE_S + 1)
    assert fleet.factors == [0.35] * 4


def test_one_short_of_a_quorum_that_closes_leaves_nothing() -> None:
    fleet = Fleet(quorum=2)
    fleet.processes[0].open()
    fleet.run(2.0)
    fleet.processes[0].close()
    fleet.run(2.0)
    fleet.processes[1].open()
    fleet.run(2.0)
    assert fleet.factors == [1.0] * 4
    assert fleet.incidents == 0


# --- without the store --------------------------------------------------------------------------------------------------------


def test_without_the_store_own_breakers_count_alone(fleet: Fleet) -> None:
    fleet.store.is_away = True
    fleet.run(1.0)
    fleet.processes[1].open()
    fleet.run(5.0)
    assert fleet.factors == [1.0, 0.3, 1.0, 1.0]
    fleet.store.is_away = False
    fleet.run(2.0)
    assert fleet.factors == [0.3] * 4, "the others hear of it when it is back"


def test_without_the_store_what_was_seen_last_goes_on(fleet: Fleet) -> None:
    fleet.processes[1].open()
    fleet.run(2.0)
    fleet.store.is_away = True
    fleet.run(30.0)
    assert fleet.factors == [0.3] * 4
    fleet.processes[1].close()
    fleet.run(29.0)
    assert fleet.factors == [0.3] * 4
    fleet.run(2 * MINUTE_S)
    assert all(factor > 0.3 for factor in fleet.factors), "nobody stays cut for ever"


def test_short_steps_of_recovery_let_nobody_off_between_two_readings_of_the_board() -> None:
    fleet = Fleet(every_s=0.1, recover=1.0)
    fleet.processes[0].open()
    fleet.run(1.0)
    for _ in range(4):
        for process in fleet.processes[1:]:
            process.clock.advance(0.24)
            assert process.signal.factor == 0.3
    fleet.run(1.0)
    fleet.store.is_away = True
    fleet.run(4.0)
    assert fleet.factors == [0.3] * 4
    fleet.run(2.0)
    assert fleet.factors == [0.3, 1.0, 1.0, 1.0], "its own breaker's process alone"


def test_a_quorum_is_not_waited_for_without_the_store() -> None:
    fleet = Fleet(quorum=2)
    fleet.processes[0].open()
    fleet.run(1.0)
    assert fleet.factors == [1.0] * 4
    fleet.store.is_away = True
    fleet.run(1.0)
    assert fleet.factors == [0.3, 1.0, 1.0, 1.0]


def test_new_settings_start_from_the_factor_reached(fleet: Fleet) -> None:
    fleet.processes[0].open()
    fleet.run(2.0)
    fleet.processes[0].close()
    fleet.run(2 * MINUTE_S + 1)
    assert fleet.factors == [0.4] * 4
    faster = HealthSettings(every_s=10.0, recover=0.1)
    for process in fleet.processes:
        process.signal.configure(faster, process.clock.now_us())
    fleet.run(11.0)
    assert fleet.factors == [0.5] * 4
    fleet.run(50.0)
    assert fleet.factors == [1.0] * 4


def test_the_board_s_clock_may_be_set_back(fleet: Fleet) -> None:
    fleet.processes[0].open()
    fleet.run(2.0)
    fleet.processes[0].close()
    fleet.run(61.0)
    assert fleet.factors == [0.35] * 4
    fleet.store.advance(-3_600.0)
    fleet.run(14 * MINUTE_S)
    assert fleet.factors == [1.0] * 4


def test_limiters_follow_the_fleet(fleet: Fleet) -> None:
    process = fleet.processes[3]
    limiter = RateLimiter(10.0, burst=100, health=process.signal, clock=process.clock)
    assert admitted(limiter, process.clock, 200) == 100
    fleet.processes[0].open()
    fleet.run(10.0)
    assert admitted(limiter, process.clock, 200) in (30, 37), "the second in which nobody knew of it at most at the old rate"
    fleet.run(1.0)
    assert admitted(limiter, process.clock, 200) == 3


def test_it_is_told_as_a_signal_is(fleet: Fleet) -> None:
    signal = fleet.processes[0].signal
    assert isinstance(signal, HealthSignal)
    assert signal.status() == {
        "factor": 1.0,
        "in_incident": False,
        "incidents": 0,
        "shared": True,
        "fleet_incident": 0,
        "epoch": 0,
        "quorum": 1,
    }
    assert LAPSES_US == 5_000_000
