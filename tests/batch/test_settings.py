"""Settings are checked where they are given."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Pipeline
from resilience.batch import Backend, Balanced, BatchCaller, BatchSettings, FunctionBackend


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"concurrency": 0}, "concurrency: must be between 1 and 10000, got 0"),
        ({"concurrency": True}, "concurrency: must be a whole number, got True"),
        ({"timeout_s": 0.0}, "timeout_s: must be above 0 s and at most 86400 s, got 0 s"),
        ({"timeout_s": float("nan")}, "timeout_s: must be finite, got nan"),
        ({"call_timeout_s": -1.0}, "call_timeout_s: must be"),
        ({"stop_over": 1.5}, "stop_over: must be between 0 % and 100 %, got 150 %"),
        ({"stop_min_calls": 0}, "stop_min_calls: must be at least 1, got 0"),
        ({"hedge_after_s": 0.0}, "hedge_after_s: must be"),
        ({"hedge_after_s": 0.2, "call_timeout_s": 0.1}, "hedge_after_s: must be below call_timeout_s"),
        ({"hedge_budget": (0, 0.1)}, "hedge_tokens: must be"),
        ({"hedge_budget": (10, 0.0)}, "hedge_ratio: must be"),
        ({"grace_s": -0.1}, "grace_s: must be"),
        ({"threads": 0}, "threads: must be"),
        ({"abandoned_max": -1}, "abandoned_max: must be"),
    ],
)
def test_what_is_out_of_range_is_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")) as caught:
        BatchCaller("prices", **setting)
    assert str(caught.value).startswith("BatchSettings.")


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        BatchSettings().concurrency = 3  # type: ignore[misc]


def test_what_is_no_back_end_is_refused() -> None:
    caller = BatchCaller("prices")
    with pytest.raises(TypeError, match="a back end must be a function or an adapter, got 7"):
        caller.call(7, [1])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="prices: give a back end and an iterable of requests"):
        caller.call(print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="pipeline must be a Pipeline"):
        FunctionBackend(print, pipeline="stock")  # type: ignore[arg-type]


def test_what_is_for_tasks_is_refused_in_threads() -> None:
    async def fetch(sku: str) -> str:
        return sku

    caller = BatchCaller("prices")
    with pytest.raises(TypeError, match="prices: fetch is for tasks: await `acall` or `astream`"):
        caller.call(fetch, ["a"])
    with pytest.raises(TypeError, match="is for tasks"):
        caller.stream(fetch, ["a"])


def test_a_balance_is_of_endpoints_of_one_sort() -> None:
    async def fetch(sku: str) -> str:
        return sku

    with pytest.raises(ValueError, match="needs at least one endpoint"):
        Balanced()
    with pytest.raises(ValueError, match="rule must be one of round_robin, least_in_flight, latency, got 'random'"):
        Balanced(FunctionBackend(print), rule="random")
    with pytest.raises(ValueError, match="half_life_s must be above 0"):
        Balanced(FunctionBackend(print), half_life_s=0.0)
    mixed: list[Any] = [FunctionBackend(print), FunctionBackend(fetch)]
    with pytest.raises(TypeError, match="some endpoints are for tasks and others block"):
        Balanced(*mixed)


def test_the_clock_is_that_of_the_pipeline() -> None:
    from resilience import Deadline
    from resilience.testing import ManualClock

    clock = ManualClock()
    assert BatchCaller("prices", pipeline=Pipeline("stock", Deadline(1.0, clock=clock))).clock is clock


def test_they_say_what_they_are() -> None:
    assert repr(BatchCaller("prices")) == "BatchCaller('prices', concurrency=32)"
    backend: Backend[Any, Any] = FunctionBackend(print, "stock")
    assert repr(backend) == "FunctionBackend('stock')"
