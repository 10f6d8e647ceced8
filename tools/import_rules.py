"""The house as tables: who lives where, and who may import what. `check_imports.py` holds the code to it.

A new file gets a line here, and a rule is changed here, where a reader of the change sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Room = tuple[str, ...]
"""Modules that may import each other. A name holds its submodules too; one with ":" at its end is that module alone."""

FLOORS: Final[tuple[tuple[Room, ...], ...]] = (
    # Lowest first. A module imports from its own room and from lower floors; rooms of one floor do not know each other.
    (
        (
            "resilience.call",
            "resilience.clock",
            "resilience.errors",
            "resilience.events",
            "resilience.mark",
            "resilience.refusals",
            "resilience.registry",
            "resilience.settings",
            "resilience.store_timing",
            "resilience.tracing",
        ),
    ),
    (("resilience.health", "resilience.fleet_health"),),
    # What several layers share; one room a layer; the package that holds them.
    (
        (
            "resilience.layers.address",
            "resilience.layers.base",
            "resilience.layers.keys",
            "resilience.layers.statuses",
            "resilience.layers.timeouts",
        ),
    ),
    (
        ("resilience.layers.breaker",),
        ("resilience.layers.deadline",),
        ("resilience.layers.limiter",),
        ("resilience.layers.retry",),
    ),
    (("resilience.layers:",),),
    (
        (
            "resilience.current",
            "resilience.direct",
            "resilience.drivers",
            "resilience.entry",
            "resilience.guard",
            "resilience.handle",
            "resilience.pipeline",
            "resilience.plan",
            "resilience.recorded",
            "resilience.stage",
            "resilience.stepped",
            "resilience.timers",
            "resilience.tries",
        ),
    ),
    (("resilience.stores",), ("resilience.workers",)),
    (("resilience.config",), ("resilience.telemetry",)),
    (("resilience.watch",),),
    (("resilience.live", "resilience.pools", "resilience.states", "resilience.status", "resilience.toolkit"),),
    (("resilience.edges",),),
    (("resilience.batch",),),
    (("resilience:",), ("resilience.leaks", "resilience.testing")),
    (("resilience.command", "resilience.__main__"), ("resilience.integrations",)),
)

PUBLIC_MODULES: Final = (
    "resilience",
    "resilience.batch",
    "resilience.edges",
    "resilience.stores",
    "resilience.testing",
    "resilience.workers",
)
"""What integrations may import names from; each name must be in that module's `__all__`."""

THIRD_PARTY: Final[Mapping[str, frozenset[str]]] = {
    "resilience.batch.telemetry": frozenset({"opentelemetry"}),
    "resilience.command": frozenset({"click", "rich"}),
    "resilience.config": frozenset({"yaml"}),
    "resilience.telemetry": frozenset({"opentelemetry"}),
    "resilience.integrations.flask": frozenset({"flask"}),
    "resilience.integrations.grpc": frozenset({"google", "grpc", "grpc_status"}),
    "resilience.integrations.httpx": frozenset({"httpx", "httpx2"}),
    "resilience.integrations.requests": frozenset({"requests", "urllib3"}),
    "resilience.integrations.thrift": frozenset({"thriftpy2"}),
}
"""What a room may import besides the standard library."""

LAZY_THIRD_PARTY: Final[Mapping[str, frozenset[str]]] = {
    "resilience.integrations.asgi.handlers": frozenset({"asgiref", "django", "litestar"}),
    "resilience.stores": frozenset({"redis"}),
    "resilience.testing": frozenset({"pytest"}),
}
"""What a room may import inside functions and under TYPE_CHECKING only: importing the room must not need it."""

CLOCK_READERS: Final = ("resilience.clock", "resilience.drivers")
"""The modules that may touch `time` and ask `datetime` for the present."""
