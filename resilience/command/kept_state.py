"""What becomes of a policy's state when a configuration changes, in sentences for the person who is about to change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from resilience.config import BreakerEntry, LimiterEntry, PoolEntry

Keys = set[str]

_REMOVED: Final[Mapping[str, str]] = {
    "health signal": "an incident on it ends with it",
    "deadline": "calls under way keep their deadline",
    "limiter": "drains: calls that wait in it keep their turn; its buckets are given up",
    "breaker": "drains: calls under way settle as they began; if it is open, its signal is let go",
    "retry": "drains: calls under way go on as they began; its budget is given up",
    "pool": "goes on under the settings it has until the code that made it drains it; it can be asked for no more",
}
_ADDED: Final[Mapping[str, str]] = {
    "health signal": "starts at 100 %",
    "deadline": "holds for calls that begin from now on",
    "limiter": "starts fresh: every bucket is full",
    "breaker": "starts fresh: closed, with an empty window",
    "retry": "starts fresh: the budget is full",
    "pool": "starts with min_workers when code asks for it",
}


def state_of_removed(noun: str) -> tuple[str, ...]:
    """What becomes of the state of a policy that the new file does not name."""
    return (_REMOVED[noun],)


def state_of_added(noun: str, entry: Any, alike: Sequence[str]) -> tuple[str, ...]:
    """With what state a new policy starts. `alike`: removed policies of the same settings, which it may have been renamed from."""
    if noun == "breaker" and entry.settings.force is not None:
        sentences = [f"starts held {entry.settings.force}"]
        if entry.settings.force == "open" and _written(entry) is not None:
            sentences.append(f"that counts as an opening on {_written(entry)}")
    else:
        sentences = [_ADDED[noun]]
    if alike:
        sentences.append(f"if {alike[0]} was renamed to this: the state does not come along, for it goes by the name")
    return tuple(sentences)


def state_of_changed(noun: str, old: Any, new: Any, keys: Keys) -> tuple[str, ...]:
    """What becomes of the state of a policy whose settings `keys` change."""
    return tuple(_CHANGED[noun](old, new, keys))


def _of_health(old: Any, new: Any, keys: Keys) -> Iterator[str]:
    yield "the factor reached is kept; steps of recovery count from the change"
    if keys & {"cut", "floor"}:
        yield "cut and floor apply from the next incident"


def _of_deadline(old: Any, new: Any, keys: Keys) -> Iterator[str]:
    yield "calls under way keep their deadline"


def _of_limiter(old: LimiterEntry, new: LimiterEntry, keys: Keys) -> Iterator[str]:
    if "key" in keys:
        yield "calls are told apart in another way: each bucket starts full"
    elif new.settings.capacity < old.settings.capacity:
        yield f"bucket levels are kept; one above the new burst falls to {new.settings.capacity}"
    elif keys & {"rate", "burst"}:
        yield "bucket levels are kept; nothing is refilled"
    else:
        yield "bucket levels are kept"
    if "health" in keys:
        yield "it is not cut any more" if new.health is None else f"it goes by the factor of signal {new.health} at once"
    if "max_keys" in keys and new.settings.max_keys < old.settings.max_keys:
        yield "buckets beyond max_keys go as they become full"
    yield from _of_shadow(keys, is_on=new.settings.shadow)


def _of_breaker(old: BreakerEntry, new: BreakerEntry, keys: Keys) -> Iterator[str]:
    is_kept = not keys & {"key", "force"}
    yield _kept_of_breaker(new.settings.force, keys)
    if is_kept and new.settings.probes < old.settings.probes:
        yield "one that is half-open may be decided at once"
    if is_kept and keys & {"open_for", "open_growth", "open_max"}:
        yield "one that is open now stays so for the time it began with"
    yield from _of_signals(old, new, keys, is_kept=is_kept)
    yield from _of_shadow(keys, is_on=new.settings.shadow)


def _kept_of_breaker(force: str | None, keys: Keys) -> str:
    if "key" in keys:
        start = "closed, with an empty window" if force is None else f"held {force}"
        return f"calls are told apart in another way: each breaker starts {start}"
    if "force" in keys:
        return _of_force(force)
    if "window" in keys:
        return "the window restarts empty; state, open timer and probes are kept"
    return "window, state, open timer and probes are kept"


def _of_force(force: str | None) -> str:
    if force is None:
        return "let go: it is closed, with an empty window"
    refused = "refuses every call" if force == "open" else "refuses nothing"
    return f"held {force} at once: it {refused} until this is changed back"


def _of_signals(old: BreakerEntry, new: BreakerEntry, keys: Keys, *, is_kept: bool) -> Iterator[str]:
    """What the change is to the signals. A breaker that does not keep its state is open after it only where it is held so."""
    before, after, is_held = _written(old), _written(new), new.settings.force == "open"
    closes = before is not None and (before != after or not (is_kept or is_held))
    opens = after is not None and (before != after or "force" in keys)
    if "shadow" in keys and new.settings.shadow and new.health is not None:
        yield "in shadow it writes no signal"
    sides = [f"as a closing on {before}"] if closes else []
    sides += [f"as an opening on {after}"] if opens and is_kept and not is_held else []
    if sides:
        yield f"if it is open, that counts {' and '.join(sides)}"
    if opens and is_held:
        yield f"that counts as an opening on {after}"


def _written(entry: BreakerEntry) -> str | None:
    """The signal that the breaker can cut."""
    return None if entry.settings.shadow or entry.settings.force == "closed" else entry.health


def _of_retry(old: Any, new: Any, keys: Keys) -> Iterator[str]:
    yield "the budget keeps the share of its tokens that is left; calls under way go on as they began"


def _of_pool(old: PoolEntry, new: PoolEntry, keys: Keys) -> Iterator[str]:
    yield "tasks that wait keep their places, those at work go on"
    if keys & {"min_workers", "max_workers"}:
        size = f"{new.settings.min_workers} to {new.settings.max_workers}"
        yield f"the number of workers is brought to {size} at once; one that is to go ends with its task"
    if new.settings.queue < old.settings.queue:
        yield f"what waits beyond the new queue of {new.settings.queue} is kept; new tasks are refused until it is shorter"
    if keys & {"timeout", "pool_timeout"}:
        yield "tasks that were accepted keep the time they were given"
    if keys & {"pipeline", "failed"}:
        yield "holds for tasks that begin, or fail, from now on"


def _of_shadow(keys: Keys, *, is_on: bool) -> Iterator[str]:
    if "shadow" in keys:
        yield "from now on it refuses nothing, and counts what it would refuse" if is_on else "from now on it refuses"


_CHANGED: Final[Mapping[str, Callable[[Any, Any, Keys], Iterator[str]]]] = {
    "health signal": _of_health,
    "deadline": _of_deadline,
    "limiter": _of_limiter,
    "breaker": _of_breaker,
    "retry": _of_retry,
    "pool": _of_pool,
}
