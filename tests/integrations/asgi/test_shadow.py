"""A client cannot tell a policy in the shadow from none at all."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import CircuitBreaker, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import answering
from tests.integrations.asgi.conversation import Conversation, run


def shadows(clock: ManualClock) -> list[Any]:
    """A limiter of each sort that is used up after one request, and a breaker that is open."""
    breaker = CircuitBreaker(shadow=True, name="breaker", clock=clock)
    breaker.force("open")
    limiter: dict[str, Any] = {"burst": 1, "shadow": True, "clock": clock}
    return [
        RateLimiter(0.001, name="plain", **limiter),
        RateLimiter(0.001, name="keyed", key="client_address", **limiter),
        RateLimiter(0.001, name="patient", max_wait_s=3600.0, **limiter),
        RateLimiter(0.001, name="telling", fields="always", **limiter),
        breaker,
    ]


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1000})


def test_requests_are_served_at_once_and_bear_no_mark() -> None:
    clock = ManualClock()
    layers = shadows(clock)
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", *layers))
    talks = [run(Conversation(app).run()) for _ in range(4)]
    bare = run(Conversation(answering()).run())
    assert [(talk.status, talk.headers, talk.body) for talk in talks] == [(bare.status, bare.headers, bare.body)] * 4
    assert clock.slept_s == []
    counts = {layer.name: (layer.decisions()["rejected"], layer.decisions()["would_reject"]) for layer in layers}
    assert layers[2].decisions()["queued"] == 3
    assert counts == {"plain": (0, 3), "keyed": (0, 3), "patient": (0, 0), "telling": (0, 3), "breaker": (0, 4)}


def test_a_limit_in_force_is_told_of() -> None:
    """So that the test above can fail."""
    limiter = RateLimiter(0.001, burst=1, name="telling", fields="always", clock=ManualClock())
    talk = run(Conversation(ResilienceMiddleware(answering(), pipeline=Pipeline("api", limiter))).run())
    assert talk.header("ratelimit") is not None


@pytest.mark.parametrize("extensions", [[], ["websocket.http.response"]])
def test_websockets_are_accepted(extensions: list[str]) -> None:
    clock = ManualClock()
    app = ResilienceMiddleware(accepting, pipeline=Pipeline("api", *shadows(clock)))
    for _ in range(3):
        talk = run(Conversation(app, kind="websocket", extensions=extensions).run())
        assert [message["type"] for message in talk.sent] == ["websocket.accept", "websocket.close"]
        assert talk.sent[-1]["code"] == 1000
    assert clock.slept_s == []
