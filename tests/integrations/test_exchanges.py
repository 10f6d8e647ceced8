"""What an exchange of a server writes of its call by itself."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Call, Deadline, Pipeline
from resilience.edges import Guarded
from resilience.integrations.asgi.exchange import HttpExchange as AsgiExchange
from resilience.integrations.wsgi.exchange import HttpExchange as WsgiExchange


async def receive() -> Any:
    """Never called."""


async def send(message: Any) -> None:
    """Never called."""


def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    """Never called."""


@pytest.mark.parametrize(
    "make", [lambda guarded: AsgiExchange(guarded, {}, receive, send), lambda guarded: WsgiExchange(guarded, {}, start_response)]
)
def test_a_request_begins_as_every_call_does(make: Any) -> None:
    """Exchanges write the attributes of `Call` themselves, since they are made for every request: none must be missing."""
    exchange, call = make(Guarded(Pipeline("p", Deadline(1.0)))), Call("the request")
    expected = {name: getattr(call, name) for name in Call.__slots__ if hasattr(call, name)}
    assert {name: getattr(exchange, name) for name in expected} == expected
    assert len(expected) > 15
