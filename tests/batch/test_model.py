"""For any mix of outcomes: one result for each request, in their order, and every call settled once. Through both drivers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience import CircuitBreaker, Deadline, Pipeline, Retry
from resilience.batch import BatchCaller, Err, Ok
from resilience.batch.run import Run
from tests.batch.acts import KINDS, Acts
from tests.soak.sizes import EXAMPLES

ACTS = st.sampled_from(["ok", "ok", "ok", "hangs", *KINDS])
LAYERS = st.sampled_from(["none", "plain", "retry"])


def pipeline_of(layers: str) -> Pipeline | None:
    """Breakers that never open: which call is refused would depend on the order of their ends."""
    breaker = CircuitBreaker(min_calls=10_000)
    if layers == "none":
        return None
    if layers == "plain":
        return Pipeline("stock", Deadline(30.0), breaker)
    return Pipeline("stock", Deadline(30.0), Retry(attempts=2, backoff_s=0.001), breaker)


class Once(list[Any]):
    """Results that see that none is written twice."""

    def __init__(self, settled: Counter[int]) -> None:
        super().__init__()
        self._settled = settled

    def __setitem__(self, index: Any, result: Any) -> None:
        self._settled[index] += 1
        super().__setitem__(index, result)


def counted(patched: pytest.MonkeyPatch) -> Counter[int]:
    """How often each request is settled from now on."""
    settled: Counter[int] = Counter()
    plain = Run.__init__

    def begin(run: Run, *args: Any) -> None:
        plain(run, *args)
        run.results = Once(settled)

    patched.setattr(Run, "__init__", begin)
    return settled


@given(
    acts=st.lists(ACTS, max_size=25),
    concurrency=st.integers(1, 30),
    call_timeout_s=st.sampled_from([None, 0.002, 0.01]),
    hedge_after_s=st.sampled_from([None, 0.001]),
    stop_over=st.sampled_from([None, 0.0, 0.3]),
    layers=LAYERS,
    in_threads=st.booleans(),
)
@settings(max_examples=EXAMPLES or 60)
@pytest.mark.soak
def test_any_mix_of_outcomes(
    acts: list[str],
    concurrency: int,
    call_timeout_s: float | None,
    hedge_after_s: float | None,
    stop_over: float | None,
    layers: str,
    in_threads: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        settled = counted(patched)
        released = threading.Event()
        caller = BatchCaller(
            concurrency=concurrency,
            timeout_s=0.04,
            call_timeout_s=call_timeout_s,
            hedge_after_s=hedge_after_s,
            stop_over=stop_over,
            stop_min_calls=3,
            grace_s=0.002,
            pipeline=pipeline_of(layers),
        )
        doing = Acts(released)
        requests = list(enumerate(acts))

        def blocking(request: tuple[int, str]) -> tuple[int, Any]:
            return request[0], doing.call(request[1])

        async def awaiting(request: tuple[int, str]) -> tuple[int, Any]:
            return request[0], await doing.acall(request[1])

        async def tasks() -> Any:
            results = await caller.acall(awaiting, requests)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return results

        results = caller.call(blocking, requests) if in_threads else asyncio.run(tasks())
        released.set()
        caller.close()
        report = results.report
        assert len(results) == len(acts)
        for index, (act, result) in enumerate(zip(acts, results, strict=True)):
            if isinstance(result, Ok):
                assert result.value == (index, ("done", act))
            else:
                assert isinstance(result, Err)
                assert isinstance(result.error, Exception)
        assert settled == dict.fromkeys(range(len(acts)), 1)
        assert report.ok + sum(report.failed.values()) == len(acts)
        assert report.peak <= concurrency
        status = caller.status()
        assert sum(status["calls"].values()) == len(acts)
        assert status["in_flight"] == 0
