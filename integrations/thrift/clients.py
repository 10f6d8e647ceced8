"""Clients of one Thrift service: each is one connection, and serves one call at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Clients:
    """Connections that are free, the one used last first; made as they are needed.

    Args:
        connect: opens one more.
        most_idle: how many free ones are kept open.
    """

    def __init__(self, connect: Callable[[], Any], most_idle: int) -> None:
        self._connect = connect
        self._most_idle = most_idle
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self) -> Any:
        """One that is free, or a new one. Raises what `connect` raises."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def give_back(self, client: Any) -> None:
        """Its call has ended with a whole answer."""
        with self._lock:
            if not self._is_closed and len(self._idle) < self._most_idle:
                self._idle.append(client)
                return
        self.drop(client)

    def drop(self, client: Any) -> None:
        """Its call has not: what comes over it now would be taken for the answer to the next."""
        with contextlib.suppress(Exception):
            client.close()

    def close(self) -> None:
        """Close those that are free now, and the others when their call has ended."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            self.drop(client)


def bound(client: Any, timeout_s: float | None) -> None:
    """Let each wait for bytes of `client` end after `timeout_s`; None: after whatever it was made with."""
    transport: Any = client._iprot.trans  # noqa: SLF001  # thriftpy2 has no other way to a client's socket
    within: Any = getattr(transport, "_trans", transport)
    sock: Any = getattr(within, "sock", None)
    if sock is not None and timeout_s is not None:
        sock.settimeout(timeout_s)
