"""The shared stores that are alive in this process: one for all users of the same settings."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass
from typing import Final

from resilience.clock import Clock
from resilience.errors import ConfigError
from resilience.stores.base import SharedStore
from resilience.stores.settings import HostStoreSettings, RedisStoreSettings

SharedStoreSettings = HostStoreSettings | RedisStoreSettings


@dataclass(slots=True)
class _Used:
    """A store, and how many use it."""

    store: SharedStore
    users: int = 0


_lock = threading.Lock()
_used: Final[dict[tuple[SharedStoreSettings, Clock], _Used]] = {}


def open_store(settings: SharedStoreSettings, clock: Clock) -> SharedStore:
    """The live store of these settings, for one more user; `give_up` ends that use. Nothing is connected until it is asked.

    Raises:
        ConfigError: what the store needs is not installed.
    """
    with _lock:
        found = _used.get((settings, clock))
        if found is None:
            found = _used[settings, clock] = _Used(_make(settings, clock))
        found.users += 1
        return found.store


def give_up(store: SharedStore) -> None:
    """End one use; the last one closes the store."""
    with _lock:
        for made_for, found in list(_used.items()):
            if found.store is store:
                found.users -= 1
                if found.users > 0:
                    return
                del _used[made_for]
    store.close()


def _make(settings: SharedStoreSettings, clock: Clock) -> SharedStore:
    if isinstance(settings, HostStoreSettings):
        try:
            from resilience.stores.host import HostStore  # noqa: PLC0415  # needs what Windows has not
        except ImportError as error:
            raise ConfigError(f"the store host is for Linux and macOS: {error}; write store: process") from error
        return HostStore(settings, clock)
    from resilience.stores.redis import RedisStore  # noqa: PLC0415  # its client is an extra

    return RedisStore(settings, clock)


def _after_fork_in_child() -> None:
    """Runs after the registry has renewed the locks of all stores and signals, since that was imported before."""
    global _lock  # noqa: PLW0603  # the old one may be held by a thread that is not here
    _lock = threading.Lock()
    for found in _used.values():
        found.store.resume()


def _close_all() -> None:
    """The interpreter is about to end: others need not wait until marks and leases of this process lapse."""
    with _lock:
        stores = [found.store for found in _used.values()]
        _used.clear()
    for store in stores:
        store.close()


atexit.register(_close_all)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
