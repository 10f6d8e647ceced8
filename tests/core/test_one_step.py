"""What goes without a lock is one step: nothing in it lets another thread in. See `resilience/mark.py`."""

from __future__ import annotations

import dis
import inspect
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from resilience import Call, CircuitBreaker, HealthSignal, Outcome, RateLimited, RateLimiter, mark
from resilience.fleet_health import FleetHealthSignal
from resilience.health import PPB, Hold
from resilience.layers.breaker.machine import Machine, Ticket
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.layers.breaker.window import CountWindow, TimeWindow
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.limiter.state import LimiterState
from resilience.layers.limiter.table import BucketTable
from resilience.layers.limiter.tokens import TOKEN, TokenClock
from resilience.mark import Mark
from resilience.testing import ManualClock

WHOLE_STEP: Final = frozenset(
    (
        *("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "STORE_FAST", "STORE_FAST_STORE_FAST", "STORE_FAST_LOAD_FAST"),
        *(
            "UNPACK_SEQUENCE",
            "LOAD_CONST",
            "LOAD_GLOBAL",
            "LOAD_ATTR",
            "STORE_ATTR",
            "BINARY_OP",
            "BINARY_SUBSCR",
            "STORE_SUBSCR",
            "UNARY_NEGATIVE",
        ),
        *("COMPARE_OP", "CONTAINS_OP", "IS_OP", "TO_BOOL", "COPY", "SWAP", "NOP", "CACHE", "EXTENDED_ARG", "JUMP_FORWARD"),
        *("POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE"),
        *("POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"),
        *("RETURN_VALUE", "RETURN_CONST"),
    )
)
"""Instructions at which CPython 3.11 to 3.13 lets no other thread in, where they work on numbers, texts, tuples, lists, dicts
and slots."""
HOME: Final = (
    LimiterState,
    TokenClock,
    BucketTable,
    Machine,
    Ticket,
    TimeWindow,
    CountWindow,
    Mark,
    HealthSignal,
    FleetHealthSignal,
)


def steps_of(function: Callable[..., Any]) -> list[dis.Instruction]:
    """The instructions between "# One step" and "# So far."."""
    if "mutants" in Path.cwd().parts:
        pytest.skip("what is run for a mutant calls the function that was changed")
    lines, first = inspect.getsourcelines(function)
    begins = next(number for number, line in enumerate(lines) if "# One step" in line) + first
    ends = next(number for number, line in enumerate(lines) if "# So far." in line) + first
    instructions = dis.get_instructions(function)
    return [found for found in instructions if found.positions is not None and begins < (found.positions.lineno or 0) < ends]


STEPS: Final = [LimiterState.draw, LimiterState.draw_telling, LimiterState.standing, Machine.settle, Machine.failure_rate]


@pytest.mark.parametrize("function", STEPS)
def test_no_instruction_of_it_lets_another_thread_in(function: Callable[..., Any]) -> None:
    steps = steps_of(function)
    assert len(steps) > (12 if function.__qualname__.startswith("Machine") else 30)
    assert {step.opname for step in steps} <= WHOLE_STEP


@pytest.mark.parametrize("function", STEPS)
def test_no_attribute_in_it_is_computed(function: Callable[..., Any]) -> None:
    names = {step.argval for step in steps_of(function) if step.opname in ("LOAD_ATTR", "STORE_ATTR")}
    assert names & {"steady", "calm_until_us"}
    computed = [f"{home.__name__}.{name}" for home in HOME for name in names if isinstance(home.__dict__.get(name), property)]
    assert computed == []
    assert not isinstance(RateLimiterSettings.__dict__["shadow"], property)  # all that is read of the settings
    assert not any(hasattr(home, "__getattr__") or home.__getattribute__ is not object.__getattribute__ for home in HOME)


@pytest.mark.parametrize("name", ["rejected", "would_reject"])
def test_a_count_is_read_in_one_step(name: str) -> None:
    read = LimiterState.__dict__[name].fget
    steps = list(dis.get_instructions(read))
    assert {step.opname for step in steps} <= WHOLE_STEP | {"RESUME"}
    assert not any(isinstance(LimiterState.__dict__.get(step.argval), property) for step in steps if step.opname == "LOAD_ATTR")


def test_a_call_in_it_would_be_found() -> None:
    def function(number: int) -> int:
        # One step
        number += len("ab")
        # So far.
        return number

    assert not {step.opname for step in steps_of(function)} <= WHOLE_STEP


# --- by many threads --------------------------------------------------------------------------------------------------------------


@contextmanager
def switching_often() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)


def together(*works: Callable[[], object]) -> None:
    """Run all of them at once, and until all are done."""
    threads = [threading.Thread(target=work) for work in works]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.fixture(params=["by marks", "by locks"])
def marks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by locks":
        monkeypatch.setattr(mark, "STEPS_ARE_WHOLE", False)


@pytest.mark.usefixtures("marks")
def test_a_bucket_gives_out_no_token_twice_and_loses_none_while_others_change_it(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    limiter = RateLimiter(1.0, burst=40_000, key=lambda call: "", health=health, clock=clock)
    state, settings = limiter.state, limiter.settings
    admitted: Counter[int] = Counter()

    def take(number: int) -> None:
        for _ in range(15_000):
            if state.take("client", 1, clock.now_us()) == 0:
                admitted[number] += 1

    def change() -> None:
        for number in range(1_000):
            state.take(f"new {number}", 1, clock.now_us())  # goes into the table
            state.configure(replace(settings, max_keys=1_000 + number), clock.now_us())
            state.sync(clock.now_us())

    together(*(lambda number=number: take(number) for number in range(4)), change)
    assert sum(admitted.values()) == 40_000
    assert state.admitted == 41_000
    assert state.rejected == 20_000


@pytest.mark.skipif(not mark.STEPS_ARE_WHOLE, reason="to take and to look are two steps here")
def test_each_call_is_told_what_its_own_token_has_left(clock: ManualClock) -> None:
    state = RateLimiter(1.0, burst=10_000, clock=clock).state
    assert state.take(None, 1, clock.now_us()) == 0  # a bucket that is not known yet is taken from and looked at in two
    told: list[int] = []

    def take() -> None:
        for _ in range(3_000):
            short_us, _, left = state.draw_telling(None, TOKEN, clock.now_us(), state.settings)
            if not short_us:
                told.append(left)

    together(take, take, take, take)
    assert sorted(told) == list(range(9_999))
    assert (state.admitted, state.rejected) == (10_000, 2_001)


def test_what_takes_and_tells_in_one_go_follows_the_signal_step_by_step(clock: ManualClock) -> None:
    health, hold = HealthSignal(recover=0.2, every_s=1.0, clock=clock), Hold()
    state, began_us = RateLimiter(1.0, burst=100, health=health, clock=clock).state, clock.now_us()
    factors = [state.draw_telling(None, TOKEN, began_us, state.settings)[1].factor_ppb / PPB]
    health.opened(hold, began_us, began_us + 1_000_000)
    for _ in range(5):  # the hold lapses after two seconds, and the factor climbs from then on
        factors.append(state.draw_telling(None, 0, clock.now_us(), state.settings)[1].factor_ppb / PPB)
        clock.advance(1.0)
        assert health.factor_ppb_at(clock.now_us()) == health.sync(clock.now_us()).factor_ppb_at(
            clock.now_us()
        )  # others look first
    assert factors == [1.0, 0.3, 0.3, 0.3, 0.5, 0.7]
    assert state.draw_telling(None, TOKEN, clock.now_us(), state.settings)[1].factor_ppb / PPB == 0.9


def test_what_takes_and_tells_in_one_go_notices_itself_that_a_hold_has_lapsed(clock: ManualClock) -> None:
    health = HealthSignal(recover=0.2, every_s=1.0, clock=clock)
    state, began_us = RateLimiter(1.0, burst=100, health=health, clock=clock).state, clock.now_us()
    state.draw_telling(None, TOKEN, began_us, state.settings)
    health.opened(Hold(), began_us, began_us + 1_000_000)
    state.draw_telling(None, TOKEN, began_us, state.settings)
    clock.advance(3.0)
    assert state.draw_telling(None, TOKEN, clock.now_us(), state.settings)[1].factor_ppb / PPB == 0.5


def test_a_late_call_is_told_what_the_settings_leave_it_that_it_began_with(clock: ManualClock) -> None:
    state = RateLimiter(10.0, burst=3, clock=clock).state
    late = state.settings
    assert [state.draw_telling(None, TOKEN, clock.now_us(), late)[2] for _ in range(2)] == [2, 1]
    state.configure(replace(late, burst=30), clock.now_us())
    clock.advance(0.3)  # tokens have come back, but not for a call of before
    short_us, tokens, left = state.draw_telling(None, TOKEN, clock.now_us(), late)
    assert (short_us, tokens.burst, left) == (0, 3, 0)
    assert state.draw_telling(None, TOKEN, clock.now_us(), late)[0] == -1  # by the present clock they would be there
    assert state.draw_telling(None, TOKEN, clock.now_us(), state.settings) == (0, state.tokens, 2)
    assert state.draw_telling(None, 9 * TOKEN, clock.now_us(), state.settings) == (-700_000, state.tokens, 0)


def test_a_late_call_is_refused_too_where_the_present_clock_has_just_what_it_needs(clock: ManualClock) -> None:
    state = RateLimiter(10.0, burst=3, clock=clock).state
    late, began_us = state.settings, clock.now_us()
    state.take(None, 3, began_us, late)
    state.configure(replace(late, burst=30), began_us)
    clock.advance(0.1)
    assert state.take(None, 1, clock.now_us(), late) == 1
    assert state.take(None, 1, clock.now_us()) == 0  # it is still there


class Name(str):
    """A text that compares by code of its own, in which another thread may come in."""

    __slots__ = ()

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


class Tokens(int):
    """A number that does so."""

    def __eq__(self, other: object) -> bool:
        return int.__eq__(self, other)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __mul__(self, other: int) -> int:
        return int.__mul__(self, other)


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("explicit", [False, True])
def test_keys_and_costs_of_classes_of_their_own_are_made_plain(clock: ManualClock, explicit: bool) -> None:
    limiter = RateLimiter(1.0, burst=40_000, key=lambda call: Name("client"), cost=Tokens(2), clock=clock)
    admitted: Counter[int] = Counter()

    def take(number: int) -> None:
        for _ in range(7_500):
            call = Call(key=Name("client") if explicit else None, now_us=clock.now_us())
            with suppress(RateLimited):
                limiter.admit(call)
                admitted[number] += 1

    together(*(lambda number=number: take(number) for number in range(4)))
    assert sum(admitted.values()) == limiter.state.admitted == 20_000
    assert [type(key) for part in limiter.state.table.young for key in part] == [str]


@pytest.mark.usefixtures("marks")
def test_a_window_counts_every_call_while_others_look_and_vote(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_rate=1.0, min_calls=1_000_000, clock=clock)
    machine = breaker.pool.single

    def succeed() -> None:
        for _ in range(20_000):
            ticket = machine.closed_ticket
            assert ticket is not None
            machine.settle(ticket, Outcome.OK, None, clock.now_us())

    def fail_and_look() -> None:
        for _ in range(1_000):
            ticket = machine.closed_ticket
            assert ticket is not None
            machine.settle(ticket, Outcome.FAILED, None, clock.now_us())
            machine.failure_rate(clock.now_us())

    together(succeed, succeed, succeed, fail_and_look)
    assert machine.admitted == 61_000
    assert machine.failure_rate(clock.now_us()) == 1_000 / 61_000


class Noting:
    """A lock that notes how often it was taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("is_changing", [False, True])
def test_who_finds_a_mark_set_waits_for_the_lock(clock: ManualClock, is_changing: bool) -> None:
    state, machine = RateLimiter(1.0, burst=2, clock=clock).state, CircuitBreaker(clock=clock).pool.single
    assert state.take(None, 1, clock.now_us()) == 0  # from now on its bucket is known
    machine.failure_rate(clock.now_us())  # and here the present part of the window
    ticket = machine.closed_ticket
    assert ticket is not None
    lock = Noting()
    state.lock = machine.lock = lock  # type: ignore[assignment]

    def barred() -> None:
        if is_changing:
            state.bar()
            machine.bar()

    barred()
    assert state.take(None, 1, clock.now_us()) == 0
    assert lock.taken == is_changing
    machine.settle(ticket, Outcome.OK, None, clock.now_us())
    assert lock.taken == 2 * is_changing
    barred()
    assert state.standing(None, clock.now_us(), state.settings)[1] == 0
    assert machine.failure_rate(clock.now_us()) == 0.0
    assert lock.taken == 4 * is_changing
    clock.advance(1.0)
    barred()
    assert state.draw_telling(None, TOKEN, clock.now_us(), state.settings) == (0, state.tokens, 0)
    assert lock.taken == 5 * is_changing


class Barring:
    """What a mark bars and lets go."""

    is_barred = True

    def bar(self) -> None:
        self.is_barred = True

    def unbar(self) -> None:
        self.is_barred = False


def test_single_steps_are_barred_while_something_changes() -> None:
    owner = Barring()
    marking = Mark(owner)
    assert owner.is_barred is False
    with marking:
        assert owner.is_barred is True
    assert owner.is_barred is False


def test_a_success_in_one_step_ends_a_row_of_failures(clock: ManualClock) -> None:
    machine = CircuitBreaker(consecutive_failures=2, clock=clock).pool.single
    for outcome in [*([Outcome.OK] * 9), Outcome.FAILED, Outcome.OK, Outcome.FAILED]:
        ticket = machine.closed_ticket
        assert ticket is not None
        machine.settle(ticket, outcome, None, clock.now_us())
    assert machine.closed_ticket is not None


def test_a_mark_that_was_left_set_is_cleared_by_the_next_change(clock: ManualClock) -> None:
    state = RateLimiter(1.0, burst=2, clock=clock).state
    known = state.steady
    state.bar()
    assert state.take(None, 1, clock.now_us()) == 0
    assert state.steady == known
    assert state.take(None, 1, clock.now_us()) == 0
    assert state.take(None, 1, clock.now_us()) > 0


def test_a_state_whose_signal_has_moved_is_barred_until_its_clock_has_followed(clock: ManualClock) -> None:
    """As in a child that was forked in between."""
    health = HealthSignal(clock=clock)
    state = RateLimiter(1.0, burst=10, health=health, clock=clock).state
    assert state.take(None, 1, clock.now_us()) == 0
    health.opened(Hold(), clock.now_us(), None)
    state.renew_lock()
    assert state.steady[0] is None
    assert [state.take(None, 1, clock.now_us()) > 0 for _ in range(4)] == [False, False, False, True]  # 30 % of the burst
    assert state.steady[0] is state.settings


def test_instants_below_0_are_instants_like_any() -> None:
    clock = ManualClock(-10.0)
    health = HealthSignal(clock=clock)
    state = RateLimiter(1.0, burst=10, health=health, clock=clock).state
    machine = CircuitBreaker(min_calls=2, slow_call_s=1.0, clock=clock).pool.single
    assert state.take(None, 1, clock.now_us()) == 0
    health.opened(Hold(), clock.now_us(), None)
    assert [state.take(None, 1, clock.now_us()) > 0 for _ in range(4)] == [False, False, False, True]
    machine.bar()
    ticket = machine.closed_ticket
    assert ticket is not None
    lock = Noting()
    machine.lock = lock  # type: ignore[assignment]
    machine.settle(ticket, Outcome.OK, None, clock.now_us())
    assert lock.taken == 1


def test_a_bucket_that_was_written_just_when_it_went_does_not_close_its_shard(clock: ManualClock) -> None:
    """As under a debugger that lets another thread in at any line."""
    state = RateLimiter(1.0, burst=1, key=lambda call: "", max_keys=2, clock=clock).state
    for key in ("a", "b", "c"):
        state.take(key, 1, clock.now_us())
    state.table._queues[0] = iter(())
    state.table.old[0]["late"] = 0
    clock.advance(60.0)
    for number in range(8):
        state.take(f"new {number}", 1, clock.now_us())
        clock.advance(60.0)
    assert "late" not in state.table.old[0]
    assert len(state.table) <= 2


@pytest.mark.parametrize(("trace", "is_barred"), [("None", False), ("lambda *event: None", True)])
def test_under_a_debugger_that_was_there_before_the_lock_is_always_taken(trace: str, is_barred: bool) -> None:
    code = f"import sys; sys.settrace({trace}); from resilience import RateLimiter; print(RateLimiter(1.0).state.steady[0] is None)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == str(is_barred)


# --- the one step and the several -------------------------------------------------------------------------------------------------


class Always(Mark):
    """Set for ever, so that all take the lock and the long way."""

    def clear(self) -> None:
        self._owner.bar()


def units_of(cost: int, settings: RateLimiterSettings) -> int | None:
    """As layers ask for them: None is what the settings say, unless that only looks."""
    return None if cost == settings.cost and cost else cost * TOKEN


def drawn(state: LimiterState, key: str | None, cost: int, settings: RateLimiterSettings, now_us: int) -> int:
    """The microseconds to wait, as layers ask for them."""
    short_us = state.draw(key, units_of(cost, settings), now_us, settings)
    return state.wait_for(cost, -short_us) if short_us else 0


RATES: Final = (0.0003, 0.0005, 0.7, 3.0, 1_000_000.0)


@pytest.mark.parametrize("seed", range(60))
def test_a_bucket_says_the_same_whether_it_is_asked_in_one_step_or_in_several(clock: ManualClock, seed: int) -> None:
    dice, health, hold = random.Random(seed), HealthSignal(recover=0.2, every_s=1.0, clock=clock), Hold()
    rate_per_s = dice.choice(RATES)
    limiter = RateLimiter(rate_per_s, burst=3, key=lambda call: "", max_keys=3, shadow=seed % 5 == 0, health=health, clock=clock)
    settings, states = limiter.settings, [LimiterState(limiter.settings, health, clock.now_us()) for _ in range(2)]
    states[1].changing = Always(states[1])
    for _ in range(80):
        if dice.random() < 0.1:
            clock.step_back(dice.choice((1e-6, 0.5)))
        else:
            clock.advance(dice.choice((0.0, 0.0, 1e-6, 0.4 / rate_per_s, 1 / rate_per_s, 5 / rate_per_s)))
        change, now_us = dice.random(), clock.now_us()
        if change < 0.05:
            health.opened(hold, now_us, None)
        elif change < 0.1:
            health.closed(hold, now_us)
        elif change < 0.15:
            is_shadow = settings.shadow != (dice.random() < 0.3)
            settings = replace(
                settings, rate_per_s=dice.choice(RATES), burst=dice.randint(1, 5), cost=dice.choice((1, 1, 0, 2)), shadow=is_shadow
            )
            for state in states:
                state.configure(settings, now_us)
        key, cost, given = dice.choice((None, *"abcd")), dice.choice((0, 1, 1, 1, 2, 3)), dice.choice((None, settings))
        if dice.random() < 0.3:
            short_us, tokens, left = states[0].draw_telling(key, units_of(cost, settings), now_us, settings)
            wait_us = states[0].wait_for(cost, -short_us) if short_us else 0
            assert wait_us == states[1].take(key, cost, now_us, settings)
            standing = states[1].standing(key, now_us, settings)
            assert wait_us or (left, tokens.factor_ppb, tokens.rate_per_s) == (
                standing[1],
                standing[0].factor_ppb,
                standing[0].rate_per_s,
            )
        elif dice.random() < 0.5:
            assert drawn(states[0], key, cost, settings, now_us) == states[1].take(key, cost, now_us, settings)
            assert drawn(states[1], key, settings.cost, settings, now_us) == states[0].take(key, settings.cost, now_us, settings)
        else:
            assert states[0].take(key, cost, now_us, given) == states[1].take(key, cost, now_us, given)
        key = dice.choice((None, *"abcd"))
        assert states[0].standing(key, now_us, settings)[1] == states[1].standing(key, now_us, settings)[1]
    counts = [(state.admitted, state.rejected, state.would_reject, len(state.table), state.table.overflowed) for state in states]
    assert counts[0] == counts[1]


def changed(machines: list[Machine], settings: CircuitBreakerSettings, now_us: int, dice: random.Random) -> CircuitBreakerSettings:
    """Start them over, or change their settings; returns those of now."""
    if dice.random() < 0.4:
        for machine in machines:
            machine.start_over("for a change", now_us)
        return settings
    settings = replace(settings, window_s=dice.choice((5.0, 10.0)), min_calls=dice.randint(1, 6))
    if dice.random() < 0.3:
        settings = replace(settings, window_calls=None if settings.window_calls else 8)
    for machine in machines:
        machine.configure(settings, None, None, now_us)
    return settings


@pytest.mark.parametrize("seed", range(60))
def test_a_breaker_decides_the_same_whether_it_is_told_in_one_step_or_in_several(clock: ManualClock, seed: int) -> None:
    dice = random.Random(seed)
    settings = CircuitBreakerSettings(
        failure_rate=dice.choice((0.3, 0.5, 1.0)),
        window_s=10.0,
        min_calls=dice.randint(1, 6),
        slow_call_s=1.0,
        slow_call_rate=dice.choice((0.0, 0.4, 1.0)),
        consecutive_failures=dice.choice((None, 2, 3)),
        open_for_s=2.0,
        probes=2,
    )
    machines = [Machine("p", settings, None, uniform=lambda: 0.0) for _ in range(2)]
    machines[1].changing = Always(machines[1])
    held: list[list[Any]] = []
    for _ in range(150):
        if dice.random() < 0.1:
            clock.step_back(dice.choice((1e-6, 0.5)))
        else:
            clock.advance(dice.choice((0.0, 0.1, 0.5, 1.0, 4.0)))
        change, now_us = dice.random(), clock.now_us()
        settings = changed(machines, settings, now_us, dice) if change < 0.05 else settings
        answers = [machine.admit(now_us, shadow=False) for machine in machines]
        if isinstance(answers[0], Ticket):
            held.append(answers)
        while held and dice.random() < 0.7:
            outcome, slow = dice.choice((Outcome.OK, Outcome.OK, Outcome.OK, Outcome.FAILED, Outcome.IGNORED)), dice.random() < 0.1
            for machine, ticket in zip(machines, held.pop(dice.randrange(len(held))), strict=True):
                machine.settle(ticket, outcome, None, now_us, slow=slow)
        told = [
            (machine.status(now_us), machine.decisions(), machine.is_idle(now_us) if change > 0.9 else None) for machine in machines
        ]
        assert told[0] == told[1]
        assert type(answers[0]) is type(answers[1])


@pytest.mark.parametrize("make", [lambda: TimeWindow(10_000_000), lambda: CountWindow(3)])
def test_successes_can_be_added_by_their_number(make: Callable[[], TimeWindow | CountWindow]) -> None:
    together, singly = make(), make()
    for window in (together, singly):
        window.add(5, failed=True, slow=True)
    together.add_successes(2)
    for _ in range(2):
        singly.add(5, failed=False, slow=False)
    for now_us in (5, 9_500_000, 10_500_000):
        for window in (together, singly):
            window.expire(now_us)
        assert (together.calls, together.failures, together.slow_calls) == (singly.calls, singly.failures, singly.slow_calls)
