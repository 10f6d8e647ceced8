"""The shared stores that are alive in this process: one for all users of the same settings."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass, field
from typing import Final

from resilience.clock import SYSTEM_CLOCK, Clock
from resilience.errors import ConfigError
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, HealthSignal
from resilience.stores.base import SharedStore
from resilience.stores.settings import HostStoreSettings, RedisStoreSettings

SharedStoreSettings = HostStoreSettings | RedisStoreSettings


@dataclass(slots=True)
class _Used:
    """A store, how many use it, and the signals that code has asked for."""

    store: SharedStore
    users: int = 0
    signals: dict[str, FleetHealthSignal] = field(default_factory=dict)


_lock = threading.Lock()
_used: Final[dict[tuple[SharedStoreSettings, Clock], _Used]] = {}


def open_store(settings: SharedStoreSettings, clock: Clock = SYSTEM_CLOCK) -> SharedStore:
    """The live store of these settings, for one more user; `give_up` ends that use. Nothing is connected until it is asked.

    Args:
        settings: a `RedisStoreSettings`, or a `HostStoreSettings` with a name; those of one name share limits and health.
        clock: where time comes from.

    Raises:
        ConfigError: what the store needs is not installed, or its URL cannot be read.
        ValueError: these are no settings of a shared store, or a store of the host has no name.
    """
    if not isinstance(settings, SharedStoreSettings):  # only its class is told: a URL may hold a password
        raise ValueError(
            f"open_store: must be given a RedisStoreSettings or a HostStoreSettings, such as RedisStoreSettings(url), "
            f"got {type(settings).__name__}"
        )
    if isinstance(settings, HostStoreSettings) and settings.name is None:
        raise ValueError("HostStoreSettings.name: must be given where no configuration file gives it one")
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


def shared_health(
    store: SharedStore,
    *,
    cut: float = 0.7,
    recover: float = 0.05,
    every_s: float = 60.0,
    floor: float | None = None,
    name: str = "default",
    clock: Clock = SYSTEM_CLOCK,
) -> HealthSignal:
    """The health signal of this name that all processes share which open the store. It lives until the store is given up.

    Args:
        store: what `open_store` has opened. Its settings say how many processes must have a breaker open (`quorum`).
        cut, recover, every_s, floor, name, clock: as of `HealthSignal`. Asked for again, a signal goes by what is said last.

    Raises:
        ValueError: a setting is out of range, it has no name, or the store has been given up.
    """
    _check_name(name)
    settings = HealthSettings(cut, recover, every_s, floor)
    with _lock:
        used = next((found for found in _used.values() if found.store is store), None)
        if used is None:
            raise ValueError("the store is not open: all who have opened it have given it up")
        signal = used.signals.get(name)
        if signal is None:
            quorum = store.settings.quorum
            signal = used.signals[name] = FleetHealthSignal(store, quorum=quorum, settings=settings, name=name, clock=clock)
    signal.configure(settings)
    store.join(signal)
    return signal


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"shared_health.name: must be text, got {name!r}")


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
