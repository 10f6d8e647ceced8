"""A peer over real sockets that answers as told, and remembers what it was asked. For clients of any library."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT_S = 20.0
"""How long a test waits for what must come; nothing here waits that long unless it is broken."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of one header."""
        return [value for key, value in self.headers if key == name]


class Peer:
    """Where it is, what it will answer (200 "done" when nothing is left), and what it has seen."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"
        self.answers: deque[Answer] = deque()
        self.seen: list[Seen] = []
        self.connections = 0
        self.asked = threading.Event()
        """Set with the first request."""
        self.hung_up = threading.Event()
        """Set when a client has closed a connection on which it still waited for something."""
        self.over = threading.Event()
        """Set when the test is over: whoever hangs lets go."""

    def will(self, *answers: Answer) -> Peer:
        """Answer the next requests so."""
        self.answers.extend(answers)
        return self

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the requests."""
        return [seen.body for seen in self.seen]

    def values(self, name: str) -> list[str | None]:
        """One header of each request; None where a request has none. It must not be there twice."""
        found = [seen.values(name) for seen in self.seen]
        assert all(len(values) <= 1 for values in found), f"{name} was sent twice"
        return [values[0] if values else None for values in found]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    peer: Peer

    def handle_any(self) -> None:
        """Note the request and answer it."""
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        self.peer.seen.append(Seen(self.command, self.path, headers, self._body()))
        self.peer.asked.set()
        answer = self.peer.answers.popleft() if self.peer.answers else ANSWER
        answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_PURGE = handle_any  # noqa: N815  # the names are the library's

    def setup(self) -> None:
        super().setup()
        self.peer.connections += 1

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of a response."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def wait_for_end(self) -> None:
        """Wait until the client closes the connection, or the test is over."""
        self.connection.settimeout(0.05)
        while not self.peer.over.is_set():
            try:
                gone = self.connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                gone = True
            if gone:
                self.peer.hung_up.set()
                break
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the library's
        """Nobody reads it."""


Answer = Callable[[Handler], None]


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """A whole response; `retry_after="3"` sends the header retry-after."""

    def answer(handler: Handler) -> None:
        fields = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        handler.head(status, fields)
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


ANSWER = says(200, b"done")


def hangs_up(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def says_nothing(handler: Handler) -> None:
    """Take the request, and never answer."""
    handler.wait_for_end()


def breaks_off(handler: Handler) -> None:
    """Promise ten bytes and send four."""
    handler.head(200, {"content-length": "10"})
    handler.wfile.write(b"part")
    handler.wfile.flush()
    handler.close_connection = True


def stalls(status: int = 200, length: int = 10, part: bytes = b"part", **headers: str) -> Answer:
    """Begin a body, and never go on."""

    def answer(handler: Handler) -> None:
        handler.head(status, {"content-length": str(length), **{name.replace("_", "-"): value for name, value in headers.items()}})
        handler.wfile.write(part)
        handler.wfile.flush()
        handler.wait_for_end()

    return answer


class _Server(ThreadingHTTPServer):
    """Ends with its connections."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, peer_of: Callable[[int], Peer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=True)
        self.peer = peer_of(self.server_port)
        self.RequestHandlerClass = type("Handler", (Handler,), {"peer": self.peer})
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what many tests are about."""


@contextmanager
def peering() -> Iterator[Peer]:
    """A peer that listens until the block is left."""
    server = _Server(Peer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="peer")
    thread.start()
    try:
        yield server.peer
    finally:
        server.peer.over.set()
        server.shutdown()
        thread.join(TIMEOUT_S)
        for connection in list(server.open):
            with_reset(connection)
        server.server_close()


def with_reset(connection: socket.socket) -> None:
    """Wake whoever reads from a connection that its client keeps open."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def closed_port() -> Iterator[str]:
    """The address of a port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
