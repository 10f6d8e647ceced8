"""The health signal at its edges: the very instant of a change, news that must not be lost, and what each phase promises."""

from __future__ import annotations

import pytest

from resilience import HealthSignal
from resilience.events import HealthChanged
from resilience.health import NEVER_US, PPB, HealthSettings, Hold, Phase
from resilience.testing import ManualClock, RecordingObserver

MINUTE_US = 60_000_000


@pytest.mark.parametrize(
    ("factor_ppb", "step_ppb", "elapsed_us", "next_us"),
    [
        (PPB, 0, 0, NEVER_US),
        (300_000_000, 0, 0, NEVER_US),  # in an incident it stands still, however low
        (300_000_000, 0, 10 * MINUTE_US, NEVER_US),
        (300_000_000, 1, 0, MINUTE_US),  # the smallest step is a step
        (300_000_000, 50_000_000, 0, MINUTE_US),
        (300_000_000, 50_000_000, MINUTE_US - 1, MINUTE_US),
        (300_000_000, 50_000_000, MINUTE_US, 2 * MINUTE_US),
        (300_000_000, 50_000_000, 13 * MINUTE_US, 14 * MINUTE_US),
        (300_000_000, 50_000_000, 14 * MINUTE_US, NEVER_US),  # back at 1
        (300_000_000, 50_000_000, -5, MINUTE_US),  # time that goes backwards
    ],
)
def test_when_a_phase_moves_next(factor_ppb: int, step_ppb: int, elapsed_us: int, next_us: int) -> None:
    start_us = 7
    phase = Phase(1, start_us, factor_ppb, step_ppb, MINUTE_US)
    assert phase.next_step_us(start_us + elapsed_us) == (NEVER_US if next_us == NEVER_US else start_us + next_us)


@pytest.mark.parametrize("given", [True, False])
def test_new_settings_hold_from_the_instant_that_is_given_or_else_from_now(clock: ManualClock, given: bool) -> None:
    signal = HealthSignal(every_s=60.0, recover=0.05, clock=clock)
    hold = Hold()
    signal.opened(hold, clock.now_us(), clock.now_us())
    signal.closed(hold, clock.now_us())
    now_us = clock.now_us() + (150_000_000 if given else 0)
    signal.configure(HealthSettings(every_s=10.0, recover=0.1), now_us if given else None)
    percent = [signal.factor_ppb_at(now_us + seconds * 1_000_000) // 10_000_000 for seconds in (0, 9, 10, 20)]
    assert percent == ([40, 40, 50, 60] if given else [30, 30, 40, 50])


def test_the_incident_of_one_instant_ends_for_all_who_let_go_by_then(clock: ManualClock) -> None:
    """Of two breakers one is reached no more, and lets go at the very instant at which the other closes."""
    signal = HealthSignal(every_s=60.0, clock=clock)
    first, second = Hold(), Hold()
    start_us = clock.now_us()
    signal.opened(first, start_us, start_us)
    signal.opened(second, start_us, start_us + 30_000_000)
    signal.closed(second, start_us + MINUTE_US)
    clock.advance(60.0)
    assert not signal.in_incident
    assert signal.factor_ppb_at(start_us + 2 * MINUTE_US - 1) == 300_000_000
    assert signal.factor_ppb_at(start_us + 2 * MINUTE_US) == 350_000_000


def test_a_hold_that_is_shortened_lets_go_in_its_new_time(clock: ManualClock) -> None:
    signal = HealthSignal(every_s=60.0, clock=clock)
    hold = Hold()
    start_us = clock.now_us()
    signal.opened(hold, start_us, None)
    signal.opened(hold, start_us, start_us)
    assert signal.stretch.until_us == start_us + MINUTE_US
    clock.advance(60.0)
    assert not signal.in_incident
    assert signal.incidents == 1


def test_a_recovery_that_nobody_read_is_told_by_who_closes(clock: ManualClock) -> None:
    signal = HealthSignal(name="payments", every_s=60.0, clock=clock)
    hold = Hold()
    signal.opened(hold, clock.now_us(), clock.now_us())
    clock.advance(200.0)
    assert signal.closed(hold, clock.now_us()) == [HealthChanged("payments", 0.3, 0.4, "recovery")]
    assert signal.closed(hold, clock.now_us()) == []


def test_what_time_brings_is_told_before_what_is_done_now(clock: ManualClock) -> None:
    signal = HealthSignal(name="payments", floor=0.1, every_s=60.0, clock=clock)
    signal.opened(Hold(), clock.now_us(), clock.now_us())
    clock.advance(180.0)
    assert signal.opened(Hold(), clock.now_us(), None) == [
        HealthChanged("payments", 0.3, 0.4, "recovery"),
        HealthChanged("payments", 0.4, 0.12, "incident"),
    ]


def test_phases_are_numbered_from_nought_and_the_distant_past_is_forgotten(clock: ManualClock) -> None:
    signal = HealthSignal(clock=clock)
    hold = Hold()
    for _ in range(2):
        signal.opened(hold, clock.now_us(), None)
        signal.closed(hold, clock.now_us())
    assert [phase.number for phase in signal.phases_after(-1)] == [0, 1, 2, 3, 4]
    assert [phase.number for phase in signal.phases_after(3)] == [4]
    for _ in range(500):
        signal.opened(hold, clock.now_us(), None)
        signal.closed(hold, clock.now_us())
    kept = [phase.number for phase in signal.phases_after(-1)]
    assert kept == list(range(1_005 - len(kept), 1_005))
    assert len(kept) < 100


def test_status_and_name(clock: ManualClock) -> None:
    signal = HealthSignal(name="payments", cut=0.75, clock=clock)
    assert signal.status() == {"factor": 1.0, "in_incident": False, "incidents": 0}
    with RecordingObserver() as observer:
        events = signal.opened(Hold(), clock.now_us(), None)
    assert observer.events == [], "who opens it tells, once it holds no lock"
    assert events == [HealthChanged("payments", 1.0, 0.25, "incident")]
    assert signal.status() == {"factor": 0.25, "in_incident": True, "incidents": 1}
    assert repr(signal) == "HealthSignal('payments', factor=0.25)"
