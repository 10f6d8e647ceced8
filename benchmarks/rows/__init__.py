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
        Group("wsgi", "Four layers on a WSGI request, in process, not sampled", ("flask", "flask-limiter", "limits")),
        Group("grpc", "Four layers on a gRPC call, in process, not sampled", ("grpcio",)),
        Group("bucket", "One decision of a rate limiter", ("limits", "throttled-py", "pyrate-limiter", "aiolimiter")),
        Group(
            "breaker",
            "A call through a circuit breaker",
            ("pybreaker", "circuitbreaker", "purgatory", "aiobreaker", "interlock-cb"),
        ),
        Group("retry", "A call that succeeds at its first try, through a retry", ("tenacity", "stamina", "backoff")),
    )
}
