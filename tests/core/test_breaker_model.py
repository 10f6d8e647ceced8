"""The breaker against a naive one, over any interleaving of calls that overlap, hang, fail and are abandoned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import CircuitBreaker, CircuitOpen, Outcome
from resilience.testing import ManualClock
from tests.core.helpers import Desk, no_jitter

WINDOW_S, OPEN_S, HALF_OPEN_S, LONGEST_OPEN_S = 20, 7, 5, 20
MIN_CALLS, IN_A_ROW, PROBES = 4, 6, 3


@dataclass(eq=False)
class NaiveTicket:
    """One admission; `probe_since_s` is None while closed."""

    generation: int
    probe_since_s: int | None = None


@dataclass
class NaiveBreaker:
    """What §4.3 of the design says, over whole seconds."""

    state: str = "closed"
    generation: int = 1
    votes: list[tuple[int, bool]] = field(default_factory=list)
    row: int = 0
    failed_recoveries: int = 0
    open_until_s: int = 0
    flying: list[NaiveTicket] = field(default_factory=list)
    judged: list[bool] = field(default_factory=list)

    def turn(self, state: str) -> None:
        self.state = state
        self.generation += 1
        self.flying, self.judged = [], []

    def open(self, since_s: int) -> None:
        self.open_until_s = since_s + min(OPEN_S * 2**self.failed_recoveries, LONGEST_OPEN_S)
        self.turn("open")

    def close(self) -> None:
        self.votes, self.row, self.failed_recoveries = [], 0, 0
        self.turn("closed")

    def judge(self, since_s: int) -> None:
        if not self.flying and len(self.judged) == PROBES:
            if self.judged.count(True) * 2 >= PROBES:
                self.failed_recoveries += 1
                self.open(since_s)
            else:
                self.close()

    def expire(self, now_s: int) -> None:
        hung = [
            ticket for ticket in self.flying if ticket.probe_since_s is not None and now_s - ticket.probe_since_s >= HALF_OPEN_S
        ]
        if hung:
            self.flying = [ticket for ticket in self.flying if ticket not in hung]
            self.judged += [True] * len(hung)
            self.judge(max(ticket.probe_since_s or 0 for ticket in hung) + HALF_OPEN_S)

    def admit(self, now_s: int) -> NaiveTicket | tuple[str, int]:
        self.expire(now_s)
        if self.state == "open":
            if now_s < self.open_until_s:
                return "open", self.open_until_s - now_s
            self.turn("half_open")
        if self.state == "closed":
            return NaiveTicket(self.generation)
        if len(self.flying) + len(self.judged) == PROBES:
            return "half_open", min(ticket.probe_since_s or 0 for ticket in self.flying) + HALF_OPEN_S - now_s
        self.flying.append(NaiveTicket(self.generation, now_s))
        return self.flying[-1]

    def settle(self, ticket: NaiveTicket, outcome: Outcome, now_s: int) -> None:
        if ticket.probe_since_s is not None:
            self.expire(now_s)
            if ticket in self.flying:
                self.flying.remove(ticket)
                if outcome is not Outcome.IGNORED:
                    self.judged.append(outcome is Outcome.FAILED)
                    self.judge(now_s)
        elif ticket.generation == self.generation and outcome is not Outcome.IGNORED:
            self.vote(outcome is Outcome.FAILED, now_s)

    def vote(self, failed: bool, now_s: int) -> None:
        self.votes.append((now_s, failed))
        self.row = self.row + 1 if failed else 0
        bucket_s = WINDOW_S // 10
        recent = [was for at_s, was in self.votes if at_s // bucket_s > now_s // bucket_s - 10]
        too_many = len(recent) >= MIN_CALLS and recent.count(True) * 2 >= len(recent)
        if self.row >= IN_A_ROW or (any(recent) and too_many):
            self.open(now_s)


class BreakerAgainstModel(RuleBasedStateMachine):
    """Calls stay open for as long as the rules let them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(start_s=0)
        self.breaker = CircuitBreaker(
            window_s=WINDOW_S, min_calls=MIN_CALLS, consecutive_failures=IN_A_ROW, probes=PROBES, open_for_s=OPEN_S,
            half_open_for_s=HALF_OPEN_S, open_growth=2.0, open_max_s=LONGEST_OPEN_S, clock=self.clock, uniform=no_jitter,
        )  # fmt: skip
        self.desk = Desk(self.breaker, self.clock)
        self.model = NaiveBreaker()
        self.open_calls: list[tuple[Any, NaiveTicket]] = []

    @property
    def now_s(self) -> int:
        return self.clock.now_us() // 1_000_000

    @rule(seconds=strategies.sampled_from([1, 1, 2, 3, 5, 7, 20, 60]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(count=strategies.integers(1, 6))
    def calls_begin(self, count: int) -> None:
        for _ in range(count):
            expected = self.model.admit(self.now_s)
            if isinstance(expected, NaiveTicket):
                self.open_calls.append((self.desk.admit(), expected))
                continue
            with pytest.raises(CircuitOpen) as refused:
                self.desk.admit()
            assert (refused.value.reason, refused.value.retry_after_s) == expected

    @precondition(lambda self: self.open_calls)
    @rule(data=strategies.data(), outcome=strategies.sampled_from([*Outcome, Outcome.OK, Outcome.FAILED]))
    def a_call_ends(self, data: strategies.DataObject, outcome: Outcome) -> None:
        ticket, expected = self.open_calls.pop(data.draw(strategies.integers(0, len(self.open_calls) - 1)))
        self.model.settle(expected, outcome, self.now_s)
        self.desk.settle(ticket, outcome)

    @precondition(lambda self: self.open_calls)
    @rule(outcome=strategies.sampled_from(Outcome))
    def all_calls_end(self, outcome: Outcome) -> None:
        for ticket, expected in self.open_calls:
            self.model.settle(expected, outcome, self.now_s)
            self.desk.settle(ticket, outcome)
        self.open_calls.clear()

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert (self.breaker.state.value, self.breaker.pool.single.generation) == (self.model.state, self.model.generation)
        assert len(self.breaker.pool.single._probes) == len(self.model.flying) <= PROBES


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
