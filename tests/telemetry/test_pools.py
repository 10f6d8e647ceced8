"""Spans and metrics of worker pools."""

from __future__ import annotations

import asyncio
import gc

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from resilience import Pipeline, RateLimited, RateLimiter, Retry
from resilience.testing import ManualClock
from resilience.workers import AsyncWorkerPool, PoolFull, WorkerPool
from tests.telemetry.recording import Recording
from tests.workers.helpers import Blocked

client = trace.get_tracer("of a client")


def send() -> str:
    with client.start_as_current_span("SMTP", kind=SpanKind.CLIENT):
        return "sent"


def fail() -> None:
    raise ValueError("what a client sent")


def test_a_task_is_in_the_trace_of_whoever_submits(recorded: Recording) -> None:
    clock = ManualClock()
    pipeline = Pipeline("jobs", Retry(attempts=2, on=ValueError, backoff_s=1.0, jitter="none", name="jobs", clock=clock))
    limiter = RateLimiter(0.001, burst=2, name="mail", clock=clock)
    pool = WorkerPool("mail", max_workers=1, limiter=limiter, pipeline=pipeline, clock=clock)
    with client.start_as_current_span("POST /orders"), pool:
        pool.submit(send).result(10)
        pool.submit(fail).exception(10)
        with pytest.raises(RateLimited):
            pool.submit(send)
    tree = recorded.tree().splitlines()
    assert tree[0] == "POST /orders INTERNAL"
    told = [line.split(" pool.queue.length")[0].split(" health.factor")[0] for line in tree]
    assert [line for line in told if "resilience.pool" in line] == [
        "  resilience.pool INTERNAL decision=admitted pipeline=mail policy=mail",
        "  resilience.pool INTERNAL decision=admitted pipeline=mail policy=mail",
        "  resilience.pool INTERNAL ERROR (RateLimited: quota) decision=rejected pipeline=mail policy=mail",
    ]
    first, second = [index for index, line in enumerate(tree) if line.startswith("  resilience.task")]
    assert tree[first].endswith("decision=admitted pipeline=mail policy=mail pool.attempts=1 pool.queue.wait_s=0.0")
    assert tree[first + 2] == "      SMTP CLIENT", "under its attempt, which is under the task"
    assert tree[second].startswith("  resilience.task INTERNAL ERROR (ValueError) decision=admitted")
    assert "pool.attempts=2" in tree[second]
    assert len([line for line in tree if line.startswith("    resilience.retry")]) == 3
    assert "what a client sent" not in recorded.tree()


def test_a_task_that_nobody_traces_has_a_span_of_its_own_from_first_to_last(recorded: Recording) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def work() -> None:
            with client.start_as_current_span("SMTP", kind=SpanKind.CLIENT):
                await gate.wait()

        async with AsyncWorkerPool("mail", max_workers=1) as pool:
            pool.submit(work)
            waiting = pool.submit(work)
            cancelled = pool.submit(work)
            cancelled.cancel()
            gate.set()
            await waiting

    asyncio.run(main())
    roots = [line for line in recorded.tree().splitlines() if not line.startswith(" ")]
    assert roots == ["resilience mail INTERNAL pipeline=mail"] * 3
    assert sorted(span.name for span in recorded.spans) == sorted(
        [*["resilience mail"] * 3, *["resilience.pool"] * 3, *["resilience.task"] * 2, *["SMTP"] * 2]
    )
    queued = [span for span in recorded.spans if span.name == "resilience.pool"]
    assert [(span.attributes or {})["resilience.decision"] for span in queued] == ["admitted", "queued", "queued"]


def test_nothing_is_recorded_where_nobody_looks(recorded: Recording) -> None:
    recorded.clear()
    with trace.use_span(trace.NonRecordingSpan(_unsampled()), end_on_exit=False), WorkerPool("mail") as pool:
        assert pool.submit(send).result(10) == "sent"
    assert [name for name in recorded.started if name.startswith("resilience")] == []


def _unsampled() -> trace.SpanContext:
    return trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(0))


def test_metrics(recorded: Recording) -> None:
    gc.collect()
    blocked = Blocked()
    with WorkerPool("counted", min_workers=2, max_workers=2, queue=1) as pool:
        for _ in range(3):
            pool.submit(blocked)
        blocked.wait_begun(2)
        with pytest.raises(PoolFull):
            pool.submit(blocked)
        points = {name: recorded.points(f"resilience.{name}") for name in ("pool.queue.length", "pool.workers", "decisions")}
        policy = ("policy", "counted")
        assert points["pool.queue.length"][policy,] == 1
        assert {dict(labels)["state"]: count for labels, count in points["pool.workers"].items() if policy in labels} == {
            "busy": 2,
            "idle": 0,
            "abandoned": 0,
        }
        blocked.open.set()
    pool_decisions = {dict(labels)["decision"]: count for labels, count in points["decisions"].items() if policy in labels}
    assert pool_decisions == {"admitted": 3, "rejected": 1, "expired": 0}
    ended = {
        dict(labels)["outcome"]: count for labels, count in recorded.points("resilience.pool.tasks").items() if policy in labels
    }
    assert ended == {"done": 3, "failed": 0, "timed_out": 0, "cancelled": 0}
    assert recorded.points("resilience.pool.queue.wait")[policy,] >= 0
    assert recorded.points("resilience.pool.not_kept")[policy,] == 0
