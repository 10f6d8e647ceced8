"""A WSGI application under gunicorn whose answers say which worker decided, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from resilience import SharedRateLimiter
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.registry import members


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


guarded = ResilienceMiddleware(answer, config=os.environ["RESILIENCE_CONFIG"])


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Adds to each answer the worker, and the instants at which the request came to it and was decided."""
    came_us = time.monotonic_ns() // 1000

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        told = {"X-Worker": os.getpid(), "X-Came": came_us, "X-Decided": time.monotonic_ns() // 1000}
        told["X-Alone"] = sum(limiter.shared.without_store for limiter in members(SharedRateLimiter))
        return start_response(status, [*headers, *((name, str(value)) for name, value in told.items())], *rest)

    return guarded(environ, start)
