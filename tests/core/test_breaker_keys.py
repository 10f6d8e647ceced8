"""One breaker a key, as a bounded table."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from resilience import BreakerState, Call, CircuitBreaker, CircuitOpen, HealthSignal, Outcome, Pipeline
from resilience.testing import ManualClock
from tests.core.helpers import Desk, Drive, Failure, no_jitter, succeed

OK, FAILED = Outcome.OK, Outcome.FAILED


def keyed(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(
        **{"consecutive_failures": 1, "probes": 1, "key": lambda call: call.name, "clock": clock, "uniform": no_jitter, **settings}
    )


def test_one_dead_key_leaves_the_others_alone(clock: ManualClock) -> None:
    desk = Desk(keyed(clock), clock)
    desk.settle(desk.admit("dead"), FAILED)
    assert desk.is_refused("dead")
    assert not desk.is_refused("alive")


class HttpCall(Call):
    """A call that knows where it goes."""

    __slots__ = ()

    def host(self) -> str | None:
        return f"{self.name}.example"

    def method(self) -> str | None:
        return self.name.upper()

    def headers(self, name: str) -> list[str]:
        return [self.name] if name == "x-tenant" else []


@pytest.mark.parametrize("key", ["host", "method", "header:X-Tenant"])
def test_named_keys(clock: ManualClock, key: str) -> None:
    breaker = keyed(clock, key=key)
    one, two = (HttpCall(name, now_us=clock.now_us()) for name in ("one", "two"))
    ticket = breaker.admit(one)
    breaker.settle(ticket, FAILED, one, clock.now_us())  # type: ignore[arg-type]
    with pytest.raises(CircuitOpen):
        breaker.admit(HttpCall("one", now_us=clock.now_us()))
    assert breaker.admit(two) is not None
    assert len(breaker.pool.table) == 2


def test_a_raising_key_function_is_no_free_pass(clock: ManualClock, drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline("p", keyed(clock, key=lambda call: call.kwargs["missing"]))

    def fails() -> None:
        raise Failure

    with pytest.raises(Failure):
        drive(pipeline, fails)
    with pytest.raises(CircuitOpen):
        drive(pipeline, succeed)
    assert "the call shares the bucket of all that have no key" in caplog.text


def test_the_table_is_bounded_and_idle_breakers_go_first(clock: ManualClock) -> None:
    breaker = keyed(clock, max_keys=3)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit("dead"), FAILED)
    for number in range(20):
        desk.admit(f"key {number}")  # no votes: nothing is lost with it
    assert len(breaker.pool.table) == 3
    assert desk.is_refused("dead"), "it was the longest unused, but something would have been lost with it"


def test_a_table_that_must_become_much_smaller_does_so_a_few_at_a_time(clock: ManualClock) -> None:
    breaker = keyed(clock, max_keys=1_000)
    desk = Desk(breaker, clock)
    for number in range(200):
        desk.settle(desk.admit(f"key {number}"), OK)
    breaker.pool.table.resize(10)
    sizes = []
    for number in range(40):
        desk.settle(desk.admit(f"new {number}"), OK)
        sizes.append(len(breaker.pool.table))
    most = max(before - after for before, after in itertools.pairwise([200, *sizes]))
    assert most == 8 - 1, "no call pays for all of them: eight give way to the new one"
    assert sizes[-1] == 10
    assert breaker.decisions()["admitted"] == 240


def test_where_none_is_idle_the_longest_unused_goes(clock: ManualClock) -> None:
    breaker = keyed(clock, max_keys=2)
    desk = Desk(breaker, clock)
    for key in ("first", "second"):
        desk.settle(desk.admit(key), FAILED)
    assert desk.is_refused("first"), "used last"
    desk.settle(desk.admit("third"), FAILED)
    assert desk.is_refused("first")
    assert not desk.is_refused("second"), "it was evicted, and starts anew"


def test_a_call_under_way_settles_where_it_was_admitted(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    breaker = keyed(clock, max_keys=1, health=health)
    desk = Desk(breaker, clock)
    late = desk.admit("evicted")
    desk.admit("other")
    desk.settle(late, FAILED)
    assert late.machine.state is BreakerState.OPEN
    assert health.factor == 1.0, "an evicted breaker writes nothing any more"
    assert not desk.is_refused("evicted")


def test_a_retired_policy_writes_nothing_for_new_keys_either(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    breaker = keyed(clock, health=health)
    desk = Desk(breaker, clock)
    breaker.pool.retire(clock.now_us())
    desk.settle(desk.admit("new"), FAILED)
    assert desk.is_refused("new")
    assert health.factor == 1.0


def test_counts_are_of_all_keys(clock: ManualClock) -> None:
    breaker = keyed(clock)
    desk = Desk(breaker, clock)
    desk.settle(desk.admit("a"), FAILED)
    desk.settle(desk.admit("b"), OK)
    assert desk.is_refused("a")
    assert breaker.decisions() == {"admitted": 2, "rejected": 1, "probe": 0, "would_reject": 0}
    assert breaker.status()["keys"] == 2


def test_threads_never_find_more_keys_than_allowed(clock: ManualClock) -> None:
    breaker = keyed(clock, max_keys=10)
    start = threading.Barrier(8)
    most: list[int] = []

    def work(offset: int) -> None:
        start.wait()
        for number in range(500):
            breaker.pool.table.get(f"key {(number * 7 + offset) % 40}", clock.now_us())
            most.append(len(breaker.pool.table))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 10


def test_counts_never_fall_when_breakers_are_forgotten(clock: ManualClock) -> None:
    breaker = keyed(clock, max_keys=2)
    desk = Desk(breaker, clock)
    for number in range(10):
        desk.settle(desk.admit(f"key {number}"), OK)
        assert breaker.decisions()["admitted"] == number + 1
    assert len(breaker.pool.table) == 2
