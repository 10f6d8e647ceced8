"""What a new configuration means for the state that was kept under the old one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resilience.config.document import Document
from resilience.layers.breaker.settings import CircuitBreakerSettings
from resilience.stores.settings import StoreSettings

_KINDS: Final = (
    ("health signal", "health"),
    ("deadline", "deadlines"),
    ("limiter", "limiters"),
    ("breaker", "breakers"),
    ("retry", "retries"),
    ("pool", "pools"),
)


@dataclass(frozen=True, slots=True)
class Differences:
    """What does not simply go on, one text each.

    Attributes:
        added: policies whose state starts fresh.
        removed: policies whose state is given up once the calls under way have ended.
        restarted: policies that keep their name, but not all of their state, and why.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    restarted: tuple[str, ...]


def differences(old: Document, new: Document) -> Differences:
    """Compare two documents. State goes by kind and name, so a policy with a new name is removed and added."""
    added, removed = [], []
    for noun, section in _KINDS:
        before: Mapping[str, Any] = getattr(old, section)
        after: Mapping[str, Any] = getattr(new, section)
        added += [f"{noun} {name}" for name in after if name not in before]
        removed += [f"{noun} {name}" for name in before if name not in after]
    return Differences(tuple(added), tuple(removed), tuple(_restarted(old, new)))


def _restarted(old: Document, new: Document) -> Iterator[str]:
    for name in new.health if old.store != new.store else ():
        if name in old.health:
            yield f"health signal {name}: {_store_change(old.store, new.store)}, it goes by what is there"
    for name in [name for name in new.limiters if name in old.limiters]:
        before, after = old.limiters[name].settings.key, new.limiters[name].settings.key
        if old.limiters[name].store != new.limiters[name].store:
            yield f"limiter {name}: {_store_change(old.limiters[name].store, new.limiters[name].store)}, it goes by what is there"
        elif before != after:
            yield f"limiter {name}: key {before or 'none'} -> {after or 'none'}, each bucket starts full"
    for name in [name for name in new.breakers if name in old.breakers]:
        one, other = old.breakers[name].settings, new.breakers[name].settings
        if one.key != other.key:
            yield f"breaker {name}: key {one.key or 'none'} -> {other.key or 'none'}, each breaker starts closed"
        elif _window(one) != _window(other):
            yield f"breaker {name}: window {_window(one)} -> {_window(other)}, it starts empty"


def _store_change(old: StoreSettings, new: StoreSettings) -> str:
    """What became of a store in words; its address may hold a password."""
    return f"store {old.kind} -> {new.kind}" if old.kind != new.kind else f"other settings of store {new.kind}"


def _window(settings: CircuitBreakerSettings) -> str:
    return f"{settings.window_s:g} s" if settings.window_calls is None else f"{settings.window_calls} calls"
