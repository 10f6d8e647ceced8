"""A call that somebody records passes the usual layers by one function; it is decided and told of as by the layers one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    Call,
    CircuitBreaker,
    Deadline,
    HealthSignal,
    Pipeline,
    RateLimited,
    RateLimiter,
    Rejected,
    recorded,
    tracing,
)
from resilience.call import CURRENT, Outcome, SoleCall
from resilience.errors import CircuitOpen
from resilience.health import PPB, Phase
from resilience.layers import address
from resilience.recorded import RecordedWay, UsualRecordedWay, recorded_way
from resilience.testing import ManualClock
from tests.core.helpers import no_jitter
from tests.core.test_entry import Arrival, Plan, Request, arrivals, plans


class Trace:
    """Keeps what it is told of."""

    has_own_span = False

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], str]] = []
        self.times: list[tuple[int, int]] = []

    def leaves(self, leaves: Sequence[tracing.Leaf], error: BaseException | None = None) -> None:
        for number, (name, told, began_ns, ended_ns) in enumerate(leaves, start=1):
            self.told.append((name, dict(told), type(error if number == len(leaves) else None).__name__))
            self.times.append((began_ns, ended_ns))

    def layer(
        self,
        kind: str,
        pipeline: str,
        policy: str,
        began_ns: int,
        decision: str,
        attributes: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        raise AssertionError("told of by itself, though no layer has effects")

    def attempt(self, number: int, pipeline: str, policy: str) -> tracing.WorkSpan:
        raise AssertionError("nothing is tried here")

    def work(self, kind: str, pipeline: str, policy: str) -> tracing.WorkSpan:
        raise AssertionError("no layer does work here")

    def enter(self) -> None:
        """It has no span of its own."""

    def exit(self) -> None:
        """Nor is it left."""

    def finish(self, error: BaseException | None = None) -> None:
        """Nor does it end."""


@dataclass
class House:
    """A pipeline of such layers, by itself."""

    plan: Plan
    way: type[RecordedWay]
    heals: bool = False
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.health = HealthSignal(recover=0.2, every_s=1.0, clock=self.clock)
        health = self.health if self.heals else None
        layers: list[Any] = []
        if self.plan.deadline is not None:
            layers.append(Deadline(**self.plan.deadline, clock=self.clock))
        if self.plan.limiter is not None:
            layers.append(RateLimiter(**self.plan.limiter, health=health, clock=self.clock))
        if self.plan.breaker is not None:
            layers.append(CircuitBreaker(**self.plan.breaker, uniform=no_jitter, health=health, clock=self.clock))
        self.pipeline = Pipeline("p", *layers)
        stage = self.pipeline.outer
        assert type(stage._make_recorded_way()) is UsualRecordedWay
        stage._recorded_way = self.way("p", stage.layers, [settler for settler, _ in stage._admissions])
        self.around = Request(None)
        self.around.deadline_us = self.clock.now_us() + 3_000_000
        self.around.held = []

    def serve(self, arrival: Arrival) -> list[Any]:
        """What becomes of the request, what is told of it, and what the layers have noted by then."""
        call = Request(arrival.address)
        call.key, call.cost, call.timeout_s = arrival.key, arrival.cost, arrival.timeout_s
        mark = CURRENT.set(self.around) if arrival.within else None
        became: list[Any] = []
        trace = Trace()
        try:
            self.pipeline.begin(call)
            call.trace = trace
            self.pipeline.outer.enter(call)
            became.append(len(call.held))
            self.clock.advance(arrival.lasts_s)
            call.settle(arrival.outcome)
        except Rejected as refusal:
            became += [type(refusal).__name__, refusal.policy, refusal.reason, refusal.retry_after_s]
        finally:
            if mark is not None:
                CURRENT.reset(mark)
        self.clock.advance(arrival.pause_s)
        became += [(name, list(told.items()), error) for name, told, error in trace.told]  # in their order too
        became += [call.settled, call.held, call.now_us, call.deadline_us, call.deadline_counts]
        return became + [layer.decisions() for layer in self.pipeline.layers] + [self.health.factor]


@given(plans, st.booleans(), st.lists(arrivals, min_size=1, max_size=12))
def test_the_usual_way_tells_what_the_layers_tell_one_by_one(plan: Plan, heals: bool, arriving: list[Arrival]) -> None:
    usual, general = House(plan, UsualRecordedWay, heals), House(plan, RecordedWay, heals)
    for arrival in arriving:
        assert usual.serve(arrival) == general.serve(arrival)


class Unreachable(SoleCall):
    """One whose peer cannot be asked for."""

    def peer(self) -> str | None:
        raise OSError("the socket is gone")


WAYS = [UsualRecordedWay, RecordedWay]
LIMITER = {"rate_per_s": 1.0, "burst": 2}
BREAKER = {"consecutive_failures": 1, "probes": 1, "open_for_s": 1.0}


def told_of(house: House, arrival: Arrival | None = None) -> list[tuple[str, str, str]]:
    """The layer, the decision and the error of each span of one request."""
    trace = Trace()
    call = Request("192.0.2.7")
    call.now_us, call.trace, call.pipeline = house.clock.now_us(), trace, house.pipeline
    if arrival is not None:
        call.timeout_s = arrival.timeout_s
    try:
        house.pipeline.outer.enter(call)
    except Rejected:
        assert (call.settled, call.held) == (True, [])
    else:
        call.settle(Outcome.OK if arrival is None else arrival.outcome)
    return [(name.removeprefix("resilience."), told["resilience.decision"], error) for name, told, error in trace.told]


@pytest.mark.parametrize("way", WAYS)
class TestEachDecision:
    def test_a_time_that_has_run_out(self, way: type[RecordedWay]) -> None:
        house = House(Plan({"default_s": 2.0}, LIMITER, BREAKER), way)
        assert told_of(house, Arrival(timeout_s=0.0)) == [("deadline", "expired", "DeadlineExceeded")]

    def test_an_empty_bucket(self, way: type[RecordedWay]) -> None:
        house = House(Plan({"default_s": 2.0}, LIMITER, BREAKER), way)
        admitted = [("deadline", "admitted", "NoneType"), ("limiter", "admitted", "NoneType"), ("breaker", "admitted", "NoneType")]
        assert told_of(house) == told_of(house) == admitted
        assert told_of(house) == [("deadline", "admitted", "NoneType"), ("limiter", "rejected", "RateLimited")]

    @pytest.mark.parametrize("shadow", [False, True])
    def test_an_open_breaker_and_a_probe(self, way: type[RecordedWay], shadow: bool) -> None:
        house = House(Plan(None, None, {**BREAKER, "shadow": shadow}), way)
        assert told_of(house, Arrival(outcome=Outcome.FAILED)) == [("breaker", "admitted", "NoneType")]
        refused = ("breaker", "would_reject", "NoneType") if shadow else ("breaker", "rejected", "CircuitOpen")
        assert told_of(house) == [refused]
        house.clock.advance(1.0)
        assert told_of(house) == [("breaker", "probe", "NoneType")]
        assert told_of(house) == [("breaker", "admitted", "NoneType")]

    def test_a_limiter_in_the_shadow_says_nothing_of_the_layer_after_it(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, {**LIMITER, "shadow": True}, BREAKER), way)
        told_of(house), told_of(house)
        assert told_of(house) == [("limiter", "would_reject", "NoneType"), ("breaker", "admitted", "NoneType")]

    def test_an_error_that_is_no_refusal(self, way: type[RecordedWay]) -> None:
        house, trace = House(Plan({"default_s": 2.0}, {**LIMITER, "key": "client_address"}, BREAKER), way), Trace()
        call = Unreachable("the request")
        call.trace = trace
        limiter = house.pipeline.layers[1]
        with pytest.raises(OSError, match="the socket is gone"), mock.patch.object(limiter, "attributes", return_value={}):
            house.pipeline.outer.enter(call)
        assert [(name, told["resilience.decision"], error) for name, told, error in trace.told] == [
            ("resilience.deadline", "admitted", "NoneType"),
            ("resilience.limiter", "admitted", "OSError"),
        ]
        assert call.settled

    def test_an_error_that_comes_again_when_it_is_told_of_hides_no_layer_before_it(self, way: type[RecordedWay]) -> None:
        house, trace = House(Plan({"default_s": 2.0}, {**LIMITER, "key": "client_address"}, BREAKER), way), Trace()
        call = Unreachable("the request")
        call.trace = trace
        with pytest.raises(OSError, match="the socket is gone"):
            house.pipeline.outer.enter(call)
        assert [(name, told["resilience.decision"], error) for name, told, error in trace.told] == [
            ("resilience.deadline", "admitted", "NoneType")
        ]
        assert (call.settled, call.held) == (True, [])

    def test_the_spans_follow_each_other_without_a_gap(self, way: type[RecordedWay], monkeypatch: pytest.MonkeyPatch) -> None:
        house, trace, instants = House(Plan({"default_s": 2.0}, LIMITER, BREAKER), way), Trace(), iter(range(100, 200))
        monkeypatch.setattr(recorded, "wall_ns", lambda: next(instants))
        call = Request(None)
        call.trace = trace
        house.pipeline.outer.enter(call)
        assert trace.times == [(100, 101), (101, 102), (102, 103)]
        call.settle(Outcome.OK)

    def test_who_changes_what_was_told_changes_nothing_of_the_next_call(self, way: type[RecordedWay]) -> None:
        class Spoiling(Trace):
            def leaves(self, leaves: Sequence[tracing.Leaf], error: BaseException | None = None) -> None:
                super().leaves(leaves, error)
                for _, told, _, _ in leaves:
                    told.clear()  # type: ignore[attr-defined]  # as a sampler could that is handed a plain dictionary

        house = House(Plan({"default_s": 2.0}, {**LIMITER, "rate_per_s": 1e6}, BREAKER), way, heals=True)
        seen = []
        for _ in range(2):
            call, trace = Request(None), Spoiling()
            call.now_us, call.trace = house.clock.now_us(), trace
            house.pipeline.outer.enter(call).settle(Outcome.OK)
            house.clock.advance(1.0)
            seen.append(trace.told)
        assert seen[0] == seen[1]
        assert len(seen[0]) == 3

    def test_a_refusal_is_told_its_trace(self, way: type[RecordedWay], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracing, "trace_id", lambda: "0af7651916cd43dd8448eb211c80319c")
        house = House(Plan({"default_s": 2.0}, LIMITER, BREAKER), way)
        house.pipeline.layers[2].force("open")
        call = Request(None)
        call.trace = Trace()
        with pytest.raises(CircuitOpen) as refused:
            house.pipeline.outer.enter(call)
        assert refused.value.trace_id == "0af7651916cd43dd8448eb211c80319c"

    def test_broken_off_when_all_have_decided_it_is_told_of_and_gives_back_its_permits(self, way: type[RecordedWay]) -> None:
        class Interrupted(Trace):
            def leaves(self, leaves: Sequence[tracing.Leaf], error: BaseException | None = None) -> None:
                super().leaves(leaves, error)
                raise KeyboardInterrupt

        house = House(Plan({"default_s": 2.0}, LIMITER, BREAKER), way)
        call = Request(None)
        call.trace = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            house.pipeline.outer.enter(call)
        assert (call.settled, call.held) == (True, [])


def attributes_of(house: House, key: str | None = None, within: Call | None = None) -> list[dict[str, Any]]:
    """What each span of one request tells, which ends well unless it is refused."""
    call, trace = Request("192.0.2.7"), Trace()
    call.now_us, call.trace, call.pipeline = house.clock.now_us(), trace, house.pipeline
    call.key, call.parent = key, within
    with contextlib.suppress(Rejected):
        house.pipeline.outer.enter(call).settle(Outcome.OK)
    return [told for _, told, _ in trace.told]


@pytest.mark.parametrize("way", WAYS)
class TestWhatIsTold:
    def test_while_health_is_cut_and_after_the_breaker_has_closed(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, {"rate_per_s": 10.0, "burst": 10}, {**BREAKER, "shadow": False}), way, heals=True)
        well = [(told["resilience.health.factor"], told.get("resilience.breaker.generation")) for told in attributes_of(house)]
        ticket = house.pipeline.layers[1].single.closed_ticket
        house.pipeline.layers[1].single.settle(ticket, Outcome.FAILED, None, house.clock.now_us())
        house.clock.advance(1.0)
        limiter, probe = attributes_of(house)
        assert (limiter["resilience.health.factor"], limiter["resilience.limiter.rate"]) == (0.3, 3.0)
        assert (probe["resilience.health.factor"], probe["resilience.breaker.state"]) == (0.3, "half_open")
        house.clock.advance(1.0)
        limiter, breaker = attributes_of(house)
        assert (limiter["resilience.health.factor"], limiter["resilience.limiter.rate"]) == (0.5, 5.0)
        assert (breaker["resilience.health.factor"], breaker["resilience.breaker.generation"]) == (0.5, 4)
        assert well == [(1.0, None), (1.0, 1)]

    def test_a_signal_that_others_write_is_looked_at_when_that_is_due(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, None, BREAKER), way, heals=True)
        health = house.health
        health.stretch.until_us = house.clock.now_us()

        def cut(now_us: int) -> Phase:
            health.phase = Phase(1, now_us, PPB // 2, 0, 1)
            return health.phase

        with mock.patch.object(health, "sync", cut):
            (breaker,) = attributes_of(house)
        assert breaker["resilience.health.factor"] == 0.5

    def test_failures_that_have_not_opened_it(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, None, {"min_calls": 100, "window_s": 10.0}), way)
        machine = house.pipeline.layers[0].single
        for outcome in (Outcome.FAILED, Outcome.OK, Outcome.OK, Outcome.OK):
            machine.settle(machine.closed_ticket, outcome, None, house.clock.now_us())
        rates = []
        for _ in range(2):
            rates += [told["resilience.breaker.failure_rate"] for told in attributes_of(house)]
            house.clock.advance(60.0)
        assert rates == [0.25, 0.0]

    def test_one_bucket_for_all_whatever_key_they_bring(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, {"rate_per_s": 1.0, "burst": 9}, None), way)
        left = [attributes_of(house, key=key)[0]["resilience.limiter.remaining"] for key in ("alice", "bob", None)]
        assert left == [8, 7, 6]

    def test_in_the_shadow_what_is_there_though_it_is_too_little(self, way: type[RecordedWay]) -> None:
        limiter = {"rate_per_s": 1.0, "burst": 5, "cost": 3, "shadow": True, "key": "client_address"}
        house = House(Plan(None, limiter, None), way)
        told = [
            (told["resilience.decision"], told["resilience.limiter.remaining"]) for _ in range(2) for told in attributes_of(house)
        ]
        assert told == [("admitted", 2), ("would_reject", 2)]

    def test_met_again_inside_the_same_request_a_breaker_has_one_vote(self, way: type[RecordedWay]) -> None:
        house = House(Plan(None, None, BREAKER), way)
        around = Request(None)
        around.pipeline = house.pipeline
        house.pipeline.outer.enter(around)
        (breaker,) = attributes_of(house, within=around)
        assert breaker["resilience.decision"] == "admitted"
        assert house.pipeline.layers[0].decisions()["admitted"] == 0
        around.settle(Outcome.OK)
        attributes_of(house, within=around)
        assert house.pipeline.layers[0].decisions()["admitted"] == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by", ["address", "key"])
def test_each_client_has_a_bucket_of_its_own_and_is_told_of_that(
    way: type[RecordedWay], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "_known", {})
    monkeypatch.setattr(recorded, "known_key", lambda text: None)  # none has come before
    house = House(Plan(None, {"rate_per_s": 0.5, "burst": 2, "cost": 2, "key": "client_address"}, None), way)
    became = []
    for client in ("198.51.100.1", "198.51.100.2", "198.51.100.1"):
        call, trace = Request(client if by == "address" else "198.51.100.9"), Trace()
        call.key = client if by == "key" else None
        call.now_us, call.trace, call.pipeline = house.clock.now_us(), trace, house.pipeline
        refusal: Any = None
        try:
            house.pipeline.outer.enter(call)
        except RateLimited as error:
            refusal = error
        (told,) = [told for _, told, _ in trace.told]
        quota = None if refusal is None or refusal.quota is None else refusal.quota
        became.append(
            (
                told["resilience.limiter.remaining"],
                refusal and (refusal.retry_after_s, quota and (quota.remaining, quota.available_in_s)),
            )
        )
        house.clock.advance(1.0)
    assert became == [(0, None), (0, None), (1, (2.0, (1, 2.0)))]
    assert house.pipeline.layers[0].decisions() == {"admitted": 2, "rejected": 1, "queued": 0, "would_reject": 0}


def test_layers_are_timed_from_the_end_of_the_one_before_also_where_one_is_not_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = {"rate_per_s": 1.0, "burst": 9, "cost": lambda call: 2}
    house, trace, instants = House(Plan({"default_s": 2.0}, limiter, BREAKER), UsualRecordedWay), Trace(), iter(range(100, 200))
    monkeypatch.setattr(recorded, "wall_ns", lambda: next(instants))
    call = Request(None)
    call.trace, call.timeout_s = trace, 1.0
    house.pipeline.outer.enter(call)
    assert trace.times == [(100, 101), (101, 102), (102, 103)]
    call.settle(Outcome.OK)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_the_pipeline_is_told_where_layers_are_in_another_order_or_do_otherwise(clock: ManualClock, is_replaced: bool) -> None:
    layers: list[Any] = [Deadline(1.0, clock=clock), RateLimiter(9.0, clock=clock)]
    if is_replaced:
        layers[1].attributes = lambda call: {}
    pipeline = Pipeline("shop", *(layers if is_replaced else reversed(layers)))
    call, trace = Request(None), Trace()
    call.now_us, call.trace, call.pipeline = clock.now_us(), trace, pipeline
    pipeline.outer.enter(call)
    assert [told["resilience.pipeline"] for _, told, _ in trace.told] == ["shop", "shop"]


def test_broken_off_after_the_last_layer_there_is_no_layer_to_blame() -> None:
    house, trace = House(Plan({"default_s": 2.0}, None, None), RecordedWay), Trace()
    way = house.pipeline.outer._recorded_way
    assert way is not None
    way._refused(Call(), trace, [("resilience.deadline", {}, 1, 2)], 2, KeyboardInterrupt())
    assert trace.told == [("resilience.deadline", {}, "NoneType")]


@pytest.mark.parametrize("name", ["admit", "attributes"])
def test_a_method_of_one_layer_that_was_replaced_is_called(clock: ManualClock, name: str) -> None:
    breaker = CircuitBreaker(clock=clock)
    with mock.patch.object(breaker, name, wraps=getattr(breaker, name)) as replaced:
        call = Request(None)
        call.trace = Trace()
        Pipeline("p", Deadline(1.0, clock=clock), breaker).outer.enter(call).settle(Outcome.OK)
    assert replaced.call_count == 1


class Slotted:
    """A layer of somebody's own, without a dictionary."""

    __slots__ = ()
    kind: ClassVar[str] = "mine"
    name: ClassVar[str] = "own"
    has_effects: ClassVar[bool] = False
    votes_at_start: ClassVar[bool] = False

    def admit(self, call: Call) -> None:
        """It lets all pass."""

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        """It keeps nothing."""

    def attributes(self, call: Call) -> Mapping[str, Any]:
        return {"own": 1}

    def decisions(self) -> Mapping[str, int]:
        return {}

    def status(self) -> Mapping[str, Any]:
        return {}


def test_which_way_is_taken(clock: ManualClock) -> None:
    class Mine(RateLimiter):
        pass

    deadline, limiter, breaker = Deadline(1.0, clock=clock), RateLimiter(9.0, clock=clock), CircuitBreaker(clock=clock)
    usual: list[list[Any]] = [[], [limiter], [deadline, breaker], [deadline, limiter, breaker]]
    others: list[list[Any]] = [[limiter, deadline], [limiter, limiter], [Mine(9.0, clock=clock)], [Slotted()]]
    assert {type(recorded_way("p", layers, layers)) for layers in usual} == {UsualRecordedWay}
    assert {type(recorded_way("p", layers, layers)) for layers in others} == {RecordedWay}


def test_a_layer_of_ones_own_is_told_of(clock: ManualClock) -> None:
    call, trace = Request(None), Trace()
    call.trace = trace
    Pipeline("p", Slotted(), Deadline(1.0, clock=clock)).outer.enter(call).settle(Outcome.OK)
    own = {"resilience.pipeline": "p", "resilience.policy": "own", "resilience.decision": "admitted", "own": 1}
    assert trace.told[0] == ("resilience.mine", own, "NoneType")
    assert [name for name, _, _ in trace.told] == ["resilience.mine", "resilience.deadline"]
