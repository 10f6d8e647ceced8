"""What importing costs, in processor time of fresh processes: `resilience`, and each integration once its framework is there."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from benchmarks.harness import Row, Size, Table

API: Final = "from opentelemetry import context, metrics, propagate, trace"
TIMED: Final = """\
import time
{before}
began_s = time.process_time()
{timed}
print((time.process_time() - began_s) * 1e3)
"""
ROWS: Final = {
    "opentelemetry-api": ("", API),
    "resilience": ("", "import resilience"),
    "resilience, after opentelemetry-api": (API, "import resilience"),
    "resilience.integrations.asgi, after resilience": ("import resilience", "import resilience.integrations.asgi"),
    "resilience.integrations.wsgi, after resilience": ("import resilience", "import resilience.integrations.wsgi"),
    "resilience.integrations.grpc, after grpc": ("import resilience, grpc", "import resilience.integrations.grpc"),
    "resilience.integrations.grpc.aio, after grpc.aio": ("import resilience, grpc.aio", "import resilience.integrations.grpc.aio"),
    "resilience.integrations.httpx, after httpx": ("import resilience, httpx", "import resilience.integrations.httpx"),
    "resilience.integrations.requests, after requests": ("import resilience, requests", "import resilience.integrations.requests"),
    "the interpreter's asyncio, for comparison": ("", "import asyncio"),
    "slowapi, after starlette": ("import starlette.applications", "import slowapi.middleware"),
    "flask-limiter, after flask": ("import flask", "import flask_limiter"),
    "tenacity": ("", "import tenacity"),
}
IN_SMOKE: Final = ("opentelemetry-api", "resilience")


def taken_ms(before: str, timed: str) -> float:
    """Milliseconds of one import.

    Raises:
        RuntimeError: it failed.
    """
    code = TIMED.format(before=before, timed=timed)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout)


def run(size: Size) -> Table:
    rounds = 3 if size.is_smoke else 11
    rows = {name: ROWS[name] for name in (IN_SMOKE if size.is_smoke else ROWS)}
    samples: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for number in range(rounds + 1):
        for name, (before, timed) in rows.items():
            if name in notes:
                continue
            try:
                taken = taken_ms(before, timed)
            except RuntimeError as error:
                notes[name] = str(error)[:80]
                continue
            if number:  # the first round writes the compiled files
                samples.setdefault(name, []).append(taken)
    table = Table({name: Row(None, note=notes[name]) if name in notes else Row.of(samples[name], "ms") for name in rows})
    api, ours = table.median("opentelemetry-api"), table.median("resilience")
    if api is not None and ours is not None:
        table.figures["resilience over opentelemetry-api"] = ours - api
    return table
