"""One server, as one process knows it: its connections, the breaker in front of it, and who waits for its answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from resilience import store_timing
from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.layers.breaker.machine import Ticket
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import UNIT, Pace
from resilience.stores.redis.bundle import Bundle
from resilience.stores.redis.exchange import Sends
from resilience.stores.redis.lanes import LoopLane, ThreadLane, Waits
from resilience.stores.redis.lines import Lines
from resilience.stores.redis.replies import Address, Reply, Trouble
from resilience.stores.trouble import StoreBreaker

_PROBE = Pace(0, 1, 1, UNIT)
"""One token a second: what a probe writes is forgotten two seconds later."""


class Node:
    """The one server of a store, or a node of its cluster, which `address` says."""

    def __init__(self, store: Waits, address: Address | None = None) -> None:
        self._store = store
        self.address = address
        self.breaker = StoreBreaker("redis", SYSTEM_CLOCK)
        self.lines = Lines(store.settings, address)
        self.threads = ThreadLane(store, self)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLane] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._failed: Take | None = None
        self.label = ""

    def call_it(self, label: str) -> None:
        """What people read where it is told of trouble: no address."""
        self.label = label
        self.breaker.whose = f"node {label}: "

    def lane_of(self, loop: asyncio.AbstractEventLoop) -> LoopLane:
        """Where the tasks of an event loop wait."""
        lane = self._loops.get(loop)
        if lane is None:
            with self._lock:
                for old in [old for old in self._loops if old.is_closed()]:
                    del self._loops[old]
                lane = self._loops[loop] = LoopLane(self._store, self, loop)
        return lane

    def failed(self, questions: Sequence[Take]) -> None:
        """A trip of a call has failed."""
        self._failed = questions[0]
        self._store.missed()

    # --- in the store's thread -------------------------------------------------------------------------------------------------

    def trip(self, ticket: Ticket | None, calls: Sequence[Sends]) -> list[Reply] | None:
        """A trip of the store's own thread. None: it has brought nothing."""
        if ticket is None:
            return None
        began_us = SYSTEM_CLOCK.now_us()
        try:
            replies = self.lines.trip(calls, self._store.timeout_us, is_patient=True)
        except Trouble as trouble:
            self.breaker.settle(ticket, str(trouble))
            store_timing.record((SYSTEM_CLOCK.now_us() - began_us) / US_PER_S, "redis", "failed")
            self._store.missed()
            return None
        except BaseException:
            self.breaker.ignore(ticket)
            raise
        self.breaker.settle(ticket, None)
        store_timing.record((SYSTEM_CLOCK.now_us() - began_us) / US_PER_S, "redis", "ok")
        return replies

    def probe(self, ticket: Ticket) -> None:
        """See whether it is back: take a token where it failed to be taken, of a bucket that nobody else has."""
        failed = self._failed
        if failed is None:
            self.breaker.settle(ticket, None)
            return
        question = Take(failed.limit, failed.key, _PROBE, UNIT, 1)
        question.place = failed.place
        self.trip(ticket, Bundle(f"{self._store.settings.name}:probe", [question]).calls)

    # --- its end, and forks ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close what is at rest. Who waits is answered still."""
        with self._lock:
            lanes = list(self._loops.values())
        for lane in lanes:
            lane.end()
        self.lines.close()

    def renew_locks(self) -> None:
        """In a forked child: connections, and who waits, are the parent's."""
        self._lock = threading.Lock()
        self._loops = WeakKeyDictionary()
        self.breaker.renew_locks()
        self.lines.forget()
        self.threads.renew_locks()

    def status(self) -> dict[str, Any]:
        """What an operator wants to see: no address."""
        return {
            "state": self.breaker.state,
            "failures": self.breaker.failures,
            "last_failure": self.breaker.reason or None,
        }
