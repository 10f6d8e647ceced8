"""Only one layer of a chain of services retries: a request that is itself a retry is not tried again further in."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Pipeline, Retry
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.conversation import Conversation, run


@pytest.mark.parametrize(("header", "tries"), [([], 3), ([("x-retry-attempt", "0")], 3), ([("x-retry-attempt", "1")], 1)])
def test_a_request_that_is_a_retry_is_not_retried_further_in(header: list[tuple[str, str]], tries: int) -> None:
    clock = ManualClock()
    payments = Pipeline("payments", Retry(3, budget=(100, 0.1), clock=clock))
    made = 0

    async def charge() -> None:
        nonlocal made
        made += 1
        raise ConnectionError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ConnectionError):
            await payments.acall(charge)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answered = run(Conversation(ResilienceMiddleware(app, pipeline=Pipeline("api")), headers=header).run())
    assert (answered.status, made) == (502, tries)
