"""A request that is refused, with its answer, beside one that is admitted; the work that it saves is that of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks import guards, stitched
from benchmarks.harness import Size, Subject, Table, Take, measure
from benchmarks.rows.asgi import SCOPE, prepared, raw_app, receive, requests_to, starlette_app
from benchmarks.rows.breaker import our_breaker
from resilience import Deadline, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware


def over_the_limit() -> Any:
    limiter = RateLimiter(1e-6, 1, key="client_address")
    return ResilienceMiddleware(raw_app, pipeline=Pipeline("api", Deadline(default_s=5.0), limiter))


def breaker_open() -> Any:
    return ResilienceMiddleware(raw_app, pipeline=Pipeline("api", Deadline(default_s=5.0), our_breaker(opened=True)))


def slowapi(limit: str) -> Any:
    from slowapi import Limiter  # noqa: PLC0415
    from slowapi.middleware import SlowAPIASGIMiddleware  # noqa: PLC0415
    from slowapi.util import get_remote_address  # noqa: PLC0415
    from starlette.middleware import Middleware  # noqa: PLC0415

    app = starlette_app(Middleware(SlowAPIASGIMiddleware))
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=[limit])
    return app


async def status_of(app: Any) -> Any:
    """What one request is answered by."""
    statuses: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(SCOPE.copy(), receive, send)
    return statuses[-1]


def refusing(make: Callable[[], Any], status: int, loop: asyncio.AbstractEventLoop) -> Take:
    """Requests that are answered by `status`, from the second on."""
    app = make()
    loop.run_until_complete(status_of(app))
    return requests_to(app, loop, status)


ADMITTED: Final = "admitted"


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    subjects = [
        Subject(ADMITTED, partial(prepared, lambda: ResilienceMiddleware(raw_app, pipeline=guards.inbound()), loop)),
        Subject("over the limit: 429", partial(refusing, over_the_limit, 429, loop)),
        Subject("breaker open: 503", partial(refusing, breaker_open, 503, loop)),
        Subject("SlowAPI on Starlette: admitted", partial(refusing, lambda: slowapi(f"{stitched.UNREACHED}/second"), 200, loop)),
        Subject("SlowAPI on Starlette: 429", partial(refusing, lambda: slowapi("1/day"), 429, loop)),
    ]
    with guards.not_sampled():
        table = measure(subjects, size)
    loop.close()
    table.ratio("429 / admitted", "over the limit: 429", ADMITTED)
    table.ratio("503 / admitted", "breaker open: 503", ADMITTED)
    return table
