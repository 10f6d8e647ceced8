"""The groups of rows, in the order in which they are shown. A group is a module here with a function `run(size) -> Table`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from benchmarks.harness import Size, Table


@dataclass(frozen=True)
class Group:
    """One table: its module, its title, the packages whose versions count, and in how many processes it is measured."""

    name: str
    title: str
    packages: tuple[str, ...] = ()
    processes: int = 3
    in_smoke: bool = True

    def run(self, size: Size) -> Table:
        """Measure it here and now."""
        table: Table = importlib.import_module(f"benchmarks.rows.{self.name}").run(size)
        return table


GROUPS: Final = {
    group.name: group
    for group in (
        Group(
            "asgi",
            "Four layers on an ASGI request, in process, not sampled",
            ("starlette", "slowapi", "limits", "circuitbreaker", "backoff", "aiobreaker", "tenacity"),
        ),
        Group("wsgi", "Four layers on a WSGI request, in process, not sampled", ("flask", "flask-limiter", "limits"), processes=25),
        Group("grpc", "Four layers on a gRPC call, in process, not sampled", ("grpcio",)),
        Group(
            "grpc_loopback",
            "Interceptors on a gRPC call over loopback, both sides in one process",
            ("grpcio", "opentelemetry-instrumentation-grpc"),
            processes=1,
            in_smoke=False,
        ),
        Group("bucket", "One decision of a rate limiter", ("limits", "throttled-py", "pyrate-limiter", "aiolimiter"), processes=5),
        Group(
            "breaker",
            "A call through a circuit breaker",
            ("pybreaker", "circuitbreaker", "purgatory", "aiobreaker", "interlock-cb"),
        ),
        Group("retry", "A call that succeeds at its first try, through a retry", ("tenacity", "stamina", "backoff")),
        Group(
            "calls", "A call that goes out, through four layers", ("limits", "circuitbreaker", "backoff", "aiobreaker", "tenacity")
        ),
        Group("spans", "With OpenTelemetry's SDK: not sampled, and sampled", processes=5),
        Group("refusals", "A refused ASGI request, with its answer", ("slowapi", "starlette")),
        Group(
            "contention", "Threads on one bucket and on one breaker, by the clock on the wall", ("limits", "pybreaker"), processes=9
        ),
        Group("growth", "An ASGI request with more routes, clients and policies"),
        Group(
            "servers", "Over real servers: processor time of the server for a request", ("uvicorn", "gunicorn", "grpcio"), 1, False
        ),
        Group("memory", "Memory a key, and the longest decision", ("limits", "throttled-py"), processes=1),
        Group("imports", "What importing costs", ("slowapi", "flask-limiter", "tenacity"), processes=1),
    )
}
