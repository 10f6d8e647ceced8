"""A thousand RPCs in flight when their channel closes: nothing is left behind, and the server stops within its grace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience.clock import SYSTEM_CLOCK
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import TASKS, THREADS, WRITERS, Hold, Script
from tests.integrations.grpc.server.served import GRACE_S, Scripted, Served, eventually, interceptor_of, serving

MANY = 1_000
_THREADS = 50


def served_by(kind: str, arity: str, script: Script, bench: Layers) -> Any:
    """A server that runs the script."""
    return serving(kind, Scripted(kind, arity, script), interceptor_of(kind, pipeline=bench.pipeline), threads=_THREADS)


def close_in_the_middle(served: Served, arity: str, script: Script, at_work: int) -> int:
    """Close the channel of so many calls. Returns when."""
    calls = [served.call(arity) for _ in range(MANY)]
    eventually(lambda: script.calls == at_work)
    served.channel.close()
    assert {call.code().name for call in calls} == {"CANCELLED"}
    return SYSTEM_CLOCK.now_us()


@pytest.mark.parametrize(("kind", "arity"), [(TASKS, "unary_unary"), (TASKS, "unary_stream"), (WRITERS, "unary_stream")])
def test_tasks_in_flight_when_the_channel_closes(kind: str, arity: str) -> None:
    bench = Layers(min_calls=10_000)
    script = Script(lambda context: asyncio.Event().wait(), before=1)
    with served_by(kind, arity, script, bench) as served:
        closed_us = close_in_the_middle(served, arity, script, at_work=MANY)
    assert SYSTEM_CLOCK.now_us() - closed_us < GRACE_S * 1e6
    assert bench.breaker.status()["admitted"] == MANY
    assert bench.breaker.status()["failure_rate"] == 0.0


@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
def test_threads_in_flight_when_the_channel_closes(arity: str) -> None:
    """Fifty are in their handlers; the others wait for a thread, and when they get one nobody wants them any more."""
    bench, hold = Layers(min_calls=10_000), Hold()
    script = Script(hold.in_thread, before=1)
    with served_by(THREADS, arity, script, bench) as served:
        closed_us = close_in_the_middle(served, arity, script, at_work=_THREADS)
        eventually(hold.is_known_to_be_unwanted)
        hold.let_go.set()
    assert SYSTEM_CLOCK.now_us() - closed_us < GRACE_S * 1e6
    assert bench.breaker.status()["admitted"] == script.calls
    assert bench.breaker.status()["failure_rate"] == 0.0
