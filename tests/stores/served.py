"""The application that gunicorn serves in the tests of fleets: it says which worker decided, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import resilience
from resilience.integrations.wsgi import ResilienceMiddleware


def _hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", "5")])
    return [b"hello"]


_toolkit = resilience.load(os.environ["SERVED_CONFIG"])
_guarded: Any = ResilienceMiddleware(_hello, config=_toolkit)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The guarded application; every response, a refusal too, tells the worker and the instant."""

    began_ns = time.monotonic_ns()  # one clock for all processes of a machine

    def told(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        (limiter,) = _toolkit.active.states.limiters.values()
        told = {
            "x-worker": os.getpid(),
            "x-began-ns": began_ns,
            "x-decided-ns": time.monotonic_ns(),
            "x-without-store": getattr(limiter, "without_store", 0),
        }
        return start_response(status, [*headers, *((name, str(value)) for name, value in told.items())], *rest)

    found: Iterable[bytes] = _guarded(environ, told)
    return found
