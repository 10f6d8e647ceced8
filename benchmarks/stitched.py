"""What people stitch by hand to get what one pipeline of ours does: a limiter, a breaker, retries and a timeout of other projects.

`lean` is the leanest stitching there is, `usual` the usual one. Neither has one signal that all share, generations, a budget of
retries, inbound deadlines or telemetry; the breakers see exceptions only, no status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

TIMEOUT_S: Final = 5.0
UNREACHED: Final = 1_000_000_000
Work = Callable[..., Awaitable[Any]]


class Limit:
    """A fixed window of `limits` for each client: the cheapest of its strategies."""

    def __init__(self) -> None:
        from limits import RateLimitItemPerSecond  # noqa: PLC0415
        from limits.storage import MemoryStorage  # noqa: PLC0415
        from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

        self.item = RateLimitItemPerSecond(UNREACHED)
        self.hit = FixedWindowRateLimiter(MemoryStorage()).hit


def lean(work: Work, *, retries: bool = True) -> Work:
    """`work` within a breaker of `circuitbreaker` within `backoff`: decorators that are put on once."""
    import backoff  # noqa: PLC0415
    import circuitbreaker  # noqa: PLC0415

    guarded: Work = circuitbreaker.CircuitBreaker(failure_threshold=20, recovery_timeout=30)(work)
    if not retries:
        return guarded
    retried: Work = backoff.on_exception(backoff.expo, OSError, max_tries=3)(guarded)
    return retried


def usual(work: Work) -> Work:
    """`work` within a breaker of `aiobreaker` within `tenacity`."""
    import aiobreaker  # noqa: PLC0415
    import tenacity  # noqa: PLC0415

    breaker = aiobreaker.CircuitBreaker(fail_max=20, timeout_duration=timedelta(seconds=30))

    async def guarded(*args: Any) -> Any:
        return await breaker.call_async(work, *args)

    retried: Work = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(max=2),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )(guarded)
    return retried


class Asgi:
    """A middleware of a limit, a timeout and whatever `stitch` puts around the application."""

    def __init__(self, app: Any, stitch: Callable[[Work], Work]) -> None:
        async def work(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        self.app = app
        self.work = stitch(work)
        self.limit = Limit()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self.limit.hit(self.limit.item, scope["client"][0]):
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        async with asyncio.timeout(TIMEOUT_S):
            await self.work(scope, receive, send)


class Calls:
    """The same around calls of a coroutine function."""

    def __init__(self, work: Work, stitch: Callable[[Work], Work]) -> None:
        self.work = stitch(work)
        self.limit = Limit()

    async def __call__(self) -> Any:
        if not self.limit.hit(self.limit.item, "192.0.2.7"):
            raise RuntimeError("over the limit")
        async with asyncio.timeout(TIMEOUT_S):
            return await self.work()
