"""Services as processes of their own, on free loopback ports, stopped whatever happens."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout, from where `examples` can be imported."""
_START_WITHIN_S: Final = 30.0
_STOP_WITHIN_S: Final = 5.0
_LINES_SHOWN: Final = 20
_MODULES: Final = {"uvicorn": "examples.demo_kit.serve", "gunicorn": "examples.demo_kit.serve_wsgi"}


class StartError(Exception):
    """A service did not start; the message holds the end of what it printed."""


class Service:
    """An app under a server in a process of its own. A context manager: the process lives inside the `with`.

    The port is bound here, at once, and handed over: nobody can take it in between, and requests that come before the
    service is ready wait in the socket's queue.

    Args:
        name: for messages. Where another service depends on it, the breaker there is called so too.
        factory: of the app, as module:function.
        folder: where what it prints is kept, in NAME.log.
        environment: variables added to this process's own.
        server: "uvicorn" for an ASGI app, "gunicorn" for a WSGI app.
    """

    _SCHEME = "http://"

    def __init__(
        self, name: str, factory: str, folder: Path, environment: Mapping[str, str] | None = None, *, server: str = "uvicorn"
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._environment = dict(environment or {})
        self._socket = self._bound()
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"{self._SCHEME}{self.address}"
        self._command = ["-m", *self._arguments(factory, server)]
        self._process: subprocess.Popen[bytes] | None = None

    def _bound(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0), backlog=1024)

    def _arguments(self, factory: str, server: str) -> list[str]:
        """The module that Python is to run, and what that is given."""
        return [_MODULES[server], factory, str(self._socket.fileno())]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=ROOT,
                env=os.environ | self._environment,
                stdin=subprocess.PIPE,  # held open: its end is how the service learns that this process is gone
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is for the demo, which then stops its services
            )
        self._handed_over()
        return self

    def _handed_over(self) -> None:
        """The process has the socket."""
        self._socket.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's id, 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the process: ask, wait, and kill it if it does not listen."""
        self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdin is not None:
                process.stdin.close()

    async def wait_ready(self) -> None:
        """Wait until it says that it is up.

        Raises:
            StartError: the process has ended, or did not answer in time.
        """
        give_up_s = time.monotonic() + _START_WITHIN_S
        while time.monotonic() < give_up_s:
            if self._process is None or self._process.poll() is not None:
                raise StartError(f"the {self.name} service ended at once:\n{self.printed()}")
            if await self._is_up():
                return
            await asyncio.sleep(0.05)
        raise StartError(f"the {self.name} service was not ready within {_START_WITHIN_S:g} s:\n{self.printed()}")

    async def _is_up(self) -> bool:
        """Whether `GET /healthz` is answered 200."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=1.0) as client:
            try:
                return (await client.get("/healthz")).status_code == 200
            except httpx.TransportError:
                return False

    async def set_fault(self, mode: str) -> None:
        """Break it, or mend it, with `PUT /faults`: "none", "fail", "slow" or "hang"."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            (await client.put("/faults", json={"mode": mode})).raise_for_status()

    def printed(self) -> str:
        """The end of what the service printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(f"    {line}" for line in lines[-_LINES_SHOWN:]) or "    (it printed nothing)"
