"""The store in Redis or Valkey, as one process sees it."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections import deque
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from resilience import store_timing
from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, to_us
from resilience.fleet_health import FleetHealthSignal
from resilience.layers.breaker.machine import Ticket
from resilience.layers.limiter.questions import Answer, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.registry import enrol
from resilience.stores.redis.courier import EVERY_US, Courier
from resilience.stores.redis.lanes import MOST_TOGETHER, LoopLane, ThreadLane
from resilience.stores.redis.leases import Leases
from resilience.stores.redis.lines import Lines, Trouble
from resilience.stores.redis.scripts import Questions, Renewal, channel
from resilience.stores.settings import RedisStoreSettings
from resilience.stores.trouble import RETRY_US, StoreBreaker

_MOST_RETURNS: Final = 10_000
"""Returns that wait for the thread; beyond, tokens stay spent."""


class RedisStore:
    """Buckets and board of one server. Nothing is connected until somebody asks."""

    kind = "redis"
    needs_io = True

    def __init__(self, settings: RedisStoreSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.clock = clock
        self.timeout_us = to_us(settings.timeout_s)
        self.breaker = StoreBreaker(self.kind, SYSTEM_CLOCK)
        self.workers = 1
        self.offset_us = 0
        self._lines = Lines(settings)
        self._threads = ThreadLane(self, self._lines)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLane] = WeakKeyDictionary()
        self._courier = Courier(self._errand, self._hear, self._heard)
        self._leases = None if settings.mode == "strict" else Leases(lambda: self.workers, self._courier.wake, self._return)
        self._returns: deque[Take] = deque(maxlen=_MOST_RETURNS)
        self._signals: tuple[FleetHealthSignal, ...] = ()  # replaced under the lock, never mutated
        self._left: tuple[FleetHealthSignal, ...] = ()
        self._lock = threading.Lock()
        self._process = _new_name()
        self._decides = False
        self._renewed_us = -EVERY_US
        self._wants_renewal = False
        self._subscription: tuple[Any, Any] | None = None
        enrol(self)

    @property
    def buckets(self) -> RedisStore:
        """What limiters ask."""
        return self

    # --- buckets -------------------------------------------------------------------------------------------------------------

    def take(self, question: Take) -> Answer | None:
        """Answer from a lease, or that the server is away; else None: ask."""
        if not self._decides:
            self._begin()
        if self._leases is not None:
            answer = self._leases.take(question, SYSTEM_CLOCK.now_us())
            if answer is not None:
                return answer
        return None if self.breaker.is_closed else self.breaker.away()

    def ask(self, question: Take) -> Answer:
        """Answer, blocking this thread."""
        if self._leases is None:
            return self._threads.ask(question)
        is_ahead = self._leases.ahead(question, SYSTEM_CLOCK.now_us())
        answer: Answer = self.breaker.away()
        try:
            answer = self._threads.ask(question)
        finally:
            answer = self._leases.keep(question, answer, SYSTEM_CLOCK.now_us(), is_ahead=is_ahead)
        return answer

    async def aask(self, question: Take) -> Answer:
        """Answer, suspending this task."""
        loop = asyncio.get_running_loop()
        lane = self._loops.get(loop)
        if lane is None:
            lane = self._loops[loop] = LoopLane(self, loop)
        if self._leases is None:
            return await lane.ask(question)
        is_ahead = self._leases.ahead(question, SYSTEM_CLOCK.now_us())
        answer: Answer = self.breaker.away()
        try:
            answer = await lane.ask(question)
        finally:
            answer = self._leases.keep(question, answer, SYSTEM_CLOCK.now_us(), is_ahead=is_ahead)
        return answer

    def prepare(self, limit: str, max_keys: int | None) -> None:
        """Nothing to do: the server keeps what it is asked about."""

    def owe(self, question: Take, tokens: int) -> None:
        """Not taken later: while the store was away, its buckets filled no further than full."""

    def give_back(self, question: Take, decided: Decided, due_us: int) -> None:
        """Return what was taken, unless `due_us` has passed by then."""
        self._return(question, decided.taken, due_us)

    def heard(self, instant_us: int) -> None:
        """The server has told the time with an answer: good enough until the thread has measured it."""
        if not self.offset_us:
            self.offset_us = instant_us - self.clock.now_us()

    def _return(self, question: Take, tokens: int, due_us: int = 0) -> None:
        self._returns.append(Take(question.limit, question.key, question.pace, question.fresh_units, -tokens, due_us))
        self._courier.ensure()
        self._courier.wake()

    def _begin(self) -> None:
        """This process decides from now on, and counts as a worker."""
        self._decides = True
        self.wake()

    # --- health --------------------------------------------------------------------------------------------------------------

    def join(self, signal: FleetHealthSignal) -> None:
        """Keep a signal and the board in step from now on."""
        with self._lock:
            if signal not in self._signals:
                self._signals = (*self._signals, signal)
        self.wake()

    def leave(self, signal: FleetHealthSignal) -> None:
        """No more; the mark of a signal that goes is taken back by the next errand."""
        with self._lock:
            self._signals = tuple(kept for kept in self._signals if kept is not signal)
            self._left = (*self._left, signal)
        self.wake()

    def wake(self) -> None:
        """There is something to tell the board."""
        self._wants_renewal = True
        self._courier.ensure()
        self._courier.wake()

    # --- in the thread -------------------------------------------------------------------------------------------------------

    def _errand(self) -> int:
        """All that is due. Returns the microseconds until more is."""
        now_us = SYSTEM_CLOCK.now_us()
        if not self.breaker.is_closed:
            return self._probe()
        self._trade(now_us)
        if self._wants_renewal or now_us - self._renewed_us >= EVERY_US:
            self._renew()
        if self._leases is not None:
            self._leases.lapse(now_us)
        if self._returns:
            return 0
        return self._renewed_us + EVERY_US - SYSTEM_CLOCK.now_us()

    def _probe(self) -> int:
        """See whether the server is back. It is asked what it would be asked anyway."""
        ticket = self.breaker.admit_probe()
        if ticket is not None:
            self._renew(ticket)
        return 0 if self.breaker.is_closed else RETRY_US // 4

    def _trade(self, now_us: int) -> None:
        """Bring back what is returned, and fetch what runs low."""
        returned = [self._returns.popleft() for _ in range(min(len(self._returns), MOST_TOGETHER))]
        wanted = [] if self._leases is None else self._leases.questions(now_us)
        asked = returned + wanted
        for first in range(0, len(asked), MOST_TOGETHER):
            batch = asked[first : first + MOST_TOGETHER]
            answers = self._decided(batch)
            for question, answer in zip(batch, answers, strict=True):
                if question.least > 0 and self._leases is not None:
                    self._leases.fill(question, answer, SYSTEM_CLOCK.now_us())

    def _decided(self, batch: list[Take]) -> list[Answer]:
        questions = Questions(self.settings.name, batch)
        reply = self._trip(self.breaker.admit(), questions.call(), partial(questions.call, whole=True))
        if reply is None:
            return [self.breaker.away() for _ in batch]
        return list(questions.answers(reply))

    def _renew(self, ticket: Ticket | None = None) -> None:
        """Tell the board what there is to tell, and take over what it says: as often as that makes more to tell."""
        for _ in range(3):
            self._wants_renewal = False
            with self._lock:
                signals, left, self._left = self._signals, self._left, ()
            began_us = self.clock.now_us()
            marks = [(signal, *signal.mark(began_us)) for signal in signals]
            gone = [(signal.name, signal.mark(began_us)[0]._replace(is_open=False)) for signal in left]
            renewal = Renewal(
                self.settings.name, self._process, int(self._decides), [(signal.name, mark) for signal, mark, _ in marks] + gone
            )
            reply = self._trip(ticket or self.breaker.admit(), renewal.call(), partial(renewal.call, whole=True))
            ticket = None
            if reply is None:
                for signal in signals:
                    signal.away(self.clock.now_us())
                return
            self._renewed_us = SYSTEM_CLOCK.now_us()
            now_us = self.clock.now_us()
            store_us, workers, states = renewal.answers(reply)
            self.workers = max(1, workers)
            self.offset_us = store_us - (began_us + now_us) // 2
            followed = [
                signal.follow(state, openings, now_us, self.offset_us)
                for (signal, _, openings), state in zip(marks, states, strict=False)
            ]
            if all(followed):
                return

    def _trip(self, ticket: Ticket | None, command: bytes, whole: Any) -> bytes | None:
        if ticket is None:
            return None
        began_us = SYSTEM_CLOCK.now_us()
        try:
            reply = self._lines.trip(command, self.timeout_us, whole, is_patient=True)
        except Trouble as trouble:
            self.breaker.settle(ticket, str(trouble))
            store_timing.record((SYSTEM_CLOCK.now_us() - began_us) / US_PER_S, self.kind, "failed")
            return None
        except BaseException:
            self.breaker.ignore(ticket)
            raise
        self.breaker.settle(ticket, None)
        store_timing.record((SYSTEM_CLOCK.now_us() - began_us) / US_PER_S, self.kind, "ok")
        return reply

    def _hear(self) -> Any:
        """The socket on which the board's changes are told, while the server answers and there are signals."""
        if not self._signals or not self.breaker.is_closed:
            self._unsubscribe()
            return None
        if self._subscription is None:
            try:
                self._subscription = self._lines.subscribed(channel(self.settings.name))
            except Trouble:
                return None
        return self._subscription[1]

    def _heard(self, is_open: bool) -> None:
        self._wants_renewal = True
        if not is_open:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription[0].disconnect()

    # --- its end, and forks -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what others can use, and end the thread and the connections."""
        self._courier.stop()
        if self._leases is not None:
            self._leases.give_all_back()
        if self.breaker.is_closed and (self._decides or self._signals or self._left):
            self._trade(SYSTEM_CLOCK.now_us())
            renewal = Renewal(self.settings.name, self._process, -1, self._last_marks())
            self._trip(self.breaker.admit(), renewal.call(), partial(renewal.call, whole=True))
        self._unsubscribe()
        self._lines.close()

    def _last_marks(self) -> list[Any]:
        now_us = self.clock.now_us()
        return [(signal.name, signal.mark(now_us)[0]._replace(is_open=False)) for signal in (*self._signals, *self._left)]

    def renew_locks(self) -> None:
        """In a forked child: threads, connections and leases are the parent's."""
        self._lock = threading.Lock()
        self._process = _new_name()
        self._decides = False
        self._subscription = None
        self._returns = deque(maxlen=_MOST_RETURNS)
        self._loops = WeakKeyDictionary()
        self.breaker.renew_locks()
        self._lines.forget()
        self._threads.renew_locks()
        if self._leases is not None:
            self._leases.forget()
        self._courier.renew_locks()

    def resume(self) -> None:
        """In a forked child, once nothing there waits for the parent's locks."""
        if self._signals:
            self.wake()

    def status(self) -> dict[str, Any]:
        """What an operator wants to see: no address."""
        return {
            "kind": self.kind,
            "mode": self.settings.mode,
            "state": self.breaker.state,
            "failures": self.breaker.failures,
            "last_failure": self.breaker.reason or None,
            "workers": self.workers,
            "leases": 0 if self._leases is None else len(self._leases),
        }


def _new_name() -> str:
    """What this process is called on the board: no two have the same, and none learns anything from it."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:16]}"
