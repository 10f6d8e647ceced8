"""The breaker against a plain automaton, over any interleaving of calls that overlap, hang, fail, are slow and are abandoned.

Each run draws its settings: time and count windows, failures in a row, slow calls, growing and jittered open times, shadow.
Operators force the breaker and give it new settings on the way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience import Call, CircuitBreaker, CircuitOpen, HealthSignal, Outcome
from resilience.call import Decision
from resilience.clock import US_PER_S, to_us
from resilience.layers.breaker import CircuitBreakerSettings
from resilience.testing import ManualClock
from tests.soak.sizes import MACHINE

pytestmark = [pytest.mark.soak, pytest.mark.slow]

EVERY_US: Final = 30 * US_PER_S
"""The signal lets go of a breaker that no call has reached for so long."""
SETTINGS: Final = strategies.builds(
    CircuitBreakerSettings,
    failure_rate=strategies.sampled_from([0.25, 0.5, 1.0]),
    window_s=strategies.sampled_from([20.0, 10.0]),
    window_calls=strategies.sampled_from([None, 5, 8]),
    min_calls=strategies.sampled_from([1, 4, 5]),
    slow_call_s=strategies.sampled_from([None, None, 4.0]),
    slow_call_rate=strategies.sampled_from([0.5, 1.0]),
    consecutive_failures=strategies.sampled_from([None, 3, 6]),
    open_for_s=strategies.sampled_from([7.0, 3.0]),
    open_growth=strategies.sampled_from([1.0, 2.0]),
    open_max_s=strategies.sampled_from([20.0, 5.0]),
    probes=strategies.sampled_from([1, 3, 5]),
    half_open_for_s=strategies.sampled_from([5.0, None]),
    shadow=strategies.sampled_from([False, False, False, True]),
)


@dataclass(eq=False)
class NaiveTicket:
    """One admission; `probe_since_us` is None while closed."""

    generation: int
    began_us: int
    probe_since_us: int | None = None


@dataclass
class NaiveBreaker:
    """What §4.3 of the design says: every vote is kept, and counted anew each time."""

    settings: CircuitBreakerSettings
    jitter: float
    state: str = "closed"
    forced: str | None = None
    generation: int = 1
    votes: list[tuple[int, bool, bool]] = field(default_factory=list)  # when, failed, slow
    row: int = 0
    failed_recoveries: int = 0
    open_until_us: int = 0
    flying: list[NaiveTicket] = field(default_factory=list)
    judged: list[tuple[bool, bool]] = field(default_factory=list)  # failed, slow
    is_holding: bool = False
    held_from_us: int | None = None  # None: for ever
    is_cutting: bool = False
    incidents: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    # --- states -------------------------------------------------------------------------------------------------------

    def turn(self, state: str) -> None:
        self.state = state
        self.generation += 1
        self.flying, self.judged = [], []

    def mark(self, now_us: int) -> None:
        """Bring its hand on its signal in line with its state."""
        self.lapse(now_us)
        holds = self.state != "closed" and not self.settings.shadow
        if holds and not self.is_holding:
            self.incidents += not self.is_cutting
            self.is_cutting = True
            self.held_from_us = None if self.forced == "open" else max(now_us, self.open_until_us)
        elif not holds:
            self.is_cutting = False
        self.is_holding = holds

    def lapse(self, now_us: int) -> None:
        """A signal lets go of a breaker that no call has reached for long enough."""
        if self.held_from_us is not None and now_us >= self.held_from_us + EVERY_US:
            self.is_cutting = False

    def reach(self, now_us: int) -> None:
        self.lapse(now_us)
        if self.is_cutting and self.held_from_us is not None:
            self.held_from_us = max(self.held_from_us, now_us)

    def open(self, since_us: int, now_us: int) -> None:
        settings = self.settings
        most_s = max(settings.open_max_s, settings.open_for_s)
        open_s = min(settings.open_for_s * settings.open_growth**self.failed_recoveries, most_s)
        self.open_until_us = since_us + round(open_s * (1 - self.jitter / 10) * US_PER_S)
        self.turn("open")
        self.is_holding = False  # it holds anew, from the end of the new open time
        self.mark(now_us)

    def close(self, now_us: int) -> None:
        self.votes, self.row, self.failed_recoveries = [], 0, 0
        self.turn("closed")
        self.mark(now_us)

    def force(self, state: str | None, now_us: int) -> None:
        if state != self.forced:
            self.forced = state
            self.open_until_us = now_us
            if state == "open":
                self.turn("open")
                self.is_holding = False
                self.mark(now_us)
            else:
                self.close(now_us)

    def configure(self, settings: CircuitBreakerSettings, now_us: int) -> None:
        old, self.settings = self.settings, settings
        if (old.window_s, old.window_calls) != (settings.window_s, settings.window_calls):
            self.votes = []
        self.mark(now_us)
        if self.state == "half_open":
            self.judge(now_us, now_us)

    # --- half-open ----------------------------------------------------------------------------------------------------

    @property
    def half_open_us(self) -> int:
        return to_us(self.settings.half_open_for_s or self.settings.open_for_s)

    def judge(self, since_us: int, now_us: int) -> None:
        done = len(self.judged)
        if not self.flying and done >= self.settings.probes:
            failed, slow = (sum(which) for which in zip(*self.judged, strict=True))
            if self.too_many(failed, done, self.settings.failure_rate) or self.too_many(slow, done, self.settings.slow_call_rate):
                self.failed_recoveries += 1
                self.open(since_us, now_us)
            else:
                self.close(now_us)

    @staticmethod
    def too_many(count: int, of: int, share: float) -> bool:
        return count > 0 and count >= of * share

    def expire(self, now_us: int) -> None:
        since = {ticket: ticket.probe_since_us for ticket in self.flying if ticket.probe_since_us is not None}
        hung = {ticket: since_us for ticket, since_us in since.items() if now_us - since_us >= self.half_open_us}
        if hung:
            self.flying = [ticket for ticket in self.flying if ticket not in hung]
            self.judged += [(True, False)] * len(hung)
            self.judge(max(hung.values()) + self.half_open_us, now_us)

    # --- calls --------------------------------------------------------------------------------------------------------

    def admit(self, now_us: int) -> NaiveTicket | tuple[str, int | None]:
        answer = self.answer(now_us)
        if not isinstance(answer, NaiveTicket):
            self.counts["would_reject" if self.settings.shadow else "rejected"] += 1
        return answer

    def answer(self, now_us: int) -> NaiveTicket | tuple[str, int | None]:
        if self.forced == "open":
            return "forced", None
        self.expire(now_us)
        if self.state == "open":
            if now_us < self.open_until_us:
                return "open", self.open_until_us - now_us
            self.turn("half_open")
        if self.state == "closed":
            return NaiveTicket(self.generation, now_us)
        self.reach(now_us)
        if len(self.flying) + len(self.judged) >= self.settings.probes:
            oldest_us = min(ticket.began_us for ticket in self.flying)
            return "half_open", oldest_us + self.half_open_us - now_us
        self.flying.append(NaiveTicket(self.generation, now_us, now_us))
        self.counts["probe"] += 1
        return self.flying[-1]

    def settle(self, ticket: NaiveTicket, outcome: Outcome, now_us: int) -> None:
        slow = self.settings.slow_call_s is not None and now_us - ticket.began_us > self.settings.slow_call_s * US_PER_S
        if ticket.probe_since_us is not None:
            self.expire(now_us)
            if ticket in self.flying:
                self.flying.remove(ticket)
                if outcome is not Outcome.IGNORED:
                    self.judged.append((outcome is Outcome.FAILED, slow))
                self.judge(now_us, now_us)  # after a reload to fewer probes the others may be enough
            return
        self.counts["admitted"] += 1
        if ticket.generation == self.generation and outcome is not Outcome.IGNORED:
            self.vote(outcome is Outcome.FAILED, slow, now_us)

    def vote(self, failed: bool, slow: bool, now_us: int) -> None:
        settings = self.settings
        self.votes.append((now_us, failed, slow))
        self.row = self.row + 1 if failed else 0
        recent = self.recent(now_us)
        failures, slow_calls = sum(failed for _, failed, _ in recent), sum(slow for _, _, slow in recent)
        too_many = len(recent) >= settings.min_calls and (
            self.too_many(failures, len(recent), settings.failure_rate)
            or (settings.slow_call_s is not None and self.too_many(slow_calls, len(recent), settings.slow_call_rate))
        )
        in_a_row = settings.consecutive_failures is not None and self.row >= settings.consecutive_failures
        if self.forced != "closed" and (in_a_row or too_many):
            self.open(now_us, now_us)

    def recent(self, now_us: int) -> list[tuple[int, bool, bool]]:
        if self.settings.window_calls is not None:
            return self.votes[-self.settings.window_calls :]
        bucket_us = to_us(self.settings.window_s) // 10
        return [vote for vote in self.votes if vote[0] // bucket_us > now_us // bucket_us - 10]


class BreakerAgainstModel(RuleBasedStateMachine):
    """Calls stay open for as long as the rules let them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(start_s=0)
        self.signal = HealthSignal(every_s=EVERY_US / US_PER_S, clock=self.clock)
        self.open_calls: list[tuple[Call, Any, NaiveTicket]] = []
        self.configured = 0

    @initialize(settings=SETTINGS, jitter=strategies.sampled_from([0.0, 0.5]))
    def begins(self, settings: CircuitBreakerSettings, jitter: float) -> None:
        self.model = NaiveBreaker(settings, jitter)
        self.breaker = CircuitBreaker(health=self.signal, clock=self.clock, uniform=lambda: jitter)
        self.follow(settings)

    def follow(self, settings: CircuitBreakerSettings) -> None:
        """As a reload does it: the same state under new settings."""
        self.model.configure(settings, self.clock.now_us())
        pool = self.breaker.pool
        pool.configure(settings, self.signal, self.clock.now_us())
        self.breaker = CircuitBreaker.over(pool, settings, name="breaker", clock=self.clock)

    @rule(seconds=strategies.sampled_from([0.5, 1.0, 1.0, 2.0, 3.0, 5.0, 7.0, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(count=strategies.integers(1, 6))
    def calls_begin(self, count: int) -> None:
        for _ in range(count):
            call = Call("test", now_us=self.clock.now_us())
            expected = self.model.admit(call.now_us)
            if isinstance(expected, NaiveTicket):
                self.open_calls.append((call, self.breaker.admit(call), expected))
            else:
                self.is_refused(call, *expected)

    @rule(outcomes=strategies.lists(strategies.sampled_from([Outcome.OK, Outcome.OK, Outcome.FAILED]), min_size=1, max_size=8))
    def calls_come_and_go(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            under_way = len(self.open_calls)
            self.calls_begin(1)
            if len(self.open_calls) > under_way:
                self.ends(self.open_calls.pop(), outcome)

    def is_refused(self, call: Call, reason: str, wait_us: int | None) -> None:
        if self.model.settings.shadow:
            assert self.breaker.admit(call) is None
            assert call.decision is Decision.WOULD_REJECT
            return
        with pytest.raises(CircuitOpen) as refused:
            self.breaker.admit(call)
        assert (refused.value.reason, refused.value.retry_after_s) == (reason, None if wait_us is None else wait_us / US_PER_S)

    @precondition(lambda self: self.open_calls)
    @rule(data=strategies.data(), outcome=strategies.sampled_from([*Outcome, Outcome.OK, Outcome.FAILED]))
    def a_call_ends(self, data: strategies.DataObject, outcome: Outcome) -> None:
        self.ends(self.open_calls.pop(data.draw(strategies.integers(0, len(self.open_calls) - 1))), outcome)

    @precondition(lambda self: self.open_calls)
    @rule(outcome=strategies.sampled_from(Outcome))
    def all_calls_end(self, outcome: Outcome) -> None:
        while self.open_calls:
            self.ends(self.open_calls.pop(0), outcome)

    def ends(self, entry: tuple[Call, Any, NaiveTicket], outcome: Outcome) -> None:
        call, ticket, expected = entry
        self.model.settle(expected, outcome, self.clock.now_us())
        self.breaker.settle(ticket, outcome, call, self.clock.now_us())

    @rule(state=strategies.sampled_from(["open", "closed", None, None]))
    def is_forced(self, state: str | None) -> None:
        self.breaker.force(state)
        self.model.force(state, self.clock.now_us())

    @precondition(lambda self: self.configured < 5)
    @rule(settings=SETTINGS)
    def is_configured(self, settings: CircuitBreakerSettings) -> None:
        self.configured += 1
        self.follow(settings)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        machine = self.breaker.pool.single
        assert (machine.state.value, machine.generation) == (self.model.state, self.model.generation)
        assert len(machine._probes) == len(self.model.flying)
        self.model.lapse(self.clock.now_us())
        assert (self.signal.in_incident, self.signal.incidents) == (self.model.is_cutting, self.model.incidents)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.all_calls_end(Outcome.IGNORED)
            decisions = dict.fromkeys(self.breaker.decisions(), 0) | self.model.counts
            assert self.breaker.decisions() == decisions


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = MACHINE
