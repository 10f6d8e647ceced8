"""Several worker processes, forked before or after the application was made: what each draws is its own, and none harms another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integrations.asgi.server import received
from tests.integrations.wsgi.servers import WsgiServer, serving
from tests.watch.waiting import wait_until

WORKERS = 4
FORMS = {
    "gunicorn": ["gunicorn sync", "--workers", str(WORKERS)],
    "gunicorn --preload": ["gunicorn sync", "--workers", str(WORKERS), "--preload"],
    "uwsgi --lazy-apps": ["uwsgi", "--processes", str(WORKERS)],
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WsgiServer]]:
    with serving(FORMS, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(params=FORMS)
def server(request: pytest.FixtureRequest, servers: dict[str, WsgiServer]) -> WsgiServer:
    return servers[request.param]


@contextlib.contextmanager
def each_at_work(server: WsgiServer, path: str) -> Iterator[list[socket.socket]]:
    """One request in each worker: all of them wait for the body of their request, so no worker has two."""
    request = f"POST {path} HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: 1"
    with contextlib.ExitStack() as connections:
        yield [connections.enter_context(server.socket(request)) for _ in range(WORKERS)]


def worker_of(connection: socket.socket) -> int:
    """The process that has begun to answer on this connection: it has told its id."""
    seen = b""
    while (told := re.search(rb"worker ([0-9]+)\.", seen)) is None:
        part = connection.recv(4_096)
        assert part, seen
        seen += part
    return int(told[1])


def answer(connection: socket.socket) -> bytes:
    """Send the body of the request and take the whole response."""
    connection.sendall(b"!")
    return received(connection)


def document(response: bytes) -> dict[str, Any]:
    """The JSON in a response, however it was sent."""
    text = response.decode()
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


def test_what_each_worker_draws_is_its_own(server: WsgiServer) -> None:
    with each_at_work(server, "/draws") as connections:
        pids = {worker_of(connection) for connection in connections}
        found = [document(answer(connection)) for connection in connections]
    assert {worker["pid"] for worker in found} == pids
    assert len(pids) == WORKERS
    for kind in ("breaker", "retry", "client"):
        drawn = [repr(worker["drawn"][kind]) for worker in found]
        assert len(set(drawn)) == WORKERS, f"workers drew the same for {kind}: {drawn}"


def test_a_worker_that_is_killed_at_work_leaves_the_others_whole(server: WsgiServer) -> None:
    with each_at_work(server, "/orders/held") as connections:
        pids = [worker_of(connection) for connection in connections]
        assert len(set(pids)) == WORKERS
        os.kill(pids[0], signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert b"!" not in received(connections[0])
        assert all(b"!" in answer(connection) for connection in connections[1:])
    _the_others_are_whole(server, set(pids[1:]))


def _the_others_are_whole(server: WsgiServer, pids: set[int]) -> None:
    """Each has given its permit back, and answers; so does the one that was started in the place of the killed one."""
    seen: dict[int, dict[str, Any]] = {}

    def all_answer() -> bool:
        assert server.get("/orders/hello").text == "hello"
        told = server.get("/status").json()
        seen[told["pid"]] = told["orders"]
        return pids < seen.keys()

    wait_until(all_answer, "another worker answers beside those that are left")
    assert all((told["state"], told["rejected"]) == ("closed", 0) for told in seen.values())
