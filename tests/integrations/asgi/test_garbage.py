"""A request's objects are gone with it: none waits for the collector, whose pauses grow with what it has to look at."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest

from resilience import CircuitOpen
from resilience.integrations.asgi.exchange import HttpExchange
from tests.integrations.asgi.apps import Bench, answering
from tests.integrations.asgi.conversation import Conversation, run


def empty_bucket(bench: Bench) -> None:
    """The limiter has nothing left."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())


async def _has_a_bug(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("a bug")


async def _is_refused(scope: Any, receive: Any, send: Any) -> None:
    raise CircuitOpen("payments: open", policy="payments")


@pytest.mark.parametrize(
    ("app", "before", "headers"),
    [
        pytest.param(answering(), lambda bench: None, [], id="admitted"),
        pytest.param(answering(500), lambda bench: None, [], id="failed"),
        pytest.param(answering(), empty_bucket, [], id="over the limit"),
        pytest.param(answering(), lambda bench: bench.breaker.force("open"), [], id="breaker open"),
        pytest.param(answering(), lambda bench: None, [("grpc-timeout", "0S")], id="expired"),
        pytest.param(_has_a_bug, lambda bench: None, [], id="raised"),
        pytest.param(_is_refused, lambda bench: None, [], id="refused further on"),
    ],
)
def test_no_request_leaves_anything_for_the_collector(app: Any, before: Any, headers: list[tuple[str, str]]) -> None:
    bench = Bench(min_calls=100)
    before(bench)
    guarded = bench.guard(app)

    async def scenario() -> None:
        for _ in range(10):
            with contextlib.suppress(ValueError):
                await guarded(*_parts(headers))

    gc.collect()
    earlier = {id(found) for found in gc.get_objects() if type(found) is HttpExchange}
    gc.disable()
    try:
        run(scenario())
        left = [found for found in gc.get_objects() if type(found) is HttpExchange and id(found) not in earlier]
    finally:
        gc.enable()
    assert left == []


def _parts(headers: list[tuple[str, str]]) -> tuple[Any, Any, Any]:
    """A request's scope, `receive` and `send`."""
    talk = Conversation(None, headers=headers)
    return talk.scope, talk.receive, talk.send
