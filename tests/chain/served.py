"""What both kinds of service have in common. The environment says what each of them is: see `hops`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from resilience import Toolkit
from tests.chain.hops import DEADLINE

SEEN: Final = "/-/seen"
CONFIG: Final = os.environ.get("HOP_CONFIG", "")
NEXT: Final = os.environ.get("HOP_NEXT", "")
DEGRADES: Final = bool(os.environ.get("HOP_DEGRADES"))
PASSED_ON: Final = ("idempotency-key", "x-work-ms")
METHODS: Final = ["GET", "PUT", "POST"]

ALONE: Final = (200, b"the last one")
DEGRADED: Final = (200, b"without the next one")
UNREACHABLE: Final = (502, b"the next one cannot be reached")


class Seen:
    """What reached the application of this process."""

    def __init__(self, toolkit: Toolkit) -> None:
        self._toolkit = toolkit
        self._deadlines: list[str | None] = []

    def note(self, header: Callable[[str], str | None]) -> dict[str, str]:
        """Note one request. Returns the headers that it passes on. Its deadline is not among them: that is the client's work."""
        self._deadlines.append(header(DEADLINE))
        found = ((name, header(name)) for name in PASSED_ON)
        return {name: value for name, value in found if value is not None}

    def document(self) -> dict[str, Any]:
        """All of it."""
        return {"deadlines": self._deadlines, "status": self._toolkit.status()}


def passed_on(status: int, body: bytes) -> tuple[int, bytes]:
    """How a service answers when the next one has answered so."""
    return DEGRADED if DEGRADES and status >= 500 else (status, body)
