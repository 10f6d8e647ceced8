"""What an exchange of a server writes of its call by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import Call, Deadline, Outcome, Pipeline
from resilience.call import CURRENT, SoleCall
from resilience.integrations.asgi import ResilienceMiddleware as AsgiMiddleware
from resilience.integrations.wsgi import ResilienceMiddleware as WsgiMiddleware
from resilience.testing import ManualClock

NAMES = [name for name in Call.__slots__ if name != "decision"]


def told(call: Call) -> dict[str, Any]:
    return {name: getattr(call, name) for name in NAMES}


def told_in_asgi(pipeline: Pipeline) -> dict[str, Any]:
    """What the application finds in the current call."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(told(CURRENT.get() or Call()))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def nothing(message: Any = None) -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(AsgiMiddleware(app, pipeline=pipeline)(scope, nothing, nothing))
    return found


def told_in_wsgi(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.update(told(CURRENT.get() or Call()))
        start_response("204 No Content", [])
        return []

    WsgiMiddleware(app, pipeline=pipeline)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *head: None)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("told_in", [told_in_asgi, told_in_wsgi])
def test_a_request_begins_as_every_call_does(told_in: Any) -> None:
    """Exchanges write the attributes of `Call` themselves, since they are made for every request: none must be missing."""
    pipeline, call = Pipeline("p", Deadline(1.0, clock=ManualClock())), SoleCall("the request")
    assert pipeline.enter(call)
    assert told_in(pipeline) == told(call)
    call.settle(Outcome.OK)
    assert len(NAMES) > 15
