"""A request enters a pipeline of the usual layers by one function; it decides as the layers do one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    entry,
    stage,
    tracing,
)
from resilience.call import CURRENT, Outcome, SoleCall
from resilience.layers import address as addresses
from resilience.testing import Leaked, ManualClock, nothing_leaks
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
        assert self.pipeline._way is not None
        if not self.is_usual:
            self.pipeline._way = None
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
    assert all(Pipeline("p", *layers)._way for layers in [(), (deadline,), (limiter, breaker), (deadline, limiter, breaker)])
    for layers in [(limiter, deadline), (breaker, breaker), (deadline, waiting), (limiter, limiter)]:
        assert Pipeline("p", *layers)._way is None


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


@pytest.mark.parametrize("is_told", [False, True])
def test_a_refusal_says_how_long_to_wait_whether_the_peer_is_told_or_asked_for(clock: ManualClock, is_told: bool) -> None:
    limiter = RateLimiter(0.5, burst=1, key="client_address", clock=clock)
    pipeline = Pipeline("p", limiter)

    def enter(address: str) -> bool:
        return pipeline.enter(Request(address), address if is_told else None)

    assert enter("192.0.2.7")
    clock.advance(0.5)
    with pytest.raises(RateLimited) as refused:
        enter("192.0.2.7")
    assert refused.value.retry_after_s == 1.5
    assert enter("192.0.2.8")
    clock.advance(1.5)
    assert enter("192.0.2.7")
    assert (limiter.state.admitted, limiter.state.rejected, len(limiter.state.table)) == (3, 1, 2)


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


# --- each thing by itself ---------------------------------------------------------------------------------------------------------


def enter(pipeline: Pipeline, address: str | None = None, key: str | None = None) -> Request:
    """A request that has entered `pipeline`."""
    call = Request(address)
    call.key = key
    assert pipeline.enter(call)
    return call


@pytest.mark.parametrize(
    "name",
    ["client_address", lambda call: call.peer() and f"from {call.peer()}"],
    ids=["client_address", "function"],
)
def test_each_address_has_a_bucket_of_its_own_and_an_explicit_key_goes_before_it(clock: ManualClock, name: Any) -> None:
    pipeline = Pipeline("p", RateLimiter(0.001, burst=2, key=name, clock=clock))
    for address in ("192.0.2.7", "192.0.2.8"):
        enter(pipeline, address)
        enter(pipeline, address)
        with pytest.raises(RateLimited) as refused:
            enter(pipeline, address)
        assert refused.value.quota is not None
        assert refused.value.quota.remaining == 0
    enter(pipeline, "192.0.2.7", key="somebody")
    enter(pipeline, "192.0.2.7", key="somebody")
    with pytest.raises(RateLimited):
        enter(pipeline, "192.0.2.9", key="somebody")
    assert len(pipeline.layers[0].state.table) == 3


def test_so_has_one_that_never_came_before(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_known", {})
    monkeypatch.setattr(entry, "known_key", lambda text: None)
    pipeline = Pipeline("p", RateLimiter(0.001, burst=1, key="client_address", clock=clock))
    for number in range(3):
        enter(pipeline, f"198.51.100.{number}")
        with pytest.raises(RateLimited):
            enter(pipeline, f"198.51.100.{number}")


def test_what_is_known_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str | None, str] = {}
    monkeypatch.setattr(addresses, "_known", known)
    monkeypatch.setattr(addresses, "_MOST_KNOWN", 3)
    for number in range(8):
        assert addresses.address_key(f"198.51.100.{number}") == f"198.51.100.{number}"
        assert len(known) <= 3
    assert addresses.address_key("1" * 101) == addresses.address_key(None) == addresses.UNKNOWN
    assert len(known) <= 3
    assert None not in known


def test_behind_trusted_proxies_the_address_is_the_clients(clock: ManualClock) -> None:
    class Forwarded(Request):
        __slots__ = ()

        def headers(self, name: str) -> list[str]:
            return ["198.51.100.9"] if name == "x-forwarded-for" else []

    limiter = RateLimiter(0.001, burst=1, key="client_address", trusted_proxies=("10.0.0.0/8",), clock=clock)
    pipeline = Pipeline("p", limiter)
    assert pipeline.enter(Forwarded("10.0.0.1"))
    with pytest.raises(RateLimited):
        pipeline.enter(Forwarded("10.0.0.2"))
    assert pipeline.enter(Request("10.0.0.3"))


def test_a_key_of_a_header_is_not_the_address(clock: ManualClock) -> None:
    class Keyed(Request):
        __slots__ = ()

        def headers(self, name: str) -> list[str]:
            return [f"{name} of one"]

    pipeline = Pipeline("p", RateLimiter(0.001, burst=1, key="header:x-api-key", clock=clock))
    assert pipeline.enter(Keyed("192.0.2.7"))
    with pytest.raises(RateLimited):
        pipeline.enter(Keyed("192.0.2.8"))


def test_what_is_no_address_shares_one_bucket(clock: ManualClock) -> None:
    pipeline = Pipeline("p", RateLimiter(0.001, burst=3, key="client_address", clock=clock))
    for address in (None, "no address", "1" * 101):
        enter(pipeline, address)
    with pytest.raises(RateLimited):
        enter(pipeline, "2" * 101)


def test_a_late_call_goes_by_the_settings_that_it_found(clock: ManualClock) -> None:
    limiter = RateLimiter(10.0, burst=3, clock=clock)
    pipeline = Pipeline("p", limiter)
    for _ in range(3):
        enter(pipeline)
    limiter.state.configure(replace(limiter.settings, burst=30), clock.now_us())
    clock.advance(0.3)  # tokens have come back, but not for a call of before
    with pytest.raises(RateLimited):
        enter(pipeline)
    assert limiter.state.take(None, 1, clock.now_us()) == 0


@pytest.mark.parametrize("in_order", [True, False])
def test_a_call_that_is_recorded_is_not_admitted_yet(clock: ManualClock, monkeypatch: pytest.MonkeyPatch, in_order: bool) -> None:
    limiter, asked, trace = RateLimiter(9.0, clock=clock), [], object()

    def begin(name: str, call: Call) -> object:
        asked.append((name, call))
        return trace

    monkeypatch.setattr(tracing, "begin", begin)
    call = Request(None)
    breaker = CircuitBreaker(clock=clock)
    assert not Pipeline("p", *((limiter, breaker) if in_order else (breaker, limiter))).enter(call)
    assert call.trace is trace
    assert asked == [("p", call)]
    assert limiter.decisions()["admitted"] == 0


@pytest.mark.may_leak("permits")  # on purpose, inside of a guard of its own
def test_one_that_is_never_settled_is_found(clock: ManualClock) -> None:
    pipeline = Pipeline("p", CircuitBreaker(clock=clock))
    with pytest.raises(Leaked, match=r"permit: of the request, .* never settled; holds breaker"), nothing_leaks(wait_s=0.0):
        enter(pipeline)


def test_without_a_guard_nobody_notes_it(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "noted", None)
    enter(Pipeline("p", CircuitBreaker(clock=clock))).settle(Outcome.OK)


def test_met_again_inside_the_same_request_a_breaker_has_one_vote(clock: ManualClock) -> None:
    pipeline = Pipeline("p", CircuitBreaker(clock=clock))
    outer = enter(pipeline)
    mark = CURRENT.set(outer)
    try:
        inner = enter(pipeline)
    finally:
        CURRENT.reset(mark)
    assert inner.held == []
    inner.settle(Outcome.FAILED)
    outer.settle(Outcome.OK)
    assert pipeline.layers[0].decisions()["admitted"] == 1


def test_the_present_is_a_whole_number_of_microseconds() -> None:
    call = enter(Pipeline("p", RateLimiter(9.0)))
    assert type(call.now_us) is int


@pytest.mark.parametrize(("own", "known"), [(0, 2), (3, 3)])
def test_a_try_is_counted_from_further_out(clock: ManualClock, own: int, known: int) -> None:
    around = Request(None)
    around.attempt = 2
    call = Request(None)
    call.attempt = own
    mark = CURRENT.set(around)
    try:
        Pipeline("p", RateLimiter(9.0, clock=clock)).enter(call)
    finally:
        CURRENT.reset(mark)
    assert (call.attempt, call.parent) == (known, around)
