"""What a deadline tells, counts and hands on, to the word: what operators and dashboards read."""

from __future__ import annotations

import pytest

from resilience import Call, Deadline, DeadlineExceeded
from resilience.call import Decision
from resilience.layers.deadline import CurrentDeadline, DeadlineSettings, DeadlineState, deadline_us_around
from resilience.layers.timeouts import PARSERS
from resilience.testing import ManualClock


def call_with(clock: ManualClock, *, name: str = "", timeout_s: float | None = None) -> Call:
    call = Call(name, now_us=clock.now_us())
    call.timeout_s = timeout_s
    return call


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spoken"), [("", "the call"), ("GET /orders", "GET /orders")])
def test_a_call_without_time_is_refused_in_words(clock: ManualClock, name: str, spoken: str) -> None:
    call = call_with(clock, name=name, timeout_s=0.0)
    with pytest.raises(DeadlineExceeded) as refused:
        Deadline(name="edge", clock=clock).admit(call)
    error = refused.value
    assert str(error) == f"edge: the time for {spoken} had run out before it began"
    assert (error.policy, error.reason) == ("edge", "expired_on_arrival")
    assert call.decision is Decision.EXPIRED


@pytest.mark.parametrize(("name", "spoken"), [("", "the call"), ("GET /orders", "GET /orders")])
def test_a_call_that_ran_out_is_told_in_words(clock: ManualClock, name: str, spoken: str) -> None:
    error = Deadline(1.0, name="edge", clock=clock).exceeded(call_with(clock, name=name))
    assert str(error) == f"edge: the time for {spoken} ran out"
    assert (error.policy, error.reason) == ("edge", "expired")


def test_work_that_asks_is_told_in_words(clock: ManualClock) -> None:
    deadline = CurrentDeadline(clock.now_us() + 1, clock)
    deadline.check()
    clock.advance(0.000_001)
    with pytest.raises(DeadlineExceeded) as late:
        deadline.check()
    assert str(late.value) == "the time for this call has run out"
    assert (late.value.policy, late.value.reason) == ("deadline", "expired")


def test_a_microsecond_is_time_enough_to_begin(clock: ManualClock) -> None:
    call = call_with(clock, timeout_s=0.000_001)
    Deadline(clock=clock).admit(call)
    assert call.deadline_us == clock.now_us() + 1


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_default_may_be_the_most(clock: ManualClock) -> None:
    assert us_of(Deadline(5.0, 5.0, clock=clock), clock) == 5_000_000


def us_of(deadline: Deadline, clock: ManualClock) -> int | None:
    """What it gives a call that brings no time of its own."""
    call = call_with(clock)
    deadline.admit(call)
    return None if call.deadline_us is None else call.deadline_us - clock.now_us()


def test_headers_that_it_cannot_read_are_named() -> None:
    with pytest.raises(ValueError, match="knows") as refused:
        Deadline(read=("x-timeout", "grpc-timeout", "x-deadline"))
    assert str(refused.value) == (
        "DeadlineSettings.read: knows grpc-timeout, x-envoy-expected-rq-timeout-ms, connect-timeout-ms; "
        "got 'x-timeout', 'x-deadline'"
    )


# --- counts -----------------------------------------------------------------------------------------------------------


def test_every_call_is_counted(clock: ManualClock) -> None:
    deadline = Deadline(5.0, clock=clock)
    for _ in range(3):
        deadline.admit(call_with(clock))
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            deadline.admit(call_with(clock, timeout_s=0.0))
    deadline.exceeded(call_with(clock))
    for _ in range(4):
        deadline.state.count_malformed()
    assert deadline.decisions() == {"admitted": 3, "expired": 3}
    assert deadline.status() == {"default_s": 5.0, "malformed_headers": 4, "admitted": 3, "expired": 3}


def test_a_new_deadline_goes_on_with_the_counts_of_the_old(clock: ManualClock) -> None:
    state = DeadlineState()
    Deadline.over(state, DeadlineSettings(5.0), name="edge", clock=clock).admit(call_with(clock))
    after = Deadline.over(state, DeadlineSettings(2.0, 3.0), name="edge", clock=clock)
    call = call_with(clock)
    after.admit(call)
    assert call.deadline_us == clock.now_us() + 2_000_000
    assert (after.clock, after.state, after.decisions()["admitted"]) == (clock, state, 2)
    assert repr(after) == "Deadline('edge', default_s=2.0, max_s=3.0)"


# --- what is told -----------------------------------------------------------------------------------------------------


def test_spans_carry_the_time_that_is_left(clock: ManualClock) -> None:
    deadline = Deadline(clock=clock)
    unbound, bound = call_with(clock), call_with(clock, timeout_s=2.5)
    deadline.admit(unbound)
    deadline.admit(bound)
    assert deadline.attributes(unbound) == {}
    assert deadline.attributes(bound) == {"resilience.deadline.remaining_s": 2.5}


def test_the_nearest_call_that_is_still_in_progress_binds() -> None:
    """Calls inside each other, the innermost first: its deadline, and whether it is over."""
    table: list[tuple[list[tuple[int | None, bool]], int | None]] = [
        ([], None),
        ([(None, False)], None),
        ([(5, False)], 5),
        ([(5, True)], None),
        ([(None, False), (5, False)], 5),
        ([(None, True), (5, False)], 5),
        ([(3, False), (5, False)], 3),
        ([(3, True), (5, False)], 5),
        ([(3, True), (None, False), (7, False)], 7),
    ]
    for calls, expected in table:
        innermost = None
        for deadline_us, settled in reversed(calls):
            call = Call()
            call.deadline_us, call.settled, call.parent = deadline_us, settled, innermost
            innermost = call
        assert deadline_us_around(innermost) == expected, calls


def test_the_seconds_of_a_header_are_exact() -> None:
    assert PARSERS["grpc-timeout"]("99999999S") == 99_999_999.0
    assert PARSERS["grpc-timeout"]("250m") == 0.25
