"""Starts servers on loopback, and reads how much processor time they have had."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

READY_S: Final = 20.0
ENDS: Final = (b"\r\n\r\nok", b"\r\n0\r\n\r\n")
"""What a response of the applications here ends with: a body of known length, or the last chunk."""


@contextmanager
def started(command: list[str], listener: socket.socket | None = None) -> Iterator[subprocess.Popen[str]]:
    """A server by `command`, which inherits `listener`; ended with its children when the block is left."""
    fds = () if listener is None else (listener.fileno(),)
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        process.kill()
        process.wait()


@contextmanager
def http_server(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """uvicorn or gunicorn on a port of the system's choice; `command` has "{fd}" where the listening socket goes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        # What is accepted inherits it. Else a second small write waits 40 ms for the client's acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        with started([part.format(fd=listener.fileno()) for part in command], listener) as process:
            yield process, port


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process and its children have had, all threads."""
    total_ns, tasks = 0, list(Path(f"/proc/{pid}/task").iterdir())
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
            for child in (task / "children").read_text(encoding="ascii").split():
                total_ns += int(processor_s(int(child)) * 1e9)
    return total_ns / 1e9


class HttpClient:
    """One connection that is kept, and opened anew where the server has closed it.

    It is woken once for a whole answer. Else each write of the server would wake it or not, as chance has it, and the writer pays.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        head = ("GET /orders/7 HTTP/1.1", f"Host: 127.0.0.1:{port}", "User-Agent: bench", "Accept: */*")
        self._request = "\r\n".join((*head, "", "")).encode()
        self._socket: socket.socket | None = None
        self._awaited = 1

    def send(self) -> None:
        """Send a request, whose answer `receive` waits for."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=READY_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._request)

    def receive(self) -> None:
        """Wait for the answer.

        Raises:
            RuntimeError: it was anything but 200.
        """
        answer = b""
        while not answer.endswith(ENDS):
            part = b"" if self._socket is None else self._socket.recv(65_536)
            if not part:
                raise RuntimeError(f"the server closed the connection after {answer[:60]!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"answered {answer[:60]!r}")
        if b"connection: close" in answer.lower():
            self.close()
        elif self._socket is not None and len(answer) != self._awaited:
            self._awaited = len(answer)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._awaited)

    def wait(self) -> None:
        """Until the server answers.

        Raises:
            OSError, RuntimeError: it does not in time.
        """
        until_s = time.monotonic() + READY_S
        while True:
            try:
                self.send()
                self.receive()
            except (OSError, RuntimeError):
                self.close()
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._awaited = 1
