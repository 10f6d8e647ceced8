"""What served an RPC is gone with it, and need not wait for the collector."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

from resilience.integrations.grpc.serving import Exchange
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import TASKS, THREADS, WRITERS, Script
from tests.integrations.grpc.server.served import Scripted, eventually, interceptor_of, serving

# Not here: plain functions of an asyncio server that stream, whose iterator grpcio keeps in a cycle of its own; and a stream of
# requests to a task that was refused, which grpcio's error refers back to.
CELLS = [
    *((THREADS, arity) for arity in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")),
    (TASKS, "unary_unary"),
    (TASKS, "unary_stream"),
    (WRITERS, "unary_stream"),
]


def nothing(bench: Layers) -> None:
    """It is admitted."""


def empty_bucket(bench: Layers) -> None:
    """It is refused."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())


def failing(context: Any) -> None:
    raise ValueError("boom")


def served_rpcs() -> int:
    """How many of them are in memory. Proxies for what is not there yet, such as Django's settings, raise for `isinstance`."""
    return sum(issubclass(type(found), Exchange) for found in gc.get_objects())


@pytest.mark.parametrize(("kind", "arity"), CELLS)
@pytest.mark.parametrize(
    ("script", "before", "code"),
    [
        pytest.param(Script, nothing, "OK", id="ok"),
        pytest.param(lambda: Script(failing), nothing, "UNKNOWN", id="raises"),
        pytest.param(Script, empty_bucket, "RESOURCE_EXHAUSTED", id="refused"),
    ],
)
def test_nothing_is_left_for_the_collector(
    kind: str, arity: str, script: Callable[[], Script], before: Callable[[Layers], None], code: str
) -> None:
    bench = Layers(min_calls=100)
    before(bench)
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps what is logged, with the exceptions
    try:
        with serving(kind, Scripted(kind, arity, script()), interceptor_of(kind, pipeline=bench.pipeline)) as served:
            assert [served.seen(arity).code for _ in range(5)] == [code] * 5
        eventually(lambda: served_rpcs() == 0)
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
