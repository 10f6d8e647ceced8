"""What is read off the responses of httpx and requests, and off the errors that `raise_for_status` makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
import requests

import resilience.integrations.httpx
import resilience.integrations.requests  # noqa: F401  # both are imported for what they register
from resilience.edges import Fault, fault_of, relayed_in
from tests.integrations.outgoing.peer import peering, says

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
OPEN = json.dumps({"reason": "open", "trace_id": TRACE_ID, "detail": "inner-text"}).encode()
PROBLEM = {"content_type": "application/problem+json", "retry_after": "7"}


def get_requests(url: str, **options: Any) -> Any:
    session = requests.Session()
    session.trust_env = False
    with session:
        return session.get(url, timeout=10, **options)


def get_httpx(url: str) -> Any:
    with httpx.Client(trust_env=False) as client:
        return client.get(url)


def get_httpx2(url: str) -> Any:
    with httpx2.Client(trust_env=False) as client:
        return client.get(url)


def error_of(response: Any) -> Exception:
    """What it raises."""
    try:
        response.raise_for_status()
    except Exception as error:
        return error
    raise AssertionError("it raises nothing")


@pytest.mark.parametrize("get", [get_httpx, get_httpx2, get_requests])
def test_a_problem_is_read_off_the_response_and_off_its_error(get: Callable[[str], Any]) -> None:
    with peering() as peer:
        peer.will(says(503, OPEN, **PROBLEM))
        response = get(peer.url)
    told = Fault(503, 14, "open", 7.0, TRACE_ID)
    assert fault_of(response) == fault_of(error_of(response)) == told
    assert relayed_in(error_of(response)) is not None


@pytest.mark.parametrize("get", [get_httpx, get_httpx2, get_requests])
def test_a_response_without_an_error_says_nothing(get: Callable[[str], Any]) -> None:
    with peering() as peer:
        assert fault_of(get(peer.url)) is None


@pytest.mark.parametrize("get", [get_httpx, get_httpx2, get_requests])
def test_other_errors_say_nothing(get: Callable[[str], Any]) -> None:
    with pytest.raises(Exception, match="onnect") as raised:
        get("http://127.0.0.1:1")
    assert fault_of(raised.value) is None
    assert fault_of(requests.HTTPError("without a response")) is None


def test_a_body_that_was_not_read_is_not_read_for_this() -> None:
    with peering() as peer:
        peer.will(says(503, OPEN, **PROBLEM), says(503, OPEN, **PROBLEM))
        session = requests.Session()
        session.trust_env = False
        with session, session.get(peer.url, stream=True, timeout=10) as response:
            assert fault_of(error_of(response)) == Fault(503, 14, "", 7.0)
            assert response.raw.read() == OPEN
        with httpx.Client(trust_env=False) as client, client.stream("GET", peer.url) as streamed:
            assert fault_of(error_of(streamed)) == Fault(503, 14, "", 7.0)
            assert streamed.read() == OPEN
