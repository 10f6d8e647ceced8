"""Clients of the application that real servers serve, and what they find out about its one breaker."""

from __future__ import annotations

import socket
import struct
from typing import Any

import httpx

from tests.integrations.wsgi.servers import WsgiServer


def status(server: WsgiServer) -> dict[str, Any]:
    """What the process says of itself."""
    document = server.get("/status").json()
    assert isinstance(document, dict)
    assert not document["has_current"], "the call before this one is still the current one of the thread"
    return document


def open_the_breaker(server: WsgiServer) -> None:
    """One failure does it."""
    try:
        assert server.get("/orders/fail").status_code == 500
    except httpx.RemoteProtocolError:
        assert "uwsgi" in server.printed().lower()  # which hangs up
    assert status(server)["orders"]["state"] != "closed"


def look_and_hang_up(server: WsgiServer, path: str = "/orders/stream") -> None:
    """Take the first line of the response, and go; once more while the breaker is open or others have all its probes."""
    for _ in range(2_000):
        with server.socket(f"GET {path} HTTP/1.1\nHost: localhost") as connection:
            line = connection.makefile("rb").readline()
        if b" 200 " in line:
            return
        assert b" 503 " in line, line
    raise AssertionError(f"nobody gets through any more: {status(server)}")


def break_off_upload(server: WsgiServer) -> None:
    """Send the head of a request, and break off in the middle of its body, which the application waits for."""
    for _ in range(2_000):
        with server.socket("POST /orders/held HTTP/1.1\nHost: localhost\nContent-Length: 2") as connection:
            line = connection.makefile("rb").readline()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed as by a crash
        if b" 200 " in line:
            return
        assert b" 503 " in line, line
    raise AssertionError(f"nobody gets through any more: {status(server)}")


def close_the_breaker(server: WsgiServer) -> None:
    """Five probes that succeed."""
    for _ in range(2_000):
        server.get("/orders/hello")
        if status(server)["orders"]["state"] == "closed":
            return
    raise AssertionError(f"it does not close: {status(server)}")
