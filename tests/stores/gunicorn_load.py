"""A gunicorn with four workers, and a load that asks more of it than its limit allows."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4


@contextmanager
def gunicorn(config: Path, *options: str) -> Iterator[int]:
    """Serve until the block is left. Yields the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "gunicorn", "tests.stores.served:app", "--bind", f"fd://{listener.fileno()}"]
        command += ["--workers", str(WORKERS), "--graceful-timeout", "2", "--log-level", "warning", "--no-control-socket", *options]
        log = config.with_suffix(".log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"SERVED_CONFIG": str(config), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )
        port: int = listener.getsockname()[1]
        try:
            yield port
        finally:
            process.terminate()
            try:
                process.wait(10)
            finally:
                process.kill()
                process.wait()


class Loaded(NamedTuple):
    """What came of a load: decisions by worker, and the seconds from the first to the last of them.

    without_store: how many were decided by a local share, since this machine was too busy for the store to answer in time.
    """

    offered: Counter[str]
    admitted: Counter[str]
    statuses: Counter[int]
    lasted_s: float
    without_store: int

    @property
    def fairness(self) -> float:
        """The smallest of the workers' shares of what was admitted, each by its share of what was offered to it."""
        offered, admitted = sum(self.offered.values()), sum(self.admitted.values())
        return min(self.admitted[worker] / admitted / (count / offered) for worker, count in self.offered.items())


def warm_up(port: int) -> None:
    """Wait until every worker answers, and then until the bucket is full again and no worker holds a lease."""
    workers: set[str] = set()
    deadline_s = time.monotonic() + 20
    while len(workers) < WORKERS:
        workers |= set(load(port, 0.2, 100.0).offered)
        if time.monotonic() > deadline_s:
            raise AssertionError(f"only {len(workers)} workers answer")
    time.sleep(2.5)


def load(port: int, duration_s: float, rate_per_s: float, threads: int = 8) -> Loaded:
    """So many requests a second for a while."""
    seen: list[tuple[int, str, int, int]] = []
    without_store: dict[str, int] = {}
    start_s = time.perf_counter()

    def run(number: int) -> None:
        while (due_s := number / rate_per_s) < duration_s:
            time.sleep(max(0.0, start_s + due_s - time.perf_counter()))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            connection.close()
            worker, alone = response.headers["x-worker"], int(response.headers["x-without-store"])
            began_ns, decided_ns = (int(response.headers[f"x-{what}-ns"]) for what in ("began", "decided"))
            seen.append((response.status, worker, began_ns, decided_ns))
            without_store[worker] = max(alone, without_store.get(worker, 0))
            number += threads

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Loaded(
        Counter(worker for _, worker, _, _ in seen),
        Counter(worker for status, worker, _, _ in seen if status == 200),
        Counter(status for status, _, _, _ in seen),
        (max(decided_ns for _, _, _, decided_ns in seen) - min(began_ns for _, _, began_ns, _ in seen)) / 1e9,
        sum(without_store.values()),
    )
