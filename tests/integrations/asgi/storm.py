"""Requests that end in every way there is, at random, by one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from resilience import CircuitBreaker, CircuitOpen, Deadline, Pipeline, RateLimiter
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.conversation import Conversation, turns

REQUESTS = 1_000
PROBES = 7


class Storm:
    """Handlers and clients that behave at random, by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock(auto_advance=False)
        self.breaker = CircuitBreaker(
            0.9, min_calls=50, probes=PROBES, open_for_s=0.5, half_open_for_s=86_400.0, clock=self.clock, uniform=lambda: 0.0
        )
        self.limiter = RateLimiter(150.0, 50, max_wait_s=0.1, clock=self.clock)
        self.pipeline = Pipeline("api", Deadline(0.3, clock=self.clock), self.limiter, self.breaker)
        self.app = ResilienceMiddleware(self.handler, pipeline=self.pipeline)
        self.ends: dict[str, int] = {}

    async def handler(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer in some way, or not."""
        dice = self.random
        if scope["type"] == "websocket":
            await self._websocket(receive, send)
            return
        if dice.random() < 0.2:
            await self._until_it_hangs_up(receive)
        await self._pause()
        if dice.random() < 0.15:
            raise dice.choice([ValueError(), OSError(), CircuitOpen("out", policy="out")])
        kind = dice.choice([b"text/plain", b"text/event-stream"])
        status = dice.choice([200, 200, 200, 404, 500])
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for _ in range(dice.randrange(3)):
            await self._pause()
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if dice.random() < 0.1:
            return
        await send({"type": "http.response.body", "body": b"end"})
        await self._pause()

    async def _websocket(self, receive: Any, send: Any) -> None:
        await self._pause()
        if self.random.random() < 0.5:
            await send({"type": "websocket.accept"})
        await self._until_it_hangs_up(receive)

    async def _until_it_hangs_up(self, receive: Any) -> None:
        while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass

    async def _pause(self) -> None:
        choice = self.random.random()
        if choice < 0.3:
            await self.clock.asleep(self.random.random() * 0.5)
        elif choice < 0.8:
            await turns(self.random.randrange(4))

    async def client(self, talk: Conversation) -> None:
        """One client: waits for its answer, hangs up, or is cut off by the server."""
        choice = self.random.random()
        await turns(self.random.randrange(10))
        if choice < 0.2:
            talk.task.cancel()
        elif choice < 0.4 or talk.scope["type"] == "websocket":
            talk.disconnect()
        elif choice < 0.5:
            talk.gone = ConnectionResetError("the client has gone")
        with contextlib.suppress(asyncio.CancelledError, ValueError, OSError, CircuitOpen):
            await talk.task
        talk.disconnect()
        self.ends[self._end(talk)] = self.ends.get(self._end(talk), 0) + 1

    def _end(self, talk: Conversation) -> str:
        if talk.task.cancelled():
            return "cancelled"
        if talk.task.exception() is not None:
            return "raised"
        return "no answer" if talk.status is None else str(talk.status) if talk.is_complete else "cut off"

    async def run(self) -> None:
        """All requests, in waves, while the clock goes on."""
        clients = []
        for number in range(REQUESTS):
            talk = Conversation(self.app, kind="websocket" if number % 50 == 0 else "http").start()
            clients.append(asyncio.create_task(self.client(talk)))
            if self.random.random() < 0.5:
                await turns(3)
                self.clock.advance(self.random.random() * 0.02)
        while not all(client.done() for client in clients):
            self.clock.advance(0.05)
            await turns(5)
        await asyncio.gather(*clients)
