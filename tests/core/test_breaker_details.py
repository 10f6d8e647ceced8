"""What a breaker tells, counts and hands on, to the word: what operators and dashboards read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilience import BreakerState, Call, CircuitBreaker, CircuitOpen, Deadline, HealthSignal, Outcome, Pipeline
from resilience.events import BreakerChanged, Event, HealthChanged
from resilience.layers.breaker.machine import Machine, Refusal, Ticket
from resilience.layers.breaker.window import CountWindow, TimeWindow
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Desk, attempt, fail, no_jitter, succeed

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED
OK, FAILED, IGNORED = Outcome.OK, Outcome.FAILED, Outcome.IGNORED


def breaker_of(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(**{"min_calls": 2, "probes": 2, "clock": clock, "uniform": no_jitter, **settings})


def call_at(clock: ManualClock, key: str | None = None) -> Call:
    return Call("test", key=key, now_us=clock.now_us())


# --- what is told -----------------------------------------------------------------------------------------------------


def test_spans_carry_state_generation_and_failure_rate(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=4, failure_rate=1.0)
    for work in (fail, succeed, succeed, fail):
        attempt(Pipeline("p", breaker), work)
    assert breaker.attributes(call_at(clock)) == {
        "resilience.breaker.state": "closed",
        "resilience.breaker.generation": 1,
        "resilience.breaker.failure_rate": 0.5,
    }


def test_spans_forget_a_failure_to_the_very_instant(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=9, window_s=10.0)
    attempt(Pipeline("p", breaker), fail)
    window = breaker.pool.single._window
    for _ in range(9):
        clock.advance((window.until_us - clock.now_us()) / 1_000_000)
        assert breaker.attributes(call_at(clock))["resilience.breaker.failure_rate"] == 1.0
    clock.advance((window.until_us - clock.now_us()) / 1_000_000)
    assert breaker.attributes(call_at(clock))["resilience.breaker.failure_rate"] == 0.0


def test_spans_carry_the_factor_of_the_signal_it_writes(clock: ManualClock) -> None:
    breaker = breaker_of(clock, health=HealthSignal(cut=0.6, clock=clock), consecutive_failures=1)
    assert breaker.attributes(call_at(clock))["resilience.health.factor"] == 1.0
    attempt(Pipeline("p", breaker), fail)
    assert breaker.attributes(call_at(clock)) == {
        "resilience.breaker.state": "open",
        "resilience.breaker.generation": 2,
        "resilience.breaker.failure_rate": 1.0,
        "resilience.health.factor": 0.4,
    }


def test_spans_of_a_keyed_breaker_speak_of_the_calls_own(clock: ManualClock) -> None:
    breaker = breaker_of(clock, key=lambda call: None, consecutive_failures=1)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit("dead"), FAILED)
    assert breaker.attributes(call_at(clock, "dead"))["resilience.breaker.state"] == "open"
    assert breaker.attributes(call_at(clock, "well"))["resilience.breaker.state"] == "closed"


def test_decisions_add_up_over_all_keys(clock: ManualClock) -> None:
    breaker = breaker_of(clock, key=lambda call: None, consecutive_failures=1, probes=1)
    desk = Desk(breaker, clock)
    for key, refusals in (("a", 1), ("b", 2)):
        desk.settle(desk.admit(key), FAILED)
        for _ in range(refusals):
            assert desk.is_refused(key)
        clock.advance(30.0)
        desk.settle(desk.admit(key), OK)
    assert breaker.decisions() == {"admitted": 2, "rejected": 3, "probe": 2, "would_reject": 0}
    shadow = breaker_of(clock, key=lambda call: None, consecutive_failures=1, shadow=True)
    for key, calls in (("a", 2), ("b", 3)):
        for _ in range(calls):
            call = call_at(clock, key)
            ticket = shadow.admit(call)
            if ticket is not None:
                shadow.settle(ticket, FAILED, call, clock.now_us())
    assert shadow.decisions() == {"admitted": 2, "rejected": 0, "probe": 0, "would_reject": 3}


def test_a_raising_classifier_is_logged_with_the_name_of_its_policy(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    breaker = breaker_of(clock, name="payments", classify=lambda call: Outcome(call.name.upper()))
    attempt(Pipeline("p", breaker), succeed)
    (record,) = caplog.records
    assert record.getMessage() == "payments: its classifier raised; the default rules hold"
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("elapsed_s", "opens_for_s"), [(0.0, 30.0), (10.0, 20.0), (29.999_999, 0.000_001), (30.0, 0.0), (90.0, 0.0)]
)
def test_status_counts_the_open_time_down_to_nothing(clock: ManualClock, elapsed_s: float, opens_for_s: float) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(elapsed_s)
    assert breaker.status()["opens_for_s"] == opens_for_s


def test_status_has_no_open_time_unless_open(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    assert breaker.status()["opens_for_s"] == 0.0
    attempt(Pipeline("p", breaker), fail)
    breaker.force("closed")
    assert (breaker.status()["state"], breaker.status()["opens_for_s"]) == ("closed", 0.0)


class _Ticketed:
    """A layer of somebody else's, whose tokens are no tickets."""

    kind, name, votes_at_start, has_effects = "other", "other", False, False

    def admit(self, call: Call) -> str:
        return "a token"

    def settle(self, *_: object) -> None: ...


def test_a_breaker_inside_a_call_that_holds_other_tokens(clock: ManualClock) -> None:
    inner = breaker_of(clock)
    outer = Pipeline("outer", breaker_of(clock), _Ticketed(), Deadline(1.0, clock=clock))
    assert outer.call(lambda: Pipeline("inner", inner).call(succeed)) == "done"
    assert inner.decisions()["admitted"] == 1


def test_a_failure_rate_of_nothing_is_refused_in_words(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="above 0 %") as refused:
        breaker_of(clock, failure_rate=0.0)
    assert str(refused.value) == "CircuitBreakerSettings.failure_rate: must be above 0 % and at most 100 %, got 0 %"


# --- slow calls -------------------------------------------------------------------------------------------------------


def test_a_call_as_long_as_the_bound_is_not_slow(clock: ManualClock) -> None:
    breaker = breaker_of(clock, slow_call_s=1.0, min_calls=1)
    pipeline = Pipeline("p", breaker)
    pipeline.call(lambda: clock.advance(1.0))
    assert breaker.state is CLOSED
    pipeline.call(lambda: clock.advance(1.000_001))
    assert breaker.state is OPEN, "half of the calls were slow"


def test_the_count_window_forgets_slow_calls_too() -> None:
    window = CountWindow(2)
    counts = []
    for slow in (True, True, False, False, True):
        window.add(0, False, slow)
        counts.append(window.slow_calls)
    assert counts == [1, 2, 1, 0, 1]


# --- probes -----------------------------------------------------------------------------------------------------------


def probed(clock: ManualClock, probes: str, **settings: Any) -> tuple[CircuitBreaker, list[Event]]:
    """A breaker after its probes ended so (`.` well, `s` slow, `x` failed, `h` hung until its time was over), and what it told."""
    breaker = breaker_of(clock, consecutive_failures=1, slow_call_s=1.0, **{"probes": len(probes), **settings})
    desk = Desk(breaker, clock)
    desk.settle(desk.admit(), FAILED)
    clock.advance(breaker.status()["opens_for_s"])
    with RecordingObserver() as observer:
        tickets = [desk.admit() for _ in probes]
        for end in ".x":
            for ticket in [each for each, how in zip(tickets, probes, strict=True) if how == end]:
                desk.settle(ticket, FAILED if end == "x" else OK)
        if "s" in probes:
            clock.advance(1.5)
        for ticket in [each for each, how in zip(tickets, probes, strict=True) if how == "s"]:
            desk.settle(ticket, OK)
        if "h" in probes:
            clock.advance(30.0)
            desk.is_refused()
    return breaker, observer.events[1:]


@pytest.mark.parametrize(
    ("probes", "settings", "state", "reason"),
    [
        ("....", {}, CLOSED, "4 of 4 probes succeeded"),
        ("...x", {}, CLOSED, "3 of 4 probes succeeded"),
        ("..xx", {}, OPEN, "2 of 4 probes failed"),
        ("...s", {}, CLOSED, "4 of 4 probes succeeded"),
        ("..ss", {}, OPEN, "2 of 4 probes were slow"),
        ("...s", {"slow_call_rate": 0.25}, OPEN, "1 of 4 probes were slow"),
        ("...s", {"slow_call_rate": 0.0}, OPEN, "1 of 4 probes were slow"),
        ("....", {"slow_call_rate": 0.0}, CLOSED, "4 of 4 probes succeeded"),
        ("..xs", {}, CLOSED, "3 of 4 probes succeeded"),
        ("..hh", {}, OPEN, "2 of 4 probes failed"),
        ("...h", {"failure_rate": 0.5, "slow_call_rate": 0.25}, CLOSED, "3 of 4 probes succeeded"),  # failed, and not slow as well
    ],
)
def test_what_probes_say_in_words(
    clock: ManualClock, probes: str, settings: dict[str, Any], state: BreakerState, reason: str
) -> None:
    health = HealthSignal(clock=clock)
    breaker, events = probed(clock, probes, health=health, **settings)
    assert breaker.state is state
    assert told(events[0]) == ("breaker", reason)
    assert health.in_incident is (state is OPEN)


@pytest.mark.parametrize(
    ("calls", "settings", "reason"),
    [
        (".x", {}, "1 of 2 calls failed"),
        ("..xx", {"min_calls": 4}, "2 of 4 calls failed"),
        ("xx.", {"min_calls": 3}, "2 of 3 calls failed"),  # a success may be the call that makes them enough
        ("xxx", {"min_calls": 10, "consecutive_failures": 3}, "3 failures in a row"),
        (".xxx", {"min_calls": 10, "consecutive_failures": 3}, "3 failures in a row"),
        ("xx.xxx", {"min_calls": 10, "consecutive_failures": 3}, "3 failures in a row"),
        (".ss", {"min_calls": 3}, "2 of 3 calls were slow"),
        ("ss.", {"min_calls": 3}, "2 of 3 calls were slow"),
        ("...s", {"min_calls": 4, "slow_call_rate": 0.25}, "1 of 4 calls were slow"),
        ("....", {}, None),
        ("..xx", {"min_calls": 5}, None),
        (".xx", {"min_calls": 10, "consecutive_failures": 3}, None),
        ("xx.xx", {"min_calls": 10, "consecutive_failures": 3}, None),
        ("...s", {"min_calls": 4}, None),
        ("s...", {"min_calls": 4}, None),
        ("...s", {"min_calls": 4, "slow_call_rate": 0.26}, None),
    ],
)
def test_why_it_opens_in_words(clock: ManualClock, calls: str, settings: dict[str, Any], reason: str | None) -> None:
    """At the last of these calls, and not before: `.` well, `s` slow, `x` failed."""
    health = HealthSignal(clock=clock)
    breaker = breaker_of(clock, slow_call_s=1.0, health=health, **settings)
    with RecordingObserver() as observer:
        for how in calls:
            assert breaker.state is CLOSED
            call = call_at(clock)
            ticket = breaker.admit(call)
            assert ticket is not None
            clock.advance(1.5 if how == "s" else 0.0)
            breaker.settle(ticket, FAILED if how == "x" else OK, call, clock.now_us())
    assert breaker.state is (CLOSED if reason is None else OPEN)
    assert [told(event) for event in observer.events] == ([] if reason is None else [("breaker", reason), ("default", "incident")])
    assert health.in_incident is (reason is not None)


def test_calls_of_an_older_generation_are_counted_though_they_do_not_vote(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1)
    desk = Desk(breaker, clock)
    ticket = desk.admit()
    for outcome in (FAILED, OK, FAILED, OK):
        desk.settle(ticket, outcome)
    assert breaker.decisions()["admitted"] == 4
    assert breaker.pool.single.generation == 2


@pytest.mark.parametrize("jump", [9, 10, 11, 12, 19, 20, 21, 1_000])
@pytest.mark.parametrize("last", range(10))
def test_a_pause_as_long_as_the_window_forgets_all_of_it(jump: int, last: int) -> None:
    window = TimeWindow(10_000)
    for bucket in range(last, last + 10):
        window.add(bucket * 1_000, True, True)
    assert (window.calls, window.failures, window.slow_calls) == (10, 10, 10)
    window.expire((last + 9 + jump) * 1_000)
    kept = max(0, 10 - jump)
    assert (window.calls, window.failures, window.slow_calls) == (kept, kept, kept)


def test_every_probe_is_counted(clock: ManualClock) -> None:
    breaker, _ = probed(clock, "....")
    assert breaker.decisions() == {"admitted": 1, "rejected": 0, "probe": 4, "would_reject": 0}


def test_slow_recoveries_lengthen_the_open_time_as_failed_ones_do(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1, probes=1, slow_call_s=1.0, open_for_s=10.0, open_growth=2.0)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit(), FAILED)
    opens_for_s = []
    for _ in range(4):
        opens_for_s.append(breaker.status()["opens_for_s"])
        clock.advance(breaker.status()["opens_for_s"])
        probe = desk.admit()
        clock.advance(1.5)
        desk.settle(probe, OK)
    assert opens_for_s == [10.0, 20.0, 40.0, 80.0]


def test_the_hint_while_probes_are_out_is_exact_to_the_last_microsecond(clock: ManualClock) -> None:
    breaker = breaker_of(clock, consecutive_failures=1, probes=1, half_open_for_s=5.0)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit(), FAILED)
    clock.advance(30.0)
    probe = desk.admit()
    for elapsed_s, retry_after_s in ((0.0, 5.0), (4.0, 1.0), (0.999_999, 0.000_001)):
        clock.advance(elapsed_s)
        with pytest.raises(CircuitOpen) as refused:
            desk.admit()
        assert (refused.value.reason, refused.value.retry_after_s) == ("half_open", retry_after_s)
    desk.settle(probe, OK)
    assert breaker.state is CLOSED


# --- new settings over a living state ---------------------------------------------------------------------------------


def test_a_breaker_made_over_a_pool_keeps_its_name_and_its_keys(clock: ManualClock) -> None:
    old = breaker_of(clock, key="method", name="payments", consecutive_failures=1)
    breaker = CircuitBreaker.over(old.pool, old.settings, name="payments", clock=clock)
    assert (breaker.name, breaker.clock) == ("payments", clock)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit("GET"), FAILED)
    with pytest.raises(CircuitOpen, match=r"^payments: the circuit breaker is open; retry in 30 s$"):
        desk.admit("GET")
    assert not desk.is_refused("POST")


def test_new_keys_write_the_signal_that_a_reload_named(clock: ManualClock) -> None:
    breaker = breaker_of(clock, key=lambda call: None, consecutive_failures=1)
    health = HealthSignal(clock=clock)
    breaker.pool.configure(breaker.settings, health, clock.now_us())
    desk = Desk(breaker, clock)
    desk.settle(desk.admit("new"), FAILED)
    assert health.in_incident


def half_open(clock: ManualClock, outcomes: list[Outcome], **settings: Any) -> CircuitBreaker:
    """A breaker whose probes have ended so, of more that it waits for."""
    breaker = breaker_of(clock, consecutive_failures=1, **settings)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(30.0)
    desk = Desk(breaker, clock)
    for outcome in outcomes:
        desk.settle(desk.admit(), outcome)
    assert breaker.state is HALF_OPEN
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "state", "reason"),
    [([OK, OK], CLOSED, "2 of 2 probes succeeded"), ([FAILED, FAILED], OPEN, "2 of 2 probes failed")],
)
def test_probes_that_are_enough_under_new_settings_decide_at_once(
    clock: ManualClock, outcomes: list[Outcome], state: BreakerState, reason: str
) -> None:
    health = HealthSignal(clock=clock)
    breaker = half_open(clock, outcomes, probes=5, health=health)
    clock.advance(1.0)
    with RecordingObserver() as observer:
        breaker.pool.configure(replace(breaker.settings, probes=2), health, clock.now_us())
    assert breaker.state is state
    assert [getattr(event, "reason", None) for event in observer.events][:1] == [reason]
    if state is OPEN:
        assert breaker.status()["opens_for_s"] == 30.0, "counted from the reload, which decided"
    assert health.in_incident is (state is OPEN)


def test_a_reload_that_forces_and_moves_tells_all_of_it(clock: ManualClock) -> None:
    """Leaving one signal, whose steps of recovery nobody has read, and opening on another: all is told, in order."""
    old, new = HealthSignal(name="old", clock=clock), HealthSignal(name="new", clock=clock)
    breaker = breaker_of(clock, consecutive_failures=1, health=old)
    attempt(Pipeline("p", breaker), fail)
    clock.advance(200.0)
    with RecordingObserver() as observer:
        breaker.pool.configure(replace(breaker.settings, force="open"), new, clock.now_us())
    assert [told(event) for event in observer.events] == [("old", "recovery"), ("breaker", "forced open"), ("new", "incident")]


def test_a_reload_that_moves_and_decides_tells_all_of_it(clock: ManualClock) -> None:
    old, new = HealthSignal(name="old", clock=clock), HealthSignal(name="new", clock=clock)
    breaker = half_open(clock, [FAILED, FAILED], probes=5, health=old)
    with RecordingObserver() as observer:
        breaker.pool.configure(replace(breaker.settings, probes=2), new, clock.now_us())
    assert [told(event) for event in observer.events] == [("new", "incident"), ("breaker", "2 of 2 probes failed")]
    assert not old.in_incident
    assert new.in_incident


def told(event: Event) -> tuple[str, str]:
    """Who changed, and why."""
    if isinstance(event, BreakerChanged):
        return event.policy, event.reason
    assert isinstance(event, HealthChanged)
    return event.signal, event.reason


def test_what_an_operator_does_is_told_in_words(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    with RecordingObserver() as observer:
        for state in ("open", "open", None, "closed", None):
            breaker.force(state)
    assert [told(event)[1] for event in observer.events] == ["forced open", "no longer forced", "forced closed", "no longer forced"]


def test_a_new_key_of_a_policy_that_is_held_open_is_born_so(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    breaker = breaker_of(clock, key=lambda call: None, health=health)
    breaker.force("open")
    clock.advance(3600.0)
    with pytest.raises(CircuitOpen, match="held open by its operator"):
        Desk(breaker, clock).admit("new")
    breaker.pool.single.force(None, clock.now_us())
    assert health.in_incident, "the new key holds the signal too"


# --- slow calls, and successes that open ------------------------------------------------------------------------------


def ended(breaker: CircuitBreaker, clock: ManualClock, ends: str) -> BreakerState:
    """The state after calls that end as told: "." well, "s" well but slow, "x" failed and "X" failed and slow."""
    machine = breaker.pool.single
    for end in ends:
        ticket = machine.admit(clock.now_us(), shadow=False)
        assert isinstance(ticket, Ticket)
        machine.settle(ticket, FAILED if end in "xX" else OK, None, clock.now_us(), slow=end in "sX")
    return breaker.state


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("ss.", CLOSED),  # too few calls to judge
        ("ss..", OPEN),  # the last of the least number of calls tips it, though it went well
        ("s...", CLOSED),
        ("xx..", OPEN),
        ("x...", CLOSED),
        ("sx..", CLOSED),  # neither share is reached
        ("X.X.", OPEN),
    ],
)
def test_a_success_that_makes_up_the_least_number_of_calls_can_open(clock: ManualClock, ends: str, state: BreakerState) -> None:
    breaker = breaker_of(clock, min_calls=4, failure_rate=0.5, slow_call_s=1.0, slow_call_rate=0.5)
    assert ended(breaker, clock, ends) is state


@pytest.mark.parametrize(("ends", "state"), [("sss", CLOSED), ("sx", CLOSED), ("xsx", CLOSED), ("sxx", OPEN), ("XX", OPEN)])
def test_a_slow_success_is_no_failure_in_a_row(clock: ManualClock, ends: str, state: BreakerState) -> None:
    breaker = breaker_of(clock, min_calls=99, consecutive_failures=2, slow_call_s=1.0)
    assert ended(breaker, clock, ends) is state


def refused(machine: Machine, now_us: int, *, shadow: bool = False) -> tuple[str, int | None] | None:
    """Why a machine refuses at an instant, and for how long it will; None where it lets through."""
    answer = machine.admit(now_us, shadow=shadow)
    return (answer.reason, answer.retry_after_us) if isinstance(answer, Refusal) else None


def test_an_open_breaker_refuses_to_the_microsecond_and_counts_each(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=1, open_for_s=2.0, probes=2, uniform=no_jitter)
    machine = breaker.pool.single
    opened_us = clock.now_us()
    attempt(Pipeline("p", breaker), fail)
    assert refused(machine, opened_us) == ("open", 2_000_000)
    assert refused(machine, opened_us + 1_999_999) == ("open", 1)
    assert (machine.rejected, machine.would_reject) == (2, 0)
    for _ in range(3):
        assert refused(machine, opened_us, shadow=True) == ("open", 2_000_000)
    assert (machine.rejected, machine.would_reject) == (2, 3)
    assert breaker.state is OPEN
    assert refused(machine, opened_us + 2_000_000) is None
    assert refused(machine, opened_us + 1_999_999) is None  # late, and a probe all the same: it is half-open by now
    assert refused(machine, opened_us + 2_000_000) == ("half_open", 1_999_999)
    assert (machine.rejected, machine.would_reject, machine.probed) == (3, 3, 2)
    breaker.force("closed")  # lets go of the probes


def test_a_late_call_is_told_that_an_operator_holds_it(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    breaker.force("open")
    assert refused(breaker.pool.single, clock.now_us() - 1) == ("forced", None)
    breaker.force(None)
    assert refused(breaker.pool.single, clock.now_us() - 1) is None


def test_the_refusal_of_an_open_breaker_says_who_and_for_how_long(clock: ManualClock) -> None:
    breaker = breaker_of(clock, min_calls=1, open_for_s=2.0, name="db", uniform=no_jitter)
    pipeline = Pipeline("p", breaker)
    attempt(pipeline, fail)
    clock.advance(0.5)
    for count in (1, 2):
        with pytest.raises(CircuitOpen) as caught:
            pipeline.call(succeed)
        assert (caught.value.policy, caught.value.reason, caught.value.retry_after_s) == ("db", "open", 1.5)
        assert caught.value.args == ()
        assert breaker.decisions()["rejected"] == count
