"""An application whose answers say which configuration guarded them, for servers with many processes.

Every process notes in the file RESILIENCE_NOTES when it has loaded which configuration.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import Any

import resilience
from resilience import ConfigLoaded, Event, current_deadline
from resilience.integrations.asgi import ResilienceMiddleware

_WORK_S = 0.01  # so that requests at the same time spread over the workers

TEXT = """\
version: 1
deadlines:
  api: {{default: {number}s}}
limiters:
  api: {{rate: {number}/s, burst: {number}, fields: always}}
  tight: {{rate: {tight}, burst: {burst}, fields: always}}
pipelines:
  api: [{{deadline: api}}, {{limiter: api}}]
  tight: [{{deadline: api}}, {{limiter: tight}}]
routes:
  - {{match: {{path: /tight}}, pipeline: tight}}
  - {{match: {{path: "/**"}}, pipeline: api}}
"""
FIRST = 20_000
"""The number of the first configuration: more requests in a second than any test sends."""


def is_shut(number: int) -> bool:
    """Whether the configuration of that number shuts /tight. Half of them do, also of those that a look a second sees."""
    return number % 4 in (1, 2)


def text_of(number: int) -> bytes:
    """A configuration that puts `number` into two values."""
    tight, burst = ("1/h", 1) if is_shut(number) else ("10000/s", 10_000)
    return TEXT.format(number=number, tight=tight, burst=burst).encode()


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the process's id and the deadline that the call was given, in whole seconds."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    await asyncio.sleep(_WORK_S)
    deadline = current_deadline()
    given_s = 0 if deadline is None else math.ceil(deadline.remaining_s())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {given_s}".encode()})


class Notes:
    """Writes down what this process has loaded, and when."""

    def on_event(self, event: Event) -> None:
        if isinstance(event, ConfigLoaded):
            with open(os.environ["RESILIENCE_NOTES"], "a", encoding="utf-8") as notes:  # noqa: PTH123 - appended in one write
                notes.write(f"{os.getpid()} {time.monotonic()} {event.sha256}\n")


def create_app() -> ResilienceMiddleware:
    """The application, guarded by the file RESILIENCE_CONFIG."""
    resilience.subscribe(Notes())
    return ResilienceMiddleware(tell, config=os.environ["RESILIENCE_CONFIG"])


if "RESILIENCE_CONFIG" in os.environ:
    app = create_app()  # at import: a server that preloads has it in the process that its workers are forked from
