"""The middleware under real servers: bodies, `write`, files, refusals and errors reach the client whole."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integrations.asgi.server import received
from tests.integrations.wsgi.served_config import FILE
from tests.integrations.wsgi.servers import NAMES, WsgiServer, serving
from tests.integrations.wsgi.visitors import break_off_upload, close_the_breaker, look_and_hang_up, open_the_breaker, status


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WsgiServer]]:
    with serving({name: [name] for name in NAMES}, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, servers: dict[str, WsgiServer]) -> WsgiServer:
    return servers[request.param]


def once(response: httpx.Response, *names: str) -> list[str]:
    """The values of headers that must not be there twice."""
    values = [response.headers.get_list(name) for name in names]
    assert all(len(found) == 1 for found in values), response.headers.multi_items()
    return [found[0] for found in values]


@pytest.mark.parametrize(
    ("path", "body"), [("/hello", "hello"), ("/write", "abc"), ("/current", "apiapiapi"), ("/orders%2Fhello", "hello")]
)
def test_a_response_is_whole(server: WsgiServer, path: str, body: str) -> None:
    response = server.get(path)
    assert (response.status_code, response.text) == (200, body)
    assert once(response, "content-type") == ["text/plain"]
    status(server)


def test_a_response_without_a_body(server: WsgiServer) -> None:
    response = server.get("/nothing")
    assert (response.status_code, response.content) == (204, b"")
    with server.client() as client:
        head = client.head("/orders/hello")
    assert (head.status_code, head.content) == (200, b"")


def test_a_file_is_sent_and_by_the_system_where_the_server_can(server: WsgiServer) -> None:
    before = status(server)["sendfiles"]
    response = server.get("/file")
    assert response.content == FILE.read_bytes()
    is_gunicorn = "gunicorn" in response.headers.get("server", "")
    assert status(server)["sendfiles"] - before == is_gunicorn


def test_over_the_limit_it_is_refused(server: WsgiServer) -> None:
    """The path has a letter of two bytes, and its route is found."""
    responses = [server.get("/b%C3%BCcher") for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert [once(response, "ratelimit")[0][: len('"few";r=1')] for response in responses] == ['"few";r=1', '"few";r=0', '"few";r=0']
    refusal = responses[-1]
    assert once(refusal, "content-type", "content-length") == ["application/problem+json", str(len(refusal.content))]
    assert refusal.json()["type"].endswith("#quota-exceeded")
    assert 1_800 <= int(once(refusal, "retry-after")[0]) <= 2_160
    with server.client() as client:
        head = client.head("/b%C3%BCcher")
    assert (head.status_code, head.content) == (429, b"")


def test_a_refusal_takes_the_place_of_a_response_that_was_begun(server: WsgiServer) -> None:
    response = server.get("/refused-in-its-body")
    assert (response.status_code, response.json()["reason"]) == (503, "open")
    assert once(response, "content-type", "content-length") == ["application/problem+json", str(len(response.content))]


def test_an_error_page_takes_the_place_of_a_response_that_was_begun(server: WsgiServer) -> None:
    response = server.get("/replaced")
    assert (response.status_code, response.text) == (500, "error")
    assert once(response, "content-type") == ["text/plain"]
    assert response.headers.get("content-length") in (None, "5")


def test_the_deadline_that_a_client_brings(server: WsgiServer) -> None:
    assert server.get("/deadline", grpc_timeout="0m").status_code == 504
    with server.client() as client:
        left = client.get("/deadline", headers=[("connect-timeout-ms", "50000"), ("connect-timeout-ms", "40000")])
        odd = client.get("/deadline", headers=[("grpc-timeout", "soon"), ("connect-timeout-ms", "-1")])
    assert 20.0 < float(left.text) <= 40.0
    assert 20.0 < float(odd.text) <= 60.0


def test_an_error_is_the_server_s_to_answer_and_counts(server: WsgiServer) -> None:
    open_the_breaker(server)
    close_the_breaker(server)


def test_a_client_that_hangs_up_on_a_stream_frees_the_half_open_probe(server: WsgiServer) -> None:
    open_the_breaker(server)
    for _ in range(7):  # more than there are probes
        look_and_hang_up(server, "/orders/stream")
    close_the_breaker(server)


# waitress takes the whole body before it calls the application.
@pytest.mark.parametrize("server", [name for name in NAMES if name != "waitress"], indirect=True)
def test_a_client_that_breaks_off_its_upload_does_not_count(server: WsgiServer) -> None:
    open_the_breaker(server)
    before = status(server)["orders"]["generation"]
    for _ in range(7):  # more than there are probes
        break_off_upload(server)
    close_the_breaker(server)
    assert status(server)["orders"]["generation"] == before + 2  # half-open and closed: never open again


def test_http_1_0_gets_its_response_too(server: WsgiServer) -> None:
    with server.socket("GET /orders/hello HTTP/1.0\nHost: localhost") as connection:
        assert received(connection).endswith(b"hello")
