"""Whose request it is under a real uvicorn, which may rewrite the peer by itself: what the README warns of and what it advises."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from resilience import Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import answering, with_lifespan
from tests.integrations.asgi.server import serving

BURST = 5
REQUESTS = 40
CLIENT = "203.0.113.7"


def statuses(rotated: str, *, trusted: tuple[str, ...], **uvicorn: Any) -> Counter[int]:
    """How requests are answered whose X-Forwarded-For is `rotated`, with another address in the place of LIE each time."""
    limiter = RateLimiter(1e-6, BURST, key="client_address", trusted_proxies=trusted)
    app = ResilienceMiddleware(with_lifespan(answering()), pipeline=Pipeline("api", limiter))
    with serving(app, **uvicorn) as server, server.client() as client:
        lies = (f"198.51.100.{number}" for number in range(REQUESTS))
        headers = ({"x-forwarded-for": rotated.replace("LIE", lie)} for lie in lies)
        return Counter(client.get("/", headers=header).status_code for header in headers)


@pytest.mark.parametrize(
    ("rotated", "trusted"),
    [
        pytest.param("LIE", (), id="nobody is trusted"),
        pytest.param(f"LIE, {CLIENT}", ("127.0.0.1",), id="the proxy has added the client"),
        pytest.param(f"LIE, {CLIENT}, 10.0.0.2", ("127.0.0.1", "10.0.0.0/8"), id="two proxies"),
        pytest.param(f"LIE, LIE, {CLIENT}:4711", ("127.0.0.0/8",), id="two lies, and a port"),
        pytest.param("LIE, garbage, 127.0.0.1", ("127.0.0.1",), id="a hop that is none"),
        pytest.param(", ".join(["LIE"] * 99 + [CLIENT]), ("127.0.0.1",), id="a hundred hops"),
    ],
)
def test_rotating_the_leftmost_address_never_yields_a_new_bucket(rotated: str, trusted: tuple[str, ...]) -> None:
    assert statuses(rotated, trusted=trusted, proxy_headers=False) == {200: BURST, 429: REQUESTS - BURST}


def test_a_client_behind_the_proxy_has_a_bucket_of_its_own() -> None:
    assert statuses("203.0.113.1, LIE", trusted=("127.0.0.1",), proxy_headers=False) == {200: REQUESTS}


def test_by_its_default_uvicorn_believes_whoever_connects_from_this_machine() -> None:
    """What the README warns of. Where it does not hold any more, the warning can go."""
    assert statuses("LIE", trusted=()) == {200: REQUESTS}


def test_trusting_its_rewriting_is_the_other_way() -> None:
    assert statuses(f"LIE, {CLIENT}", trusted=()) == {200: BURST, 429: REQUESTS - BURST}
