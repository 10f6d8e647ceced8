"""The store in Redis or Valkey, one server or a cluster, as one process sees it."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, Clock, to_us
from resilience.fleet_health import FleetHealthSignal, Mark
from resilience.layers.breaker.machine import Ticket
from resilience.layers.limiter.questions import Answer, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.registry import enrol
from resilience.stores.redis.asking import NOBODY, Asking
from resilience.stores.redis.cluster import Cluster
from resilience.stores.redis.courier import EVERY_US, Courier
from resilience.stores.redis.lanes import MOST_TOGETHER
from resilience.stores.redis.leases import Leases
from resilience.stores.redis.node import Node
from resilience.stores.redis.replies import Elsewhere, Trouble
from resilience.stores.redis.scripts import Renewal, channel
from resilience.stores.redis.servers import MOST_HOPS, OneServer, Servers
from resilience.stores.settings import CLUSTERS, RedisStoreSettings
from resilience.stores.trouble import RETRY_US, StoreBreaker

_MOST_RETURNS: Final = 10_000
"""Returns that wait for the thread; beyond, tokens stay spent."""
_CLOSES_US: Final = 500_000


class RedisStore:
    """Buckets and board of one server or cluster. Nothing is connected until somebody asks."""

    kind = "redis"
    needs_io = True

    def __init__(self, settings: RedisStoreSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.clock = clock
        self.timeout_us = to_us(settings.timeout_s)
        self.workers = 1
        self.offset_us = 0
        self._courier = Courier(self._errand, self._hear, self._heard)
        self.servers: Servers
        if settings.url.startswith(CLUSTERS):
            self.servers = Cluster(settings, lambda address: Node(self, address), self._courier.wake)
        else:
            self.servers = OneServer(Node(self))
        self._asking = Asking(self, self.servers)
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
        self._subscribed_at: Node | None = None
        self._probed = 0
        enrol(self)

    @property
    def buckets(self) -> RedisStore:
        """What limiters ask."""
        return self

    @property
    def breaker(self) -> StoreBreaker:
        """The one of the server, or of the node of a cluster that keeps the board."""
        return self.servers.board.breaker

    # --- buckets -------------------------------------------------------------------------------------------------------------

    def take(self, question: Take) -> Answer | None:
        """Answer from a lease, or that the server is away; else None: ask."""
        if not self._decides:
            self._begin()
        if self._leases is not None:
            answer = self._leases.take(question, SYSTEM_CLOCK.now_us())
            if answer is not None:
                return answer
        node = self.servers.node_of(question)
        if node is None:
            return NOBODY
        return None if node.breaker.is_closed else node.breaker.away()

    def ask(self, question: Take) -> Answer:
        """Answer, blocking this thread."""
        if self._leases is None:
            return self._asking.ask(question)
        is_ahead = self._leases.ahead(question, SYSTEM_CLOCK.now_us())
        answer: Answer = self.breaker.away()
        try:
            answer = self._asking.ask(question)
        finally:
            answer = self._leases.keep(question, answer, SYSTEM_CLOCK.now_us(), is_ahead=is_ahead)
        return answer

    async def aask(self, question: Take) -> Answer:
        """Answer, suspending this task."""
        loop = asyncio.get_running_loop()
        if self._leases is None:
            return await self._asking.aask(question, loop)
        is_ahead = self._leases.ahead(question, SYSTEM_CLOCK.now_us())
        answer: Answer = self.breaker.away()
        try:
            answer = await self._asking.aask(question, loop)
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

    def missed(self) -> None:
        """A trip has brought nothing."""
        self.servers.missed()

    def _return(self, question: Take, tokens: int, due_us: int = 0) -> None:
        self._returns.append(Take(question.limit, question.key, question.pace, question.fresh_units, -tokens, due_us))
        self._courier.ensure()
        self._courier.wake()

    def _begin(self) -> None:
        """This process decides from now on, and counts as a worker. Without its thread it does not: that is tried again."""
        self._decides = self._courier.ensure()
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
        waits_us = [self.servers.look(now_us)]
        nodes = self.servers.nodes
        sick = [node for node in nodes if not node.breaker.is_closed]
        if sick:
            waits_us.append(self._probe(sick))
        if len(sick) == len(nodes):
            return min(waits_us)
        self._trade(now_us)
        if self._leases is not None:
            self._leases.lapse(now_us)
        if self.breaker.is_closed:
            if self._wants_renewal or now_us - self._renewed_us >= EVERY_US:
                self._renew()
            waits_us.append(self._renewed_us + EVERY_US - SYSTEM_CLOCK.now_us())
        return 0 if self._returns else min(waits_us)

    def _probe(self, sick: list[Node]) -> int:
        """See whether one of them is back, each in its turn. The board is asked what it would be asked anyway."""
        self._probed += 1
        node = sick[self._probed % len(sick)]
        ticket = node.breaker.admit_probe()
        if ticket is not None and node is self.servers.board:
            self._renew(ticket)
        elif ticket is not None:
            node.probe(ticket)
        return 0 if node.breaker.is_closed else RETRY_US // 4

    def _trade(self, now_us: int) -> None:
        """Bring back what is returned, and fetch what runs low."""
        returned = [self._returns.popleft() for _ in range(min(len(self._returns), MOST_TOGETHER))]
        wanted = [] if self._leases is None else self._leases.questions(now_us)
        asked = returned + wanted
        for first in range(0, len(asked), MOST_TOGETHER):
            batch = asked[first : first + MOST_TOGETHER]
            answers = self._asking.by_thread(batch)
            for question, answer in zip(batch, answers, strict=True):
                if question.least > 0 and self._leases is not None:
                    self._leases.fill(question, answer, SYSTEM_CLOCK.now_us())

    def _renew(self, ticket: Ticket | None = None) -> None:
        """Tell the board what there is to tell, and take over what it says: as often as that makes more to tell."""
        for _ in range(3):
            self._wants_renewal = False
            with self._lock:
                signals, left, self._left = self._signals, self._left, ()
            began_us = self.clock.now_us()
            marks = [(signal, *signal.mark(began_us)) for signal in signals]
            told = [(signal.name, signal.number, mark) for signal, mark, _ in marks] + _taken_back(left, began_us)
            renewal = Renewal(self.settings.name, self._process, int(self._decides), told)
            reply = self._tell_board(renewal, ticket)
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

    def _tell_board(self, renewal: Renewal, ticket: Ticket | None = None) -> bytes | None:
        """Put it to the node that keeps the board, and where that has moved, to the one that it names."""
        for _ in range(MOST_HOPS):
            node = self.servers.board
            replies = node.trip(ticket or node.breaker.admit(), [renewal])
            ticket = None
            if replies is None:
                return None
            (reply,) = replies
            if isinstance(reply, bytes):
                return reply
            if not isinstance(reply, Elsewhere) or reply.is_asking:
                break
            self.servers.moved(node, reply)
        # Its slot is on the way from one node to another: its keys, which are asked about together, are on two for a moment.
        self._renewed_us = SYSTEM_CLOCK.now_us() + RETRY_US // 10 - EVERY_US
        return None

    def _hear(self) -> Any:
        """The socket on which the board's changes are told, while the server answers and there are signals."""
        node = self.servers.board
        if not self._signals or not node.breaker.is_closed or node is not self._subscribed_at:
            self._unsubscribe()
        if not self._signals or not node.breaker.is_closed:
            return None
        if self._subscription is None:
            try:
                self._subscription = node.lines.subscribed(channel(self.settings.name))
            except Trouble:
                return None
            self._subscribed_at = node
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
            self._bring_all_back()
            last = _taken_back((*self._signals, *self._left), self.clock.now_us())
            renewal = Renewal(self.settings.name, self._process, -1, last)
            self._tell_board(renewal)
        self._unsubscribe()
        self.servers.close()

    def _bring_all_back(self) -> None:
        """What is returned, as long as that takes little time: what stays behind is spent."""
        end_us = SYSTEM_CLOCK.now_us() + _CLOSES_US
        while self._returns and self.breaker.is_closed and SYSTEM_CLOCK.now_us() < end_us:
            self._trade(SYSTEM_CLOCK.now_us())

    def renew_locks(self) -> None:
        """In a forked child: threads, connections and leases are the parent's."""
        self._lock = threading.Lock()
        self._process = _new_name()
        self._decides = False
        self._subscription = None
        self._returns = deque(maxlen=_MOST_RETURNS)
        self.servers.renew_locks()
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
            **self.servers.status(),
            "workers": self.workers,
            "leases": 0 if self._leases is None else len(self._leases),
        }


def _taken_back(signals: Sequence[FleetHealthSignal], now_us: int) -> list[tuple[str, int, Mark]]:
    """The marks of signals that go."""
    return [(signal.name, signal.number, signal.mark(now_us)[0]._replace(is_open=False)) for signal in signals]


def _new_name() -> str:
    """What this process is called on the board: no two have the same, and none learns anything from it."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:16]}"
