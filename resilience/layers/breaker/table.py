"""Breakers by key, bounded: the one longest unused goes first, and gives back the signal if it holds it."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence

from resilience.call import Decision
from resilience.events import NO_EVENTS, Event, emit
from resilience.layers.breaker.machine import Machine

_LOOK_AT = 8


class MachineTable:
    """At most `max_keys` machines, made on demand.

    An idle one is forgotten first (nothing is lost); if none of the longest unused is idle, the longest unused goes.
    """

    def __init__(self, make: Callable[[str, int], tuple[Machine, list[Event]]], max_keys: int) -> None:
        self._lock = threading.Lock()
        self._machines: OrderedDict[str, Machine] = OrderedDict()
        self._make = make
        self._max_keys = max_keys
        self._latest: Machine | None = None
        self.forgotten: Counter[Decision] = Counter()
        """What the machines decided that are no longer kept: a count must never fall."""

    def get(self, key: str, now_us: int) -> Machine:
        """The machine of `key`."""
        latest = self._latest
        if latest is not None and latest.key == key:  # it stands last already: nothing moves, and so nothing is locked
            return latest
        evicted: list[Machine] = []
        events: Sequence[Event] = NO_EVENTS
        with self._lock:
            machine = self._machines.get(key)
            if machine is None:
                # No more than a few, however much smaller the table has to become: each goes under the lock that all calls take.
                while len(self._machines) >= self._max_keys and len(evicted) < _LOOK_AT:
                    evicted.append(self._machines.pop(self._victim(now_us)))
                machine, events = self._make(key, now_us)
                self._machines[key] = machine
            else:
                self._machines.move_to_end(key)
            self._latest = machine
            for old in evicted:
                self.forgotten.update(old.decisions())
        for old in evicted:
            old.retire(now_us)
        emit(events)
        return machine

    def _victim(self, now_us: int) -> str:
        oldest = [key for key, _ in zip(self._machines, range(_LOOK_AT), strict=False)]
        return next((key for key in oldest if self._machines[key].is_idle(now_us)), oldest[0])

    def resize(self, max_keys: int) -> None:
        """Keep at most `max_keys` from the next new keys on: each of them takes the place of a few."""
        self._max_keys = max_keys

    def clear(self, now_us: int) -> None:
        """Forget all of them. What they decided stays counted."""
        with self._lock:
            forgotten = list(self._machines.values())
            self._machines.clear()
            self._latest = None
            for machine in forgotten:
                self.forgotten.update(machine.decisions())
        for machine in forgotten:
            machine.retire(now_us)

    def renew_lock(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Machine]:
        with self._lock:
            return iter(list(self._machines.values()))

    def __len__(self) -> int:
        return len(self._machines)
