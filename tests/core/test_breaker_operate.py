"""What an operator does to a breaker: force it, put it in the shadow, change its settings while it lives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilience import BreakerChanged, BreakerState, Call, CircuitBreaker, CircuitOpen, HealthSignal, Outcome, Pipeline
from resilience.layers.breaker import BreakerPool, CircuitBreakerSettings
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Desk, Drive, attempt, fail, no_jitter, succeed

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED
OK, FAILED = Outcome.OK, Outcome.FAILED


def breaker_of(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(**{"min_calls": 2, "probes": 2, "clock": clock, "uniform": no_jitter, **settings})


def configure(breaker: CircuitBreaker, clock: ManualClock, **changes: Any) -> CircuitBreaker:
    """The breaker under new settings, over the same state."""
    settings = replace(breaker.pool.settings, **changes)
    breaker.pool.configure(settings, breaker.pool.health, clock.now_us())
    return CircuitBreaker.over(breaker.pool, settings, name=breaker.name, clock=clock)


# --- forced -----------------------------------------------------------------------------------------------------------


def test_forced_open_refuses_without_a_hint(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, name="payments")
    breaker.force("open")
    clock.advance(86_400.0)
    with pytest.raises(CircuitOpen) as refused:
        drive(Pipeline("p", breaker), succeed)
    assert (refused.value.reason, refused.value.retry_after_s) == ("forced", None)
    assert str(refused.value) == "payments: the circuit breaker is held open by its operator"


def test_forced_closed_lets_everything_pass(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    attempt(Pipeline("p", breaker), fail)
    breaker.force("closed")
    assert [attempt(Pipeline("p", breaker), fail, drive) for _ in range(50)] == ["failed"] * 50
    assert breaker.state is CLOSED


@pytest.mark.parametrize("state", ["open", "closed"])
def test_lifted_it_is_closed_with_a_fresh_window(clock: ManualClock, state: str) -> None:
    breaker = breaker_of(clock, consecutive_failures=2)
    attempt(Pipeline("p", breaker), fail)
    breaker.force(state)
    attempt(Pipeline("p", breaker), fail)
    breaker.force(None)
    assert breaker.state is CLOSED
    assert breaker.pool.single.failure_rate(clock.now_us()) == 0.0
    assert attempt(Pipeline("p", breaker), fail) == "failed"
    assert breaker.state is CLOSED, "nor does the row of failures go on"


def test_lifting_what_was_never_forced_changes_nothing(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    attempt(Pipeline("p", breaker), fail)
    with RecordingObserver() as observer:
        breaker.force(None)
    assert (breaker.state, observer.events) == (OPEN, [])


def test_calls_admitted_before_it_was_forced_vote_on_nothing(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    desk = Desk(breaker, clock)
    before = desk.admit()
    breaker.force("open")
    breaker.force(None)
    desk.settle(before, FAILED)
    assert breaker.state is CLOSED


def test_an_unknown_force_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match='force: must be "open", "closed" or None, got \'ajar\''):
        breaker_of(clock).force("ajar")


@pytest.mark.parametrize(("force", "outcome"), [("open", "refused"), ("closed", "failed"), (None, "failed")])
def test_born_forced(clock: ManualClock, force: str | None, outcome: str) -> None:
    health = HealthSignal(clock=clock)
    pool = BreakerPool("p", CircuitBreakerSettings(force=force), health, clock.now_us(), no_jitter)
    breaker = CircuitBreaker.over(pool, pool.settings, name="p", clock=clock)
    assert attempt(Pipeline("p", breaker), fail) == outcome
    assert health.factor == (0.3 if force == "open" else 1.0)


def test_what_is_forced_by_hand_outlives_a_reload_that_says_nothing_of_it(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    breaker.force("open")
    assert configure(breaker, clock, probes=7).state is OPEN
    assert configure(breaker, clock, force="closed").state is CLOSED
    assert configure(breaker, clock, force=None).state is CLOSED


# --- shadow -----------------------------------------------------------------------------------------------------------


def test_shadow_counts_and_refuses_nothing(clock: ManualClock, drive: Drive) -> None:
    breaker = breaker_of(clock, shadow=True, probes=1)
    pipeline = Pipeline("p", breaker)
    assert [attempt(pipeline, fail, drive) for _ in range(5)] == ["failed"] * 5
    assert breaker.state is OPEN
    assert breaker.decisions() == {"admitted": 2, "rejected": 0, "probe": 0, "would_reject": 3}
    clock.advance(30.0)
    assert attempt(pipeline, succeed, drive) == "ok"
    assert breaker.state is CLOSED
    assert breaker.decisions()["probe"] == 1


def test_shadow_says_what_it_would_have_done(clock: ManualClock) -> None:
    breaker = breaker_of(clock, shadow=True)
    breaker.force("open")
    call = Call(now_us=clock.now_us())
    assert breaker.admit(call) is None
    assert call.decision.value == "would_reject"


# --- new settings -----------------------------------------------------------------------------------------------------


def test_state_and_open_timer_outlive_new_settings(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(10.0)
    after = configure(breaker, clock, open_for_s=600.0, failure_rate=0.9, window_s=5.0)
    with pytest.raises(CircuitOpen) as refused:
        Pipeline("p", after).call(succeed)
    assert refused.value.retry_after_s == 20.0


@pytest.mark.parametrize(
    ("changes", "failure_rate"),
    [({"min_calls": 50}, 1.0), ({"probes": 1}, 1.0), ({"window_s": 31.0}, 0.0), ({"window_calls": 100}, 0.0)],
)
def test_the_window_outlives_new_settings_unless_it_is_another(
    clock: ManualClock, changes: dict[str, Any], failure_rate: float
) -> None:
    breaker = breaker_of(clock)
    attempt(Pipeline("p", breaker), fail)
    configure(breaker, clock, **changes)
    assert breaker.pool.single.failure_rate(clock.now_us()) == failure_rate


def test_calls_under_way_settle_under_the_new_settings(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    desk = Desk(breaker, clock)
    tickets = [desk.admit() for _ in range(2)]
    configure(breaker, clock, min_calls=5)
    for ticket in tickets:
        desk.settle(ticket, FAILED)
    assert breaker.state is CLOSED
    assert breaker.pool.single._window.calls == 2


def test_a_row_that_is_already_longer_than_a_new_bound_opens_at_the_next_failure(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=10, min_calls=1_000)
    for _ in range(5):
        attempt(Pipeline("p", breaker), fail)
    configure(breaker, clock, consecutive_failures=3)
    assert breaker.state is CLOSED
    attempt(Pipeline("p", breaker), fail)
    assert breaker.state is OPEN


@pytest.mark.parametrize("last", [OK, Outcome.IGNORED])
def test_fewer_probes_may_decide_at_once(clock: ManualClock, last: Outcome) -> None:
    breaker = breaker_of(clock, consecutive_failures=1, probes=5)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(30.0)
    desk = Desk(breaker, clock)
    for _ in range(2):
        desk.settle(desk.admit(), OK)
    in_flight = desk.admit()
    configure(breaker, clock, probes=2)
    assert breaker.state is HALF_OPEN, "one is still out"
    desk.settle(in_flight, last)
    assert breaker.state is CLOSED


def test_new_keys_go_by_the_new_settings(clock: ManualClock) -> None:
    breaker = breaker_of(clock, key=lambda call: None)
    old = Desk(breaker, clock)
    old.admit("known")
    configure(breaker, clock, consecutive_failures=1, max_keys=1)
    new = Desk(breaker, clock)
    for key in ("known", "new"):
        new.settle(new.admit(key), FAILED)
        assert new.is_refused(key)
    assert len(breaker.pool.table) == 1


def test_status_says_what_an_operator_asks(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1, name="payments")
    attempt(Pipeline("p", breaker), fail)
    clock.advance(10.0)
    status = breaker.status()
    assert {name: status[name] for name in ("state", "forced", "generation", "failure_rate", "opens_for_s", "keys")} == {
        "state": "open", "forced": None, "generation": 2, "failure_rate": 1.0, "opens_for_s": 20.0, "keys": 0,
    }  # fmt: skip
    assert repr(breaker) == "CircuitBreaker('payments', open)"


# --- told apart anew --------------------------------------------------------------------------------------------------


def test_another_key_closes_a_breaker_that_no_call_reaches_any_more_and_says_why(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    breaker = breaker_of(clock, consecutive_failures=1, health=health)
    attempt(Pipeline("p", breaker), fail)
    assert (breaker.state, health.in_incident) == (OPEN, True)
    with RecordingObserver() as observer:
        configure(breaker, clock, key="host")
    assert [(event.old, event.new, event.reason) for event in observer.events if isinstance(event, BreakerChanged)] == [
        ("open", "closed", "its key has changed")
    ]
    assert health.in_incident is False


def test_another_key_forgets_failures_in_a_row_and_the_window(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=2, min_calls=4)
    attempt(Pipeline("p", breaker), fail)
    for key in ("host", None):
        breaker = configure(breaker, clock, key=key)
    assert breaker.pool.single.failure_rate(clock.now_us()) == 0.0
    attempt(Pipeline("p", breaker), fail)
    assert breaker.state is CLOSED
    attempt(Pipeline("p", breaker), fail)
    assert breaker.state is OPEN


def test_another_key_leaves_what_an_operator_holds_open(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    breaker.force("open")
    with RecordingObserver() as observer:
        for key in ("host", None):
            breaker = configure(breaker, clock, key=key)
            assert attempt(Pipeline("p", breaker), succeed) == "refused"
    assert breaker.pool.single.state is OPEN
    assert all(event.new == "open" for event in observer.events if isinstance(event, BreakerChanged))


def test_whether_it_would_refuse_can_be_asked_and_changes_nothing(clock: ManualClock) -> None:
    """Open until its time is over, half-open while all probes are out; not where a call must come for it to go on."""
    breaker = CircuitBreaker(consecutive_failures=1, probes=2, open_for_s=10.0, clock=clock, uniform=no_jitter)

    def would_refuse() -> bool:
        generation = breaker.pool.single.generation
        answer = breaker.would_refuse(clock.now_us())
        assert breaker.pool.single.generation == generation
        return answer

    assert not would_refuse()
    attempt(Pipeline("p", breaker), fail)
    clock.advance(9.999_999)
    assert would_refuse()
    clock.advance(0.000_001)
    assert not would_refuse()
    desk = Desk(breaker, clock)
    first = desk.admit()
    assert not would_refuse()
    second = desk.admit()
    assert would_refuse()
    clock.advance(9.999_999)
    assert would_refuse()
    clock.advance(0.000_001)  # the probes count as failed, once somebody comes
    assert not would_refuse()
    for probe in (first, second):
        desk.settle(probe, OK)
    breaker.force("open")
    assert would_refuse()


@pytest.mark.parametrize("settings", [{"key": lambda call: "a"}, {"shadow": True}])
def test_one_with_keys_or_in_the_shadow_never_says_that_it_would(clock: ManualClock, settings: dict[str, Any]) -> None:
    breaker = CircuitBreaker(clock=clock, **settings)
    breaker.force("open")
    assert not breaker.would_refuse(clock.now_us())


def test_it_would_refuse_where_all_probes_are_out_or_done(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=3, open_for_s=10.0, clock=clock, uniform=no_jitter)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(10.0)
    desk = Desk(breaker, clock)
    probes = [desk.admit() for _ in range(3)]
    desk.settle(probes[0], OK)
    assert breaker.would_refuse(clock.now_us())
