"""What a shared store is to a toolkit: buckets for its limiters, and a board for its health signals."""

from __future__ import annotations

from typing import Any, Final, Protocol

from resilience.fleet_health import FleetHealthSignal, Wakes
from resilience.layers.limiter.questions import Buckets
from resilience.stores.settings import HostStoreSettings, RedisStoreSettings

STORE_THREAD: Final = "resilience-store"
"""What the thread of a store is called."""
CONNECT_THREAD: Final = "resilience-store-connect"
"""What the thread is called that makes a connection for a call."""
LANE_TASK: Final = "resilience-store-lane"
"""What the task is called that makes an event loop's trips to a store."""


class SharedStore(Wakes, Protocol):
    """A store of the host or of a fleet, alive in this process. `open_store` makes one; all that have the same settings share it.

    kind: "host" or "redis". settings: what it was opened with. buckets: what limiters ask.
    """

    kind: str

    @property
    def settings(self) -> HostStoreSettings | RedisStoreSettings: ...

    @property
    def buckets(self) -> Buckets: ...

    def join(self, signal: FleetHealthSignal) -> None:
        """Carry the marks of a signal to the board and the board's state to it, from now on: once a second, and when woken."""

    def leave(self, signal: FleetHealthSignal) -> None:
        """No more. A mark of its is taken back."""

    def resume(self) -> None:
        """In a forked child, once nothing there waits for the parent's locks: go on as a process of its own."""

    def close(self) -> None:
        """End its threads and connections; what it holds that others could use is given back."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see: no address, no password."""
