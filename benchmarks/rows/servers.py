"""Over real servers with a client that loads them: the processor time of the server for a request, and what we add to it.

Requests come eight at a time. In between a server sleeps, and on a machine that has other work its caches go cold: all that it does
costs more then than in the other groups.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import grpc

from benchmarks.harness import Size, Subject, Table, Take, measure
from benchmarks.served.processes import HttpClient, http_server, processor_s, started

APPLICATIONS: Final = "benchmarks.served.applications"
ASGI: Final = ("raw", "floor", "resilience", "starlette", "slowapi")
WSGI: Final = ("raw", "floor", "resilience", "flask", "limiter")
GRPC: Final = ("raw", "floor", "resilience")
AT_ONCE: Final = 8
METHOD: Final = "/bench.v1.Echo/Call"


def uvicorn(kind: str) -> list[str]:
    factory = [] if kind == "raw" else ["--factory"]
    quiet = ["--log-level", "error", "--no-access-log", "--lifespan", "off", "--timeout-keep-alive", "600"]
    return ["uvicorn", *factory, f"{APPLICATIONS}:asgi_{kind}", "--fd", "{fd}", *quiet]


def gunicorn(kind: str) -> list[str]:
    call = "" if kind == "raw" else "()"
    workers = ["--workers", "1", "--worker-class", "gthread", "--threads", "2", "--keep-alive", "600", "--log-level", "error"]
    return ["gunicorn", f"{APPLICATIONS}:wsgi_{kind}{call}", "--bind", "fd://{fd}", *workers]


def loaded(pid: int, request_all: Callable[[], object]) -> Take:
    """`AT_ONCE` requests at a time, in processor time of the server."""

    def take(count: int) -> float:
        times = -(-count // AT_ONCE)
        began_s = processor_s(pid)
        for _ in range(times):
            request_all()
        return (processor_s(pid) - began_s) * count / (times * AT_ONCE)

    return take


def over_http(command: list[str], stack: ExitStack) -> Take:
    process, port = stack.enter_context(http_server(command))
    clients = [HttpClient(port) for _ in range(AT_ONCE)]
    for client in clients:
        stack.callback(client.close)
    try:
        clients[0].wait()
    except (OSError, RuntimeError) as error:
        process.kill()
        raise RuntimeError((process.stderr.read() if process.stderr else "").strip().rpartition("\n")[2]) from error

    def request_all() -> None:
        for client in clients:
            client.send()
        for client in clients:
            client.receive()

    return loaded(process.pid, request_all)


def over_grpc(model: str, kind: str, stack: ExitStack) -> Take:
    process = stack.enter_context(started(["benchmarks.served.grpc_server", model, kind]))
    port = int(process.stdout.readline()) if process.stdout else 0
    channel: Any = stack.enter_context(contextlib.closing(grpc.insecure_channel(f"127.0.0.1:{port}")))
    method = channel.unary_unary(METHOD)

    def request_all() -> None:
        for call in [method.future(b"x", timeout=10) for _ in range(AT_ONCE)]:
            call.result()

    return loaded(process.pid, request_all)


def run(size: Size) -> Table:
    with ExitStack() as stack:
        subjects = [Subject(f"uvicorn: {kind}", partial(over_http, uvicorn(kind), stack)) for kind in ASGI]
        subjects += [Subject(f"gunicorn: {kind}", partial(over_http, gunicorn(kind), stack)) for kind in WSGI]
        for model in ("threads", "asyncio"):
            subjects += [Subject(f"grpcio, {model}: {kind}", partial(over_grpc, model, kind, stack)) for kind in GRPC]
        table = measure(subjects, Size(3, 0.05, is_smoke=True) if size.is_smoke else Size(15, 0.1))
    for server in ("uvicorn", "gunicorn", "grpcio, threads", "grpcio, asyncio"):
        ours, raw = table.median(f"{server}: resilience"), table.median(f"{server}: raw")
        if ours is not None and raw is not None:
            table.figures[f"{server}: µs added by four layers"] = ours - raw
            table.figures[f"{server}: four layers / raw"] = ours / raw
        table.ratio(f"{server}: four layers / fused floor", f"{server}: resilience", f"{server}: floor", without=f"{server}: raw")
    _beside_peer(table, "uvicorn", "slowapi", "starlette")
    _beside_peer(table, "gunicorn", "limiter", "flask")
    return table


def _beside_peer(table: Table, server: str, peer: str, framework: str) -> None:
    guarded, bare = table.median(f"{server}: {peer}"), table.median(f"{server}: {framework}")
    ours = table.figures.get(f"{server}: µs added by four layers")
    if guarded is not None and bare is not None and ours is not None:
        table.figures[f"{server}: four layers / {peer}"] = ours / (guarded - bare)
