"""A real uvicorn in a thread, and clients that reach it over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

TIMEOUT_S = 20.0
"""How long a test waits for what must come; nothing here waits that long unless it is broken."""


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


class Running:
    """A server that runs: where it is, and how to talk to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def client(self) -> httpx.Client:
        """An HTTP client of this server. It keeps no connection, so that each request is one by itself."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=TIMEOUT_S, limits=limits)

    def get(self, path: str = "/", **headers: str) -> httpx.Response:
        """One GET request; `x_name="1"` sends the header x-name."""
        with self.client() as client:
            return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @contextmanager
    def socket(self, request: str = "") -> Iterator[socket.socket]:
        """A raw connection, with `request` (lines parted by newlines) sent on it."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            if request:
                connection.sendall(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            yield connection


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[Running]:
    """Serve `app` on a free port of the loopback interface until the block is left."""
    settings: dict[str, Any] = {"lifespan": "on", "timeout_graceful_shutdown": 5, **options}
    config = uvicorn.Config(app, log_config=None, access_log=False, loop="asyncio", ws="wsproto", **settings)
    server = _Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
        thread.start()
        try:
            assert server.listens.wait(TIMEOUT_S), "uvicorn does not listen"
            yield Running(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "uvicorn does not stop"


def received(connection: socket.socket) -> bytes:
    """All that a server sends until it closes the connection."""
    chunks = []
    while chunk := connection.recv(65_536):
        chunks.append(chunk)
    return b"".join(chunks)
