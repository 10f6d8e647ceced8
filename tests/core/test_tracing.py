"""The seam to tracing: who is told what, in which order, and that nothing stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, CircuitOpen, Deadline, Pipeline, RateLimiter, Retry, tracing
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, fail, no_jitter, raiser, succeed


class Trace:
    """Writes down what a recorded call tells it."""

    has_own_span = True

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.open_spans = 0

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
        assert began_ns > 0
        self.log.append((f"{pipeline}/{kind}/{policy}", decision, dict(attributes), type(error).__name__))

    def leaves(self, leaves: Sequence[tracing.Leaf], error: BaseException | None = None) -> None:
        for name, told, began_ns, ended_ns in leaves:
            assert 0 < began_ns <= ended_ns
            attributes = dict(told)
            pipeline, policy, decision = (attributes.pop(f"resilience.{key}") for key in ("pipeline", "policy", "decision"))
            failed = error if name == leaves[-1][0] else None
            layer = f"{pipeline}/{name.removeprefix('resilience.')}/{policy}"
            self.log.append((layer, decision, attributes, type(failed).__name__))

    def attempt(self, number: int, pipeline: str, policy: str) -> Span:
        return Span(self, f"{pipeline}/attempt {number}/{policy}")

    def work(self, kind: str, pipeline: str, policy: str) -> Span:
        return Span(self, f"{pipeline}/{kind}/{policy}")

    def enter(self) -> None:
        self.log.append("enter")

    def exit(self) -> None:
        self.log.append("exit")

    def finish(self, error: BaseException | None = None) -> None:
        self.log.append(("finish", type(error).__name__))


class Span:
    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self._name = name
        trace.open_spans += 1

    def end(self, decision: str, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        self._trace.open_spans -= 1
        self._trace.log.append((self._name, decision, dict(attributes), type(error).__name__))


@pytest.fixture
def trace() -> Iterator[Trace]:
    before, recorded = tracing.begin, Trace()
    tracing.install(lambda pipeline, call: recorded)
    yield recorded
    tracing.install(before)
    assert recorded.open_spans == 0


def test_an_admitted_call(clock: ManualClock, drive: Drive, trace: Trace) -> None:
    breaker = CircuitBreaker(name="b", clock=clock)
    limiter = RateLimiter(10.0, burst=1, max_wait_s=1.0, name="l", clock=clock)
    pipeline = Pipeline("p", Deadline(2.0, name="d", clock=clock), limiter, breaker)
    drive(pipeline, succeed)
    admitted = [entry[:2] for entry in trace.log if isinstance(entry, tuple)]
    assert trace.log[0] == "enter"
    assert admitted == [
        ("p/deadline/d", "admitted"), ("p/limiter/l", "admitted"), ("p/breaker/b", "admitted"), ("finish", "NoneType"),
    ]  # fmt: skip
    trace.log.clear()
    drive(pipeline, succeed)
    (_, decision, attributes, error) = next(entry for entry in trace.log if entry[0] == "p/limiter/l")
    assert (decision, error) == ("queued", "NoneType")
    assert attributes["resilience.limiter.wait_s"] == 0.1
    assert trace.log[-2:] == ["exit", ("finish", "NoneType")]


def test_attributes(clock: ManualClock, trace: Trace) -> None:
    pipeline = Pipeline("p", Deadline(2.0, clock=clock), RateLimiter(10.0, burst=5, clock=clock), CircuitBreaker(clock=clock))
    pipeline.call(succeed)
    attributes = [entry[2] for entry in trace.log if isinstance(entry, tuple) and len(entry) == 4]
    assert attributes == [
        {"resilience.deadline.remaining_s": 2.0},
        {"resilience.health.factor": 1.0, "resilience.limiter.rate": 10.0, "resilience.limiter.remaining": 4},
        {
            "resilience.breaker.state": "closed",
            "resilience.breaker.generation": 1,
            "resilience.breaker.failure_rate": 0.0,
        },
    ]


def test_a_refused_call_and_a_probe(clock: ManualClock, drive: Drive, trace: Trace) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, name="b", clock=clock, uniform=no_jitter)
    pipeline = Pipeline("p", breaker, RateLimiter(10.0, name="l", clock=clock))
    with pytest.raises(Failure):
        drive(pipeline, fail)
    assert trace.log[-1] == ("finish", "Failure")
    trace.log.clear()
    with pytest.raises(CircuitOpen):
        drive(pipeline, succeed)
    assert [entry if isinstance(entry, str) else (entry[0], entry[1], entry[-1]) for entry in trace.log] == [
        "enter", ("p/breaker/b", "rejected", "CircuitOpen"), "exit", ("finish", "CircuitOpen", "CircuitOpen"),
    ]  # fmt: skip
    trace.log.clear()
    clock.advance(30.0)
    drive(pipeline, succeed)
    assert trace.log[1][:2] == ("p/breaker/b", "probe")


def test_each_attempt(clock: ManualClock, drive: Drive, trace: Trace) -> None:
    pipeline = Pipeline("p", Retry(3, backoff_s=0.5, name="r", clock=clock), Deadline(9.0, name="d", clock=clock))
    drive(pipeline, raiser([OSError(), None]))
    assert [entry for entry in trace.log if isinstance(entry, tuple)] == [
        ("p/deadline/d", "admitted", {"resilience.deadline.remaining_s": 9.0}, "NoneType"),
        ("p/attempt 1/r", "admitted", {"resilience.retry.attempt": 1, "resilience.retry.delay_s": 0.0}, "OSError"),
        ("p/deadline/d", "admitted", {"resilience.deadline.remaining_s": 9.0}, "NoneType"),
        ("p/attempt 2/r", "retried", {"resilience.retry.attempt": 2, "resilience.retry.delay_s": 0.5}, "NoneType"),
        ("finish", "NoneType"),
    ]


@pytest.mark.parametrize("end", [None, Failure(), asyncio.CancelledError()])
def test_a_guard(clock: ManualClock, trace: Trace, end: BaseException | None) -> None:
    pipeline = Pipeline("p", CircuitBreaker(name="b", clock=clock))

    async def block() -> None:
        async with pipeline.guard():
            if end is not None:
                raise end

    if end is None:
        with pipeline.guard():
            pass
        asyncio.run(block())
    else:
        with pytest.raises(type(end)), pipeline.guard():
            raise end
        with pytest.raises(type(end)):
            asyncio.run(block())
    names = [entry if isinstance(entry, str) else entry[:2] for entry in trace.log]
    assert names == ["enter", ("p/breaker/b", "admitted"), "exit", ("finish", type(end).__name__)] * 2


def test_a_guard_that_is_refused(clock: ManualClock, trace: Trace) -> None:
    breaker = CircuitBreaker(name="b", clock=clock)
    breaker.force("open")
    with pytest.raises(CircuitOpen), Pipeline("p", breaker).guard():
        pass
    assert trace.log[-2:] == ["exit", ("finish", "CircuitOpen")]


def test_describing_a_decision_takes_no_second_token(clock: ManualClock, trace: Trace) -> None:
    """What describes a decision changes none: the bucket and the counts are those of one call."""
    limiter = RateLimiter(10.0, burst=5, key=lambda call: call.name, clock=clock)
    Pipeline("p", limiter).call(succeed)
    assert limiter.decisions()["admitted"] == 1
    call = Call("succeed", now_us=clock.now_us())
    assert limiter.quota(call).remaining == 4
