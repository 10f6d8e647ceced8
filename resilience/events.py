"""What happened: state changes that layers return and that are handed to observers once every lock is released."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

log = logging.getLogger("resilience")


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A circuit breaker changed its state. `key` names one of a keyed breaker's, hashed where it came from a client."""

    policy: str
    key: str | None
    old: str
    new: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A health signal's factor moved. `reason` is "incident", "recovery" or "settings"."""

    signal: str
    old_factor: float
    factor: float
    reason: str


@dataclass(frozen=True, slots=True)
class ConfigLoaded:
    """A configuration file was read and is in force.

    `added` policies start fresh, `removed` ones end with the calls under way; `restarted` says which ones lost a part of their
    state though they keep their name, and why.
    """

    path: str
    sha256: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """A configuration file could not be used; `error` says why, a line a problem, and how many more there are after twenty."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class StoreChanged:
    """A shared store stopped answering this process, or answers again. `store` is its kind, such as "redis"."""

    store: str
    answers: bool
    reason: str


Event = BreakerChanged | HealthChanged | ConfigLoaded | ConfigRefused | StoreChanged


class Observer(Protocol):
    """Is told of every event of this process, in the thread where it happened. It should be quick and must not raise."""

    def on_event(self, event: Event) -> None:
        """Take note of `event`."""


NO_EVENTS: Final[tuple[Event, ...]] = ()
_observers: tuple[Observer, ...] = ()  # replaced under the lock, never mutated: emit needs none
_lock = threading.Lock()
_waiting = threading.local()


def subscribe(observer: Observer) -> Callable[[], None]:
    """Tell `observer` of every event from now on. Returns a function that ends it."""
    global _observers
    with _lock:
        _observers = (*_observers, observer)

    def unsubscribe() -> None:
        _drop(observer)

    return unsubscribe


@contextmanager
def held_back() -> Iterator[None]:
    """Keep what happens in this thread from the observers until the block is left; for those who change much under a lock."""
    if getattr(_waiting, "events", None) is not None:
        yield
        return
    events: list[Event] = []
    _waiting.events = events
    try:
        yield
    finally:
        _waiting.events = None
        emit(events)


@contextmanager
def untold() -> Iterator[None]:
    """Tell nobody what happens in this thread within the block; for those who tell it in words of their own."""
    held = getattr(_waiting, "events", None)
    _waiting.events = []
    try:
        yield
    finally:
        _waiting.events = held


def emit(events: Iterable[Event]) -> None:
    """Hand events to all observers. One that raises is logged once and dropped; it never changes a decision."""
    waiting: list[Event] | None = getattr(_waiting, "events", None)
    if waiting is not None:
        waiting.extend(events)
        return
    for event in events:
        for observer in _observers:
            try:
                observer.on_event(event)
            except Exception:
                if _drop(observer):
                    log.exception("the observer %r raised on %s and is told nothing more", observer, type(event).__name__)


def _drop(observer: Observer) -> bool:
    """Tell `observer` nothing more. False: somebody has dropped it already."""
    global _observers
    with _lock:
        count = len(_observers)
        _observers = tuple(kept for kept in _observers if kept is not observer)
        return len(_observers) < count


def _renew_lock() -> None:
    global _lock  # the old one may be held by a thread that is not here
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
