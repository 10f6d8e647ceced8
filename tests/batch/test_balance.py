"""Which endpoint a request goes to."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import Call, CircuitBreaker, CircuitOpen, Outcome, Pipeline, RateLimiter
from resilience.batch import Balanced, BatchCaller, FunctionBackend, Kind, RequestNotMade
from resilience.batch.balance import Standing, choose, is_open
from resilience.testing import ManualClock

Make = Callable[..., BatchCaller]


class Endpoint:
    """Counts its requests; fails while it is `sick`; takes `takes_s` by the clock."""

    def __init__(self, name: str, clock: ManualClock, *layers: Any, takes_s: float = 0.01) -> None:
        self.clock = clock
        self.sick = False
        self.takes_s = takes_s
        self.requests = 0
        self.breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=10.0, clock=clock, uniform=lambda: 0.0)
        self.backend: FunctionBackend[str, str] = FunctionBackend(self.call, name, Pipeline(name, *layers, self.breaker))
        self.name = name

    def call(self, request: str) -> str:
        self.requests += 1
        self.clock.advance(self.takes_s)
        if self.sick:
            raise ConnectionError
        return self.name


@pytest.fixture
def endpoints(clock: ManualClock) -> list[Endpoint]:
    return [Endpoint(name, clock) for name in "abc"]


def balance(endpoints: list[Endpoint], clock: ManualClock, rule: str = "round_robin", **options: Any) -> Balanced[str, str]:
    return Balanced(*(endpoint.backend for endpoint in endpoints), rule=rule, clock=clock, **options)


def test_round_robin_takes_turns(endpoints: list[Endpoint], clock: ManualClock) -> None:
    balanced = balance(endpoints, clock)
    assert [balanced.send("x") for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_one_whose_breaker_is_open_is_skipped_until_it_may_be_probed(endpoints: list[Endpoint], clock: ManualClock) -> None:
    balanced = balance(endpoints, clock)
    endpoints[1].sick = True
    with pytest.raises(ConnectionError):
        [balanced.send("x") for _ in range(3)]
    assert is_open(endpoints[1].backend.pipeline)
    asked = endpoints[1].requests
    assert {balanced.send("x") for _ in range(10)} == {"a", "c"}
    assert endpoints[1].requests == asked
    endpoints[1].sick = False
    clock.advance(10.0)
    assert {balanced.send("x") for _ in range(3)} == {"a", "b", "c"}


def test_where_all_are_open_the_caller_is_told(endpoints: list[Endpoint], clock: ManualClock) -> None:
    for endpoint in endpoints:
        endpoint.breaker.force("open")
    with pytest.raises(CircuitOpen):
        balance(endpoints, clock).send("x")
    assert sum(endpoint.requests for endpoint in endpoints) == 0


def test_a_breaker_that_opens_at_the_last_moment_costs_no_request(endpoints: list[Endpoint], clock: ManualClock) -> None:
    balanced = balance(endpoints, clock)
    late = endpoints[0].breaker
    late.would_refuse = lambda now_us: False  # type: ignore[method-assign]  # it has opened just after it was asked
    late.force("open")
    assert {balanced.send("x") for _ in range(4)} == {"b", "c"}
    assert endpoints[0].requests == 0


def test_a_limiter_of_one_endpoint_refuses_for_it(clock: ManualClock) -> None:
    limited = Endpoint("a", clock, RateLimiter(rate_per_s=0.001, burst=1, clock=clock))
    balanced = balance([limited], clock)
    assert balanced.send("x") == "a"
    with pytest.raises(Exception, match="over the limit"):
        balanced.send("x")


def test_the_fewest_in_flight(clock: ManualClock) -> None:
    standings = [Standing(endpoint.backend) for endpoint in (Endpoint(name, clock) for name in "abc")]
    standings[0].in_flight, standings[1].in_flight, standings[2].in_flight = 3, 1, 2
    assert choose("least_in_flight", standings, 0, random.random) is standings[1]
    standings[2].in_flight = 1
    assert [choose("least_in_flight", standings, turn, random.random) for turn in (1, 2)] == standings[1:]


def test_latency_sends_most_to_the_quickest_and_some_to_all(clock: ManualClock) -> None:
    endpoints = [Endpoint("a", clock, takes_s=0.01), Endpoint("b", clock, takes_s=0.04), Endpoint("c", clock, takes_s=0.16)]
    balanced = balance(endpoints, clock, "latency", uniform=random.Random(7).random)
    sent = Counter(balanced.send("x") for _ in range(2_100))
    assert sent["a"] / 2_100 == pytest.approx(16 / 21, abs=0.04)
    assert sent["b"] / 2_100 == pytest.approx(4 / 21, abs=0.04)
    assert sent["c"] / 2_100 == pytest.approx(1 / 21, abs=0.02)


def test_latency_forgets(clock: ManualClock) -> None:
    endpoints = [Endpoint("a", clock, takes_s=1.0), Endpoint("b", clock, takes_s=0.01)]
    balanced = balance(endpoints, clock, "latency", half_life_s=5.0, uniform=random.Random(7).random)
    balanced.send("x")
    endpoints[0].takes_s = 0.01  # it has recovered
    for _ in range(600):
        balanced.send("x")
        clock.advance(0.1)
    sent = Counter(balanced.send("x") for _ in range(200))
    assert 60 < sent["a"] < 140


def test_an_endpoint_that_fails_at_once_does_not_look_quick(clock: ManualClock) -> None:
    well, sick = Endpoint("a", clock, takes_s=0.05), Endpoint("b", clock, takes_s=0.05)
    for endpoint in (well, sick):
        endpoint.backend.pipeline = None
    balanced = balance([well, sick], clock, "latency", uniform=random.Random(7).random)
    [balanced.send("x") for _ in range(20)]
    sick.sick, sick.takes_s = True, 0.0001
    before = sick.requests
    for _ in range(500):
        try:
            balanced.send("x")
        except ConnectionError:
            continue
    assert (sick.requests - before) / 500 < 0.2


@given(st.sampled_from(["round_robin", "least_in_flight", "latency"]), st.data())
def test_whatever_is_known_one_of_them_is_chosen(rule: str, data: st.DataObject) -> None:
    backend: FunctionBackend[str, str] = FunctionBackend(str)
    standings = []
    for _ in range(data.draw(st.integers(1, 5))):
        standing = Standing(backend)
        standing.in_flight = data.draw(st.integers(0, 100))
        standing.latency_us = data.draw(st.floats(0, 1e9))
        standings.append(standing)
    turn, drawn = data.draw(st.integers(0, 1 << 40)), data.draw(st.floats(0, 1, exclude_max=True))
    assert choose(rule, standings, turn, lambda: drawn) in standings


def test_tasks_are_balanced_alike_and_counted(make: Make, clock: ManualClock) -> None:
    async def first(request: str) -> str:
        await asyncio.sleep(0)
        return "first"

    async def second(request: str) -> str:
        await asyncio.sleep(0)
        return "second"

    balanced: Any = Balanced(FunctionBackend(first), FunctionBackend(second), rule="least_in_flight", name="stock")
    results = asyncio.run(make().acall(balanced, range(10)))
    assert Counter(results.values()) == {"first": 5, "second": 5}
    assert [(told["name"], told["in_flight"], told["open"]) for told in balanced.status()] == [
        ("first", 0, False),
        ("second", 0, False),
    ]


def test_a_request_that_an_endpoint_cannot_make_is_the_callers_fault(make: Make) -> None:
    class Picky(FunctionBackend[Any, Any]):
        def prepare(self, request: Any) -> Any:
            raise ValueError(request)

    results = make().call(Balanced(Picky(str, "stock")), ["a"])
    (failure,) = results.errors()
    assert (failure.kind, type(failure.error)) == (Kind.BUSINESS, RequestNotMade)


def test_a_half_open_breaker_with_its_probe_taken_is_skipped(clock: ManualClock) -> None:

    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=10.0, clock=clock, uniform=lambda: 0.0)
    pipeline = Pipeline("stock", breaker)
    with pytest.raises(ZeroDivisionError):
        pipeline.call(lambda: 1 / 0)
    assert is_open(pipeline)
    clock.advance(10.0)
    assert not is_open(pipeline)
    call = Call(now_us=clock.now_us())
    token = breaker.admit(call)
    assert is_open(pipeline)
    clock.advance(10.0)
    assert not is_open(pipeline)  # the probe counts as failed, but only for the next who comes
    assert token is not None

    breaker.settle(token, Outcome.OK, call, clock.now_us())
