"""Real servers with many processes, on free loopback ports, and clients that ask all of their workers."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.watch.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
GUNICORN = ("gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "4", "--bind", "fd://{fd}")
COMMANDS = {
    "gunicorn": (*GUNICORN, "tests.watch.served:app"),
    "gunicorn --preload": (*GUNICORN, "--preload", "tests.watch.served:app"),
    "uvicorn": ("uvicorn", "--workers", "2", "--fd", "{fd}", "tests.watch.served:app"),
}
WORKERS = {"gunicorn": 4, "gunicorn --preload": 4, "uvicorn": 2}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request saw."""

    status: int
    pid: int
    deadline_s: int
    policy: str
    limit: int


class Server:
    """One server and its workers. A context manager: they live inside the `with`."""

    def __init__(self, name: str, config: Path, folder: Path) -> None:
        self.name = name
        self.notes = folder / f"{name}.notes"
        self._log = folder / f"{name}.log"
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._port = self._listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        descriptor = self._listener.fileno()
        with self._log.open("wb") as log, self._listener:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(fd=descriptor) for part in COMMANDS[self.name])],
                cwd=ROOT,
                env=os.environ | {"RESILIENCE_CONFIG": str(self._config), "RESILIENCE_NOTES": str(self.notes)},
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(LIMIT_S)
        finally:
            self._process.kill()
            if error is not None:
                error.add_note(f"{self.name} has printed:\n{self.log()}")

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)

    def get(self, path: str = "/") -> Answer:
        """One request on a new connection."""
        connection = self.connect()
        try:
            return ask(connection, path)
        finally:
            connection.close()

    def ask_often(self, count: int = 24) -> list[Answer]:
        """Requests at the same time, so that they come to all workers."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.get(), range(count)))

    def workers(self) -> set[int]:
        """The ids of all workers, once all of them answer."""
        found: set[int] = set()

        def all_answer() -> bool:
            found.update(answer.pid for answer in self.ask_often())
            return len(found) == WORKERS[self.name]

        wait_until(all_answer, f"all workers of {self.name} answer")
        return found

    def loads(self) -> dict[int, list[tuple[float, str]]]:
        """What each process has loaded, and when."""
        lines = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []
        found: dict[int, list[tuple[float, str]]] = {}
        for pid, at_s, sha256 in (line.split() for line in lines):
            found.setdefault(int(pid), []).append((float(at_s), sha256))
        return found

    def wait_for_all(self, workers: set[int], sha256: str) -> float:
        """Wait until `sha256` is in force in all workers. Returns the monotonic instant at which the last one loaded it."""

        def have_it() -> bool:
            loads = self.loads()
            return all(pid in loads and loads[pid][-1][1] == sha256 for pid in workers)

        wait_until(have_it, f"the last configuration is in force in all workers of {self.name}")
        loads = self.loads()
        return max(loads[pid][-1][0] for pid in workers)


def ask(connection: http.client.HTTPConnection, path: str) -> Answer:
    """One request, with what its answer tells of the configuration."""
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    pid, deadline_s = map(int, body.split()) if response.status == 200 else (0, 0)
    policy = re.fullmatch(r'"(\w+)";q=(\d+);w=\d+', response.headers["RateLimit-Policy"] or "")
    assert policy is not None, (response.status, dict(response.headers), body)
    return Answer(response.status, pid, deadline_s, policy[1], int(policy[2]))


def every(interval_s: float, duration_s: float) -> Iterator[int]:
    """Numbers from 1, one each `interval_s` seconds of real time."""
    began = time.monotonic()
    for number in range(1, round(duration_s / interval_s) + 1):
        time.sleep(max(0.0, began + number * interval_s - time.monotonic()))
        yield number
