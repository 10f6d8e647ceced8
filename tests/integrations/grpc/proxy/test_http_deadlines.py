"""What is left of the deadline of an HTTP request, on its way through Envoy, which has a header of its own for that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from resilience import Deadline, Pipeline, current_deadline
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.asgi.types import Receive, Scope, Send
from resilience.integrations.httpx import ResilienceTransport
from tests.integrations.asgi.server import TIMEOUT_S, serving
from tests.integrations.grpc.proxy.envoy import Way, proxying

ENVOY_S = 15.0
"""The timeout of a route that says nothing of it."""


async def left(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with how long it has, in seconds; "inf" for as long as it likes."""
    deadline = current_deadline()
    body = str("inf" if deadline is None else deadline.remaining_s()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[str, int]]:
    """A guarded service behind an Envoy: by a route as it is by default, and by one without a timeout."""
    with serving(ResilienceMiddleware(left, pipeline=Pipeline("in", Deadline())), lifespan="off") as server:
        ways = {"default": Way(server.port, http2=False), "none": Way(server.port, http2=False, route={"timeout": "0s"})}
        with proxying(tmp_path, ways) as ports:
            yield ports


def told_s(port: int, deadline: Deadline) -> float:
    """How long the service has for a request whose client has 2 s."""
    inner = httpx.HTTPTransport(verify=False)
    with httpx.Client(transport=ResilienceTransport(inner, pipeline=Pipeline("out", deadline)), timeout=TIMEOUT_S) as client:
        return float(client.get(f"http://127.0.0.1:{port}/").text)


def test_it_passes_as_grpc_timeout_whatever_envoy_does_with_its_own_header(ports: dict[str, int]) -> None:
    for port in ports.values():
        assert 0 < told_s(port, Deadline(2.0, write="grpc-timeout")) <= 2.0


def test_envoy_s_own_header_says_what_envoy_gives(ports: dict[str, int]) -> None:
    """So that of the client is lost: what the documentation warns of. Where this fails, Envoy has changed for the better."""
    assert 2.0 < told_s(ports["default"], Deadline(2.0)) <= ENVOY_S
    assert told_s(ports["none"], Deadline(2.0)) == float("inf")
