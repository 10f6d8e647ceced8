"""Servers with several workers, and clients that ask for more than they may have."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
CLIENTS: Final = 8
LIMIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: what came of it, in which worker, when it came there and when it was decided."""

    status: int
    worker: int
    came_us: int
    decided_us: int
    alone: int
    """How many decisions this worker had made without the store by then."""


@contextmanager
def gunicorn(config: Path, folder: Path, workers: int, *options: str) -> Iterator[int]:
    """The port of a gunicorn with so many workers, once it answers."""
    log = folder / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, log.open("wb") as out:
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--workers", str(workers), "--bind", f"fd://{listener.fileno()}"),
                *("--worker-class", "sync", *options, "tests.stores.host.served:application"),
            ],
            cwd=ROOT,
            env=os.environ | {"RESILIENCE_CONFIG": str(config)},
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
    try:
        yield port
    except BaseException as error:
        error.add_note(f"gunicorn has printed:\n{log.read_text('utf-8', 'replace')[-4_000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()


def ask(port: int, path: str = "/") -> Answered:
    """One request on a connection of its own, so that any worker may take it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        told = (int(response.headers[f"X-{what}"]) for what in ("Worker", "Came", "Decided", "Alone"))
        return Answered(response.status, *told)
    finally:
        connection.close()


def wait_for_all(port: int, workers: int) -> None:
    """Until each worker has answered a request that nothing guards."""
    seen: set[int] = set()
    end_s = time.monotonic() + LIMIT_S
    while len(seen) < workers:
        assert time.monotonic() < end_s, f"{len(seen)} of {workers} workers answer"
        seen.add(ask(port, "/up").worker)


def lasted_s(answers: list[Answered]) -> float:
    """From the first decision to the last."""
    return (max(answer.decided_us for answer in answers) - min(answer.came_us for answer in answers)) / 1e6


def flood(port: int, per_s: float, seconds: float) -> list[Answered]:
    """The answers to `per_s` requests a second, at an even pace, from as many clients as keep it up."""
    answers: list[Answered] = []
    errors: list[BaseException] = []
    began_s = time.monotonic()

    def client(number: int) -> None:
        try:
            for turn in range(round(per_s * seconds / CLIENTS)):
                due_s = began_s + (turn * CLIENTS + number) / per_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                answers.append(ask(port))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    return answers


def shares(answers: list[Answered]) -> tuple[dict[int, float], dict[int, float]]:
    """Each worker's share of what was offered, and of what was admitted."""
    offered = Counter(answer.worker for answer in answers)
    admitted = Counter(answer.worker for answer in answers if answer.status == 200)
    return (
        {worker: count / len(answers) for worker, count in offered.items()},
        {worker: admitted[worker] / admitted.total() for worker in offered},
    )
