"""In the shadow: every call passes at once, and the counts say what would have become of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import (
    BreakerChanged,
    BreakerState,
    Call,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    Decision,
    HealthSignal,
    Outcome,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
    mark,
)
from resilience.layers.limiter import LimiterState
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Drive, Failure, attempt, fail, no_jitter, succeed

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED


def counts(layer: Any) -> dict[str, int]:
    """The decisions that were made at all."""
    return {decision: count for decision, count in layer.decisions().items() if count}


def cut_health(clock: ManualClock) -> HealthSignal:
    """A signal in an incident: 30 % are left."""
    health = HealthSignal(clock=clock)
    CircuitBreaker(health=health, clock=clock).force("open")
    return health


def key_of(call: Call) -> str:
    return "somebody"


# --- limiters -----------------------------------------------------------------------------------------------------------

LIMITERS: dict[str, tuple[dict[str, Any], int, dict[str, int]]] = {
    # what it is; calls at once; what would have become of them
    "one bucket": ({"burst": 2}, 5, {"admitted": 2, "would_reject": 3}),
    "keyed": ({"burst": 2, "key": key_of}, 5, {"admitted": 2, "would_reject": 3}),
    "keyed, and full of keys": ({"burst": 2, "key": key_of, "max_keys": 1}, 5, {"admitted": 2, "would_reject": 3}),
    "a cost above the burst": ({"burst": 2, "cost": 3}, 4, {"would_reject": 4}),
    "a cost above the burst, and patience": ({"burst": 2, "cost": 3, "max_wait_s": 60.0}, 4, {"would_reject": 4}),
    "looks only": ({"burst": 2, "cost": 0}, 4, {"admitted": 4}),
    "would have waited": ({"burst": 2, "max_wait_s": 60.0}, 5, {"admitted": 2, "queued": 3}),
    "would have waited, as long as patience lasts": (
        {"burst": 2, "max_wait_s": 2.0}, 6, {"admitted": 2, "queued": 2, "would_reject": 2},
    ),
    "keyed, would have waited": (
        {"burst": 1, "key": key_of, "max_wait_s": 1.0}, 4, {"admitted": 1, "queued": 1, "would_reject": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITERS)
def test_a_limiter_lets_all_pass_at_once(case: str, clock: ManualClock, drive: Drive) -> None:
    settings, calls, expected = LIMITERS[case]
    shadow = RateLimiter(1.0, shadow=True, clock=clock, **settings)
    pipeline = Pipeline("p", shadow)
    before_us = clock.now_us()
    assert [drive(pipeline, succeed) for _ in range(calls)] == ["done"] * calls
    assert (clock.now_us() - before_us, clock.slept_s) == (0, [])
    assert counts(shadow) == expected


@pytest.mark.parametrize("case", LIMITERS)
def test_its_counts_are_those_of_a_limiter_in_force(case: str, clock: ManualClock) -> None:
    """Of callers who arrive at the same instants, whether they are made to wait or not."""
    settings, calls, _ = LIMITERS[case]
    shadow = RateLimiter(1.0, shadow=True, clock=clock, **settings)
    in_force = RateLimiter(1.0, clock=clock, **settings)
    for _ in range(3):
        for _ in range(calls):
            assert shadow.admit(Call(now_us=clock.now_us())) is None
            try:
                wait = in_force.admit(Call(now_us=clock.now_us()))
            except RateLimited:
                continue
            if wait is not None:
                wait.over()
        clock.advance(1.5)
    found = in_force.decisions()
    expected = {**found, "rejected": 0, "would_reject": found["rejected"]}
    assert shadow.decisions() == expected


def test_a_limiter_that_is_cut(clock: ManualClock, drive: Drive) -> None:
    shadow = RateLimiter(10.0, burst=10, shadow=True, health=cut_health(clock), clock=clock)
    pipeline = Pipeline("p", shadow)
    assert [drive(pipeline, succeed) for _ in range(10)] == ["done"] * 10
    assert counts(shadow) == {"admitted": 3, "would_reject": 7}
    with pipeline.guard(cost=5):  # it fits the burst, but not what is left of it
        pass
    assert counts(shadow) == {"admitted": 3, "would_reject": 8}


def test_patience_ends_with_the_deadline(clock: ManualClock, drive: Drive) -> None:
    shadow = RateLimiter(1.0, burst=1, max_wait_s=60.0, shadow=True, clock=clock)
    pipeline = Pipeline("p", Deadline(1.5, clock=clock), shadow)
    assert [drive(pipeline, succeed) for _ in range(4)] == ["done"] * 4
    assert counts(shadow) == {"admitted": 1, "queued": 1, "would_reject": 2}
    assert clock.slept_s == []


def test_it_needs_no_driver(clock: ManualClock) -> None:
    assert RateLimiter(1.0, max_wait_s=1.0, clock=clock).has_effects
    assert not RateLimiter(1.0, max_wait_s=1.0, shadow=True, clock=clock).has_effects


def test_a_limiter_in_force_behind_it_decides_as_ever(clock: ManualClock, drive: Drive) -> None:
    shadow = RateLimiter(1.0, burst=1, shadow=True, name="shadow", clock=clock)
    in_force = RateLimiter(1.0, burst=2, name="in force", clock=clock)
    pipeline = Pipeline("p", shadow, in_force)
    assert [drive(pipeline, succeed) for _ in range(2)] == ["done"] * 2
    with pytest.raises(RateLimited) as refused:
        drive(pipeline, succeed)
    assert refused.value.policy == "in force"
    assert (counts(shadow), counts(in_force)) == ({"admitted": 1, "would_reject": 2}, {"admitted": 2, "rejected": 1})


class _Noting:
    """A limiter's lock that notes the counts at each release, as a reader of metrics could see them then."""

    def __init__(self, state: LimiterState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self.seen: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.seen.append((self._state.rejected, self._state.would_reject))
        self._lock.release()


@pytest.mark.parametrize("max_wait_s", [0.0, 0.5])
def test_no_count_ever_falls(clock: ManualClock, max_wait_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark, "STEPS_ARE_WHOLE", False)  # so that the lock is taken
    limiter = RateLimiter(1.0, burst=1, max_wait_s=max_wait_s, shadow=True, clock=clock)
    lock = _Noting(limiter.state)
    limiter.state.lock = lock  # type: ignore[assignment]
    for _ in range(3):
        limiter.admit(Call(now_us=clock.now_us()))
    assert lock.seen
    assert {rejected for rejected, _ in lock.seen} == {0}
    assert lock.seen[-1] == (0, 2)


# --- breakers -----------------------------------------------------------------------------------------------------------


def breaker_of(clock: ManualClock, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(**{"min_calls": 1, "shadow": True, "clock": clock, "uniform": no_jitter, **settings})


class Caller:
    """One call through a breaker that is still under way."""

    def __init__(self, breaker: CircuitBreaker, clock: ManualClock, key: str | None = None) -> None:
        self._breaker = breaker
        self._clock = clock
        self.call = Call("test", key=key, now_us=clock.now_us())
        self.call.decision = Decision.ADMITTED
        self._ticket = breaker.admit(self.call)

    @property
    def decision(self) -> str:
        return self.call.decision.value

    def ends(self, outcome: Outcome) -> None:
        if self._ticket is not None:
            self._breaker.settle(self._ticket, outcome, self.call, self._clock.now_us())


def trip(breaker: CircuitBreaker) -> None:
    attempt(Pipeline("p", breaker), fail)


def half_open(breaker: CircuitBreaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(30.0)


BREAKERS: dict[str, tuple[dict[str, Any], Callable[[CircuitBreaker, ManualClock], None], list[str]]] = {
    # what it is; what has become of it; what it decides for the next five callers at once
    "closed": ({}, lambda breaker, clock: None, ["admitted"] * 5),
    "open": ({}, lambda breaker, clock: trip(breaker), ["would_reject"] * 5),
    "half-open": ({"probes": 2}, half_open, ["probe"] * 2 + ["would_reject"] * 3),
    "forced open": ({}, lambda breaker, clock: breaker.force("open"), ["would_reject"] * 5),
    "forced closed": ({}, lambda breaker, clock: breaker.force("closed"), ["admitted"] * 5),
    "keyed, open": ({"key": key_of}, lambda breaker, clock: trip(breaker), ["would_reject"] * 5),
    "keyed, half-open": (
        {"key": key_of, "probes": 1},
        half_open,
        ["probe"] + ["would_reject"] * 4,
    ),
}


@pytest.mark.parametrize("case", BREAKERS)
def test_a_breaker_lets_all_pass(case: str, clock: ManualClock) -> None:
    settings, happens, expected = BREAKERS[case]
    breaker = breaker_of(clock, **settings)
    happens(breaker, clock)
    before = breaker.decisions()
    callers = [Caller(breaker, clock) for _ in range(5)]
    assert [caller.decision for caller in callers] == expected
    for caller in callers:
        caller.ends(Outcome.OK)
    after = breaker.decisions()
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)} == {
        decision: expected.count(decision) for decision in set(expected)
    }
    assert after["rejected"] == 0


@pytest.mark.parametrize("case", BREAKERS)
def test_through_both_drivers(case: str, clock: ManualClock, drive: Drive) -> None:
    settings, happens, _ = BREAKERS[case]
    breaker = breaker_of(clock, **settings)
    happens(breaker, clock)
    pipeline = Pipeline("p", breaker)
    assert [attempt(pipeline, succeed, drive) for _ in range(5)] == ["ok"] * 5
    assert breaker.decisions()["rejected"] == 0


def test_half_open_only_probes_decide(clock: ManualClock) -> None:
    """Those whom it would have refused are no evidence: in force, it would never have seen them."""
    breaker = breaker_of(clock, probes=2)
    half_open(breaker, clock)
    callers = [Caller(breaker, clock) for _ in range(20)]
    for caller in callers[2:]:
        caller.ends(Outcome.FAILED)
    assert breaker.state is HALF_OPEN
    for caller in callers[:2]:
        caller.ends(Outcome.OK)
    assert breaker.state is CLOSED


def test_half_open_a_failed_probe_opens_it_again_and_all_pass_still(clock: ManualClock) -> None:
    breaker = breaker_of(clock, probes=1, open_growth=2.0)
    half_open(breaker, clock)
    Caller(breaker, clock).ends(Outcome.FAILED)
    assert breaker.state is OPEN
    clock.advance(59.0)
    assert Caller(breaker, clock).decision == "would_reject"
    clock.advance(1.0)
    assert Caller(breaker, clock).decision == "probe"


def test_keys_are_kept_apart(clock: ManualClock) -> None:
    breaker = breaker_of(clock, key="host")
    Caller(breaker, clock, "one").ends(Outcome.FAILED)
    decisions = [Caller(breaker, clock, key).decision for key in ("one", "two", "one", "two")]
    assert decisions == ["would_reject", "admitted", "would_reject", "admitted"]


def test_it_writes_no_signal(clock: ManualClock) -> None:
    health = HealthSignal(clock=clock)
    breaker = breaker_of(clock, health=health)
    trip(breaker)
    assert (breaker.state, health.factor, health.in_incident) == (OPEN, 1.0, False)


RELOADS = pytest.mark.parametrize(("before", "after", "expected"), [(True, False, "would_reject"), (False, True, "rejected")])


@RELOADS
def test_a_call_is_counted_by_the_settings_it_began_with(clock: ManualClock, before: bool, after: bool, expected: str) -> None:
    breaker = breaker_of(clock, shadow=before)
    breaker.force("open")
    breaker.pool.configure(replace(breaker.pool.settings, shadow=after), None, clock.now_us())
    try:
        Caller(breaker, clock)
    except CircuitOpen:
        assert expected == "rejected"
    else:
        assert expected == "would_reject"
    assert counts(breaker) == {expected: 1}


def test_the_log_of_one_that_opens_says_that_it_refuses_nothing(clock: ManualClock) -> None:
    with RecordingObserver() as observer:
        assert attempt(Pipeline("p", breaker_of(clock)), fail) == "failed"
    assert [event.reason for event in observer.events if isinstance(event, BreakerChanged)] == [
        "1 of 1 calls failed; in shadow: it refuses nothing"
    ]


# --- in company -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["limiter", "breaker"])
def test_a_retry_makes_all_its_tries_and_pays_for_failures_alone(clock: ManualClock, drive: Drive, layer: str) -> None:
    shadow: Any = RateLimiter(1.0, burst=1, shadow=True, clock=clock) if layer == "limiter" else breaker_of(clock)
    retry = Retry(attempts=3, backoff_s=0.0, jitter="none", on=(Failure,), budget=(10, 0.1), clock=clock)
    with pytest.raises(Failure):
        drive(Pipeline("p", retry, shadow), fail)
    assert counts(shadow) == {"admitted": 1, "would_reject": 2}
    assert retry.status()["budget_tokens"] == 7.0


def test_blocks_and_decorated_functions_pass(clock: ManualClock) -> None:
    breaker = breaker_of(clock)
    limiter = RateLimiter(1.0, burst=1, max_wait_s=60.0, cost=2, shadow=True, clock=clock)
    breaker.force("open")
    pipeline = Pipeline("p", limiter, breaker)
    with pipeline.guard():
        assert pipeline(succeed)() == "done"
    assert (counts(limiter), breaker.decisions()["would_reject"]) == ({"would_reject": 2}, 2)


CONFIG = """\
version: 1
limiters:
  api: {rate: 1/h, burst: 1, max_wait: 1m}
breakers:
  api: {min_calls: 1, open_for: 1h}
pipelines:
  api: [{limiter: api}, {breaker: api}]
"""


def test_a_reload_puts_a_policy_into_the_shadow_and_back_with_its_state(tmp_path: Path, clock: ManualClock, drive: Drive) -> None:
    file = tmp_path / "resilience.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    with resilience.load(file, clock=clock) as toolkit:
        pipeline = toolkit.pipeline("api")
        assert attempt(pipeline.current, fail, drive) == "failed"
        for shadow, expected in ((False, "over"), (True, "done"), (False, "over")):
            file.write_text(CONFIG.replace("}\n", f", shadow: {str(shadow).lower()}}}\n"), encoding="utf-8")
            toolkit.reload()
            try:
                found = drive(pipeline.current, succeed)
            except RateLimited:
                found = "over"
            assert found == expected
        status = toolkit.status()
    assert (status["limiters"]["api"]["would_reject"], status["limiters"]["api"]["rejected"]) == (1, 2)
    assert (status["breakers"]["api"]["would_reject"], status["breakers"]["api"]["state"]) == (1, "open")
    assert clock.slept_s == []
