"""What following a file costs: a request while its configuration is replaced ten times a second, and a thread that only watches.

All in one process and one run. Quiet and busy rounds take turns, and the figure is the ratio of their 99th percentiles, so the
machine's speed cancels out. The file is replaced by another process; the watch runs at its usual pace of one look a second.

Run with `make bench`. Exit status 1: a request takes more than `LIMIT` times as long, or the idle watch more than `IDLE_LIMIT_MS`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import resilience
from resilience.integrations.asgi import ResilienceMiddleware

LIMIT = 2.0
IDLE_LIMIT_MS = 1.0
ROUNDS = 4
ROUND_S = 2.0
PACE_S = 0.002
IDLE_S = 5.0
OUT = Path(__file__).parent / "out" / "reload.json"

TEXT = """\
version: 1
deadlines:
  api: {default: 5s}
limiters:
  api: {rate: 1000000/s, burst: 1000000}
  per_client: {rate: 1000000/s, burst: %d, key: client_address}
breakers:
  payments: {failure_rate: 50%%, window: 30s}
retries:
  payments: {attempts: 3, backoff: 100ms..2s}
pipelines:
  api: [{deadline: api}, {limiter: per_client}, {limiter: api}]
  payments: [{deadline: api}, {retry: payments}, {breaker: payments}]
routes:
  - {match: {path: /healthz}, pipeline: none}
  - {match: {path: "/**"}, pipeline: api}
"""
WRITER = """\
import itertools, os, sys, time
path, text = sys.argv[1:]
for number in itertools.count(100000):
    with open(path + ".new", "w") as file:
        file.write(text % number)
    time.sleep(0.01)  # so that the rename shows in the file's dates, and each look takes what it finds
    os.replace(path + ".new", path)
    time.sleep(0.09)
"""
SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "path": "/orders/7", "headers": [], "client": ("192.0.2.7", 51_234)}


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """The file is replaced ten times a second while the block runs."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), TEXT])
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


async def one_after_the_other(app: Any) -> list[int]:
    """How long each request takes, in nanoseconds, when the next comes as soon as one is done."""
    taken = []
    until = time.perf_counter() + ROUND_S
    while (began := time.perf_counter_ns()) < until * 1e9:
        await app(SCOPE, receive, send)
        taken.append(time.perf_counter_ns() - began)
    return taken


async def at_a_pace(app: Any) -> list[int]:
    """The same when one comes each 2 ms and the loop sleeps in between, counted from when it wakes."""
    taken = []
    for _ in range(round(ROUND_S / PACE_S)):
        await asyncio.sleep(PACE_S)
        began = time.perf_counter_ns()
        await app(SCOPE, receive, send)
        taken.append(time.perf_counter_ns() - began)
    return taken


def percentile_us(taken: list[int], share: float) -> float:
    return sorted(taken)[int(len(taken) * share)] / 1e3


def compare(name: str, measure: Any, app: Any, path: Path) -> dict[str, float]:
    """The latencies of quiet and of busy rounds."""
    quiet: list[int] = []
    busy: list[int] = []
    for _ in range(ROUNDS):
        quiet += asyncio.run(measure(app))
        with replaced(path):
            busy += asyncio.run(measure(app))
        time.sleep(1.5)  # the last version comes into force here, and not in a quiet round
    figures = {
        f"{when}_{label}_us": percentile_us(taken, share)
        for when, taken in (("quiet", quiet), ("busy", busy))
        for label, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }
    figures["ratio"] = figures["busy_p99_us"] / figures["quiet_p99_us"]
    shown = "  ".join(
        f"{label} {figures[f'quiet_{label}_us']:7.1f} {figures[f'busy_{label}_us']:7.1f}" for label in ("p50", "p99", "p99.9")
    )
    print(f"{name:<22} {shown}   p99 x {figures['ratio']:.2f}")
    return figures


def idle_ms_per_s(path: Path) -> float:
    """Processor time that the watching thread takes while nothing changes, in milliseconds a second."""
    with resilience.load(path, watch=True):
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "resilience-watch")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        time.sleep(1.5)  # the first look reads
        samples = []
        for _ in range(3):
            began = time.clock_gettime(clock)
            time.sleep(IDLE_S)
            samples.append((time.clock_gettime(clock) - began) / IDLE_S * 1e3)
    return statistics.median(samples)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resilience.yaml"
        path.write_text(TEXT % 1, encoding="utf-8")
        app = ResilienceMiddleware(raw_app, config=path)
        print("µs a request           p50   quiet    busy  p99   quiet    busy  p99.9 quiet    busy")
        figures: dict[str, Any] = {
            "one after the other": compare("one after the other", one_after_the_other, app, path),
            "at a pace": compare("one each 2 ms", at_a_pace, app, path),
        }
        with resilience.load(path) as toolkit:
            figures["reloads"] = toolkit.status()["version"] - 1
        app.close()
        figures["idle_ms_per_s"] = idle_ms_per_s(path)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    worst = max(figures["one after the other"]["ratio"], figures["at a pace"]["ratio"])
    is_good = worst <= LIMIT and figures["idle_ms_per_s"] < IDLE_LIMIT_MS
    print(f"{figures['reloads']} reloads; p99 at most x {worst:.2f}, and {LIMIT:g} is promised")
    print(
        f"an idle watch takes {figures['idle_ms_per_s']:.3f} ms of processor time a second; less than {IDLE_LIMIT_MS:g} is promised"
    )
    print("ok" if is_good else "FAILED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
