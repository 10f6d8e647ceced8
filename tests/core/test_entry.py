"""A request enters a pipeline of the usual layers by one function; it decides as the layers do one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    Call,
    CircuitBreaker,
    Deadline,
    DeadlineExceeded,
    HealthSignal,
    Pipeline,
    RateLimited,
    RateLimiter,
    Rejected,
)
from resilience.call import CURRENT, Outcome, SoleCall
from resilience.testing import ManualClock
from tests.core.helpers import no_jitter


class Request(SoleCall):
    """One that comes from somewhere."""

    __slots__ = ("address",)

    def __init__(self, address: str | None) -> None:
        super().__init__("the request")
        self.address = address

    def peer(self) -> str | None:
        return self.address


@dataclass(frozen=True)
class Plan:
    """What a pipeline is made of."""

    deadline: dict[str, Any] | None
    limiter: dict[str, Any] | None
    breaker: dict[str, Any] | None


@dataclass(frozen=True)
class Arrival:
    """One request, and what becomes of it."""

    address: str | None = "192.0.2.7"
    key: str | None = None
    cost: int | None = None
    timeout_s: float | None = None
    within: bool = False
    outcome: Outcome = Outcome.OK
    lasts_s: float = 0.0
    pause_s: float = 0.0


@dataclass
class House:
    """A pipeline of such layers, by itself."""

    plan: Plan
    is_usual: bool
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.health = HealthSignal(clock=self.clock)
        layers: list[Any] = []
        if self.plan.deadline is not None:
            layers.append(Deadline(**self.plan.deadline, clock=self.clock))
        if self.plan.limiter is not None:
            layers.append(RateLimiter(**self.plan.limiter, health=self.health, clock=self.clock))
        if self.plan.breaker is not None:
            layers.append(CircuitBreaker(**self.plan.breaker, uniform=no_jitter, health=self.health, clock=self.clock))
        self.pipeline = Pipeline("p", *layers)
        assert self.pipeline._is_usual
        self.pipeline._is_usual = self.is_usual
        self.around = Request(None)
        self.around.deadline_us = self.clock.now_us() + 3_000_000

    def serve(self, arrival: Arrival) -> list[Any]:
        """What becomes of the request, and what the layers have noted by then."""
        call = Request(arrival.address)
        call.key, call.cost, call.timeout_s = arrival.key, arrival.cost, arrival.timeout_s
        mark = CURRENT.set(self.around) if arrival.within else None
        became: list[Any] = []
        try:
            became.append(self.pipeline.enter(call))
            self.clock.advance(arrival.lasts_s)
            call.settle(arrival.outcome)
        except Rejected as refusal:
            became += [
                type(refusal).__name__,
                refusal.policy,
                refusal.reason,
                refusal.retry_after_s,
                getattr(refusal, "quota", None),
            ]
        finally:
            if mark is not None:
                CURRENT.reset(mark)
        self.clock.advance(arrival.pause_s)
        became += [call.settled, call.held, call.now_us, call.deadline_us, call.deadline_counts, call.parent is None]
        return became + [layer.decisions() for layer in self.pipeline.layers] + [self.health.factor]


names = st.sampled_from([None, "192.0.2.7", "198.51.100.9", "2001:db8::7", "no address", "a" * 101])
plans = st.builds(
    Plan,
    st.none() | st.fixed_dictionaries({"default_s": st.sampled_from([None, 0.5, 2.0]), "max_s": st.sampled_from([None, 5.0])}),
    st.none()
    | st.fixed_dictionaries(
        {
            "rate_per_s": st.sampled_from([0.5, 3.0, 100.0]),
            "burst": st.integers(1, 4),
            "key": st.sampled_from([None, "client_address", lambda call: call.peer()]),
            "cost": st.sampled_from([0, 1, 3, lambda call: 2]),
            "shadow": st.booleans(),
        }
    ),
    st.none()
    | st.fixed_dictionaries(
        {
            "min_calls": st.integers(1, 3),
            "open_for_s": st.sampled_from([1.0, 4.0]),
            "probes": st.integers(1, 2),
            "key": st.sampled_from([None, lambda call: call.peer()]),
            "slow_call_s": st.sampled_from([None, 1.0]),
            "shadow": st.booleans(),
        }
    ),
).filter(lambda plan: plan != Plan(None, None, None))
arrivals = st.builds(
    Arrival,
    names,
    st.sampled_from([None, None, "somebody"]),
    st.sampled_from([None, None, 0, 2, 9]),
    st.sampled_from([None, None, 0.0, 0.2, 1.5]),
    st.booleans(),
    st.sampled_from(Outcome),
    st.sampled_from([0.0, 0.3, 1.2]),
    st.sampled_from([0.0, 0.1, 1.0, 4.0]),
)


@given(plans, st.lists(arrivals, min_size=1, max_size=12))
def test_the_usual_way_decides_as_the_layers_do_one_by_one(plan: Plan, arriving: list[Arrival]) -> None:
    usual, general = House(plan, is_usual=True), House(plan, is_usual=False)
    for arrival in arriving:
        assert usual.serve(arrival) == general.serve(arrival)


def layers_of(clock: ManualClock) -> tuple[Deadline, RateLimiter, CircuitBreaker]:
    return Deadline(1.0, clock=clock), RateLimiter(9.0, clock=clock), CircuitBreaker(clock=clock)


def test_which_layers_are_usual(clock: ManualClock) -> None:
    deadline, limiter, breaker = layers_of(clock)
    waiting = RateLimiter(9.0, max_wait_s=1.0, clock=clock)
    assert all(Pipeline("p", *layers)._is_usual for layers in [(), (deadline,), (limiter, breaker), (deadline, limiter, breaker)])
    for layers in [(limiter, deadline), (breaker, breaker), (deadline, waiting), (limiter, limiter)]:
        assert not Pipeline("p", *layers)._is_usual


@pytest.mark.parametrize("in_order", [True, False])
def test_a_call_has_entered_whatever_the_order_of_the_layers_is(clock: ManualClock, in_order: bool) -> None:
    layers = layers_of(clock)
    pipeline = Pipeline("p", *(layers if in_order else reversed(layers)))
    call = Request("192.0.2.7")
    assert pipeline.enter(call)
    assert (call.deadline_us, call.pipeline, len(call.held)) == (clock.now_us() + 1_000_000, pipeline, 1)
    call.settle(Outcome.OK)
    assert [layer.decisions()["admitted"] for layer in layers] == [1, 1, 1]


def test_what_waits_is_not_admitted_yet(clock: ManualClock) -> None:
    limiter = RateLimiter(9.0, max_wait_s=1.0, clock=clock)
    call = Request(None)
    assert not Pipeline("p", limiter).enter(call)
    assert (call.now_us, limiter.decisions()["admitted"]) == (clock.now_us(), 0)


class TestWhatSomebodyHasPutInItsPlace:
    def test_a_breaker_of_a_class_of_its_own_settles_by_itself(self, clock: ManualClock) -> None:
        seen: list[Outcome] = []

        class Mine(CircuitBreaker):
            def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
                seen.append(outcome)
                super().settle(token, outcome, call, now_us)

        pipeline = Pipeline("p", Mine(clock=clock))
        pipeline.call(int)
        call = Request(None)
        assert pipeline.enter(call)
        call.settle(Outcome.FAILED)
        with pipeline.guard():
            pass
        assert seen == [Outcome.OK, Outcome.FAILED, Outcome.OK]

    @pytest.mark.parametrize("name", ["admit", "settle"])
    def test_a_method_of_one_breaker_that_was_replaced_is_called(self, clock: ManualClock, name: str) -> None:
        breaker = CircuitBreaker(clock=clock)
        with mock.patch.object(breaker, name, wraps=getattr(breaker, name)) as replaced:
            pipeline = Pipeline("p", breaker)
            call = Request(None)
            assert pipeline.enter(call)
            call.settle(Outcome.OK)
            pipeline.call(int)
        assert replaced.call_count == 2

    def test_a_pipeline_that_begins_in_its_own_way_does_so(self, clock: ManualClock) -> None:
        class ByTenant(Pipeline):
            def begin(self, call: Call) -> bool:
                call.key = "tenant"
                return super().begin(call)

        limiter = RateLimiter(1.0, burst=1, key="client_address", clock=clock)
        pipeline = ByTenant("p", limiter)
        assert pipeline.enter(Request("192.0.2.7"))
        with pytest.raises(RateLimited):
            pipeline.enter(Request("192.0.2.8"))


def test_no_time_at_all_is_refused(clock: ManualClock) -> None:
    with pytest.raises(DeadlineExceeded):
        Pipeline("p", Deadline(4e-7, clock=clock)).enter(Request(None))


def test_who_freezes_time_freezes_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tools do that put another function in the place of `time.monotonic_ns` wherever a module has it."""
    deadline, breaker = Deadline(1.0), CircuitBreaker(min_calls=1)
    pipeline = Pipeline("p", deadline, RateLimiter(9.0), breaker)
    monkeypatch.setattr("resilience.clock.monotonic_ns", lambda: 1_700_000_000_000_000_000)
    call = Request(None)
    assert pipeline.enter(call)
    call.settle(Outcome.OK)
    assert call.now_us == pipeline.clock.now_us() == 1_700_000_000_000_000
    pipeline.call(int)
    assert (deadline.decisions()["expired"], breaker.state.value) == (0, "closed")


def test_a_pipeline_can_have_a_base_with_a_metaclass_of_its_own() -> None:
    class Meta(type):
        pass

    class Base(metaclass=Meta):
        pass

    class Mine(Base, Pipeline):
        pass

    assert Mine("p").call(int) == 0
