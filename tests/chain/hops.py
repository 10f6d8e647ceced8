"""Services that call one another over loopback, each in a process of its own with a configuration of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.integrations.asgi.server import TIMEOUT_S, Running

ROOT: Final = Path(__file__).resolve().parents[2]
DEADLINE: Final = "x-envoy-expected-rq-timeout-ms"

_COMMANDS: Final = {
    # One worker each: one budget, one window, one bucket a service.
    "asgi": (
        *("-m", "uvicorn", "--factory", "tests.chain.served_asgi:create_app", "--fd", "{fd}"),
        *("--no-proxy-headers", "--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "2"),
    ),
    "wsgi": (
        *("-m", "gunicorn", "tests.chain.served_wsgi:create_app()", "--bind", "fd://{fd}", "--worker-class", "gthread"),
        *("--threads", "8", "--keep-alive", "5", "--graceful-timeout", "2", "--log-level", "warning", "--no-control-socket"),
    ),
}


@dataclass(frozen=True, slots=True)
class Service:
    """What a service is made of.

    Args:
        kind: asgi (uvicorn, Starlette, httpx) or wsgi (gunicorn with threads, Flask, requests).
        config: its configuration file; the pipeline `next` guards its calls to the next one.
        degrades: it answers 200 without the next one when that cannot be had, instead of passing the failure on.
    """

    kind: Literal["asgi", "wsgi"]
    config: str
    degrades: bool = False


class Hop(Running):
    """A service that runs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(port)
        self.process = process
        self._log = log

    def seen(self) -> dict[str, Any]:
        """`deadlines`: what it was told of its time by each request, None where nothing. `status`: what its guards are doing."""
        response = self.get("/-/seen")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def deadlines(self) -> list[str | None]:
        """The deadline header of each request that reached its application."""
        found: list[str | None] = self.seen()["deadlines"]
        return found

    def printed(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def chain(folder: Path, services: Sequence[Service], beyond: str = "") -> Iterator[list[Hop]]:
    """Run services, each of which calls the next one, until the block is left.

    Their ports are bound before they start, so that requests which come early wait.

    Args:
        folder: for their configurations and what they print.
        services: the one that the client asks first.
        beyond: the URL that the last one calls; none: it answers by itself.
    """
    hops: list[Hop] = []
    with ExitStack() as ends:
        listeners = [ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in services]
        urls = [*(f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners[1:]), beyond]
        for number, (service, listener, url) in enumerate(zip(services, listeners, urls, strict=True), 1):
            hop = _start(service, listener, url, folder / f"hop-{number}")
            ends.callback(_see_ended, hop.process)
            hops.append(hop)
        for listener in listeners:
            listener.close()
        try:
            yield hops
        except BaseException as error:
            for hop in hops:
                error.add_note(f"{hop.url} printed:\n{hop.printed()}")
            raise
        finally:
            for hop in hops:  # all are told before one is waited for
                hop.process.terminate()


def _start(service: Service, listener: socket.socket, next_url: str, folder: Path) -> Hop:
    folder.mkdir(parents=True)
    config, log = folder / "resilience.yaml", folder / "log"
    config.write_text(service.config, encoding="utf-8")
    told = {"HOP_CONFIG": str(config), "HOP_NEXT": next_url, "HOP_DEGRADES": "1" if service.degrades else ""}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *(part.replace("{fd}", str(listener.fileno())) for part in _COMMANDS[service.kind])],
            cwd=ROOT,
            env=os.environ | told | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
    return Hop(listener.getsockname()[1], process, log)


def _see_ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
