"""What can be seen of batches: one span a batch, one a call, and counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace

from resilience import Deadline, Pipeline
from resilience.batch import BatchCaller, Results
from tests.batch.acts import Acts, in_tasks, in_threads
from tests.telemetry.recording import Recording

Fan = Callable[..., Results[Any]]
both = pytest.mark.parametrize("fan", [in_tasks, in_threads], ids=["tasks", "threads"])

ALONE = """\
resilience.batch INTERNAL batch.abandoned=0 batch.business=1 batch.hedged=0 batch.name=spans batch.ok=1 batch.stopped=
  resilience.batch.call INTERNAL batch.back_end={fn} batch.hedge=False batch.index=0 batch.result=ok
    resilience.deadline INTERNAL decision=admitted pipeline=stock policy=deadline
  resilience.batch.call INTERNAL ERROR (Failure) batch.back_end={fn} batch.hedge=False batch.index=1 batch.result=business
    resilience.deadline INTERNAL decision=admitted pipeline=stock policy=deadline"""


@both
def test_a_batch_is_a_span_with_one_for_each_call(recorded: Recording, fan: Fan) -> None:
    with BatchCaller("spans", pipeline=Pipeline("stock", Deadline()), concurrency=1) as caller:
        fan(caller, Acts(), ["a", "fails"])
    assert recorded.tree() == ALONE.format(fn="acall" if fan is in_tasks else "call")


@both
def test_it_nests_under_the_span_that_is_current_and_what_calls_do_nests_under_them(recorded: Recording, fan: Fan) -> None:
    tracer = trace.get_tracer("test")

    class Traced(Acts):
        async def acall(self, act: Any) -> Any:
            with tracer.start_as_current_span(f"work {act}"):
                return await super().acall(act)

        def call(self, act: Any) -> Any:
            with tracer.start_as_current_span(f"work {act}"):
                return super().call(act)

    with tracer.start_as_current_span("page"), BatchCaller("spans") as caller:
        fan(caller, Traced(), ["a", "b"])
        assert trace.get_current_span().is_recording()
    names = [line.split(" INTERNAL")[0] for line in recorded.tree().splitlines()]
    assert sorted(names) == sorted(
        ["page", "  resilience.batch", "    resilience.batch.call", "      work a", "    resilience.batch.call", "      work b"]
    )


@both
def test_nothing_is_built_where_nobody_records(recorded: Recording, fan: Fan) -> None:
    context = trace.SpanContext(trace_id=1, span_id=1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)), BatchCaller("spans") as caller:
        fan(caller, Acts(), ["a"])
    assert recorded.started == []


@both
def test_a_batch_that_was_stopped_is_an_error(recorded: Recording, fan: Fan) -> None:
    with BatchCaller("spans", concurrency=1, stop_over=0.0, stop_min_calls=1) as caller:
        fan(caller, Acts(), ["fails", "a"])
    batch = recorded.span("resilience.batch")
    assert (batch.status.description, dict(batch.attributes or {})["resilience.batch.cancelled"]) == ("failures", 1)


def counts(recorded: Recording, metric: str, name: str) -> dict[str, Any]:
    """The points of the batches of that name, by their other label. Those of a caller that nobody has any more, but that was not
    collected yet, are counted with those of its namesakes: each test has a name of its own."""
    found = {}
    for labels, value in recorded.points(metric).items():
        named = dict(labels)
        if named.pop("batch") == name:
            found["".join(str(other) for other in named.values())] = value
    return found


@both
def test_results_are_counted(recorded: Recording, fan: Fan) -> None:
    released, name = threading.Event(), f"counted {fan.__name__}"
    with BatchCaller(name, timeout_s=0.3) as caller:
        fan(caller, Acts(released), ["a", "b", "fails", "open", "no connection", "hangs"])
        assert counts(recorded, "resilience.batch.calls", name) == {
            "ok": 2,
            "business": 1,
            "timeout": 1,
            "cancelled": 0,
            "refused": 1,
            "transport": 1,
        }
        assert counts(recorded, "resilience.batch.batches", name) == {"done": 0, "timeout": 1}
        assert counts(recorded, "resilience.batch.hedges", name) == {"": 0}
        assert counts(recorded, "resilience.batch.in_flight", name) == {"": 0}
        assert counts(recorded, "resilience.batch.abandoned", name) == {"": 0 if fan is in_tasks else 1}
        released.set()


def test_a_batch_at_work_is_counted_too(recorded: Recording) -> None:
    seen = []

    async def looks(request: int) -> None:
        done, in_flight = (counts(recorded, f"resilience.batch.{what}", "at work") for what in ("calls", "in_flight"))
        seen.append((done["ok"], in_flight[""]))

    asyncio.run(BatchCaller("at work", concurrency=1).acall(looks, range(3)))
    assert seen == [(0, 1), (1, 1), (2, 1)]
