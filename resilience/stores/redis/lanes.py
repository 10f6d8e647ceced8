"""Questions on their way: those that are put while a trip is under way share the next, and one call of the script decides them all.

For each server, a process has one lane for its threads, in which whoever finds it free makes the trip for everybody waiting; and
one for each event loop, in which a task of its own does. So it never has more than a few connections, however many callers wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from resilience import store_timing
from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.layers.breaker.machine import Ticket
from resilience.layers.limiter.questions import Answer, Away, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.base import LANE_TASK
from resilience.stores.redis.bundle import Bundle
from resilience.stores.redis.lines import AsyncLine
from resilience.stores.redis.replies import NOT_DECIDED, NotDecided, Trouble
from resilience.stores.settings import RedisStoreSettings

if TYPE_CHECKING:
    from resilience.stores.redis.node import Node

MOST_TOGETHER: Final = 128
"""The most questions of one call: a script runs alone on its server, and must not keep others waiting."""
_CLOCK: Final = SYSTEM_CLOCK
Told = Answer | NotDecided
"""What became of a question, or how a cluster must be asked instead."""


class Waits(Protocol):
    """What a lane needs to know of its store."""

    settings: RedisStoreSettings
    timeout_us: int

    def heard(self, instant_us: int) -> None:
        """The server has told the time."""

    def give_back(self, question: Take, decided: Decided, due_us: int) -> None:
        """Return what was taken, unless the instant `due_us` by the server's clock has passed; 0 is never."""

    def missed(self) -> None:
        """A trip has brought nothing: the store's thread may want to see why."""


class _Waiter:
    """A thread that waits for an answer, or to lead."""

    __slots__ = ("answer", "asleep", "leads", "question")

    def __init__(self, question: Take) -> None:
        self.question = question
        self.answer: Told | None = None
        self.leads = False
        self.asleep: threading.Lock | None = None


class ThreadLane:
    """The lane of all threads of a process to one server."""

    def __init__(self, store: Waits, node: Node) -> None:
        self._store = store
        self._node = node
        self._lock = threading.Lock()
        self._pending: list[_Waiter] = []
        self._is_led = False

    def ask(self, question: Take) -> Told:
        """Answer, blocking this thread until a trip has brought it."""
        waiter = _Waiter(question)
        with self._lock:
            self._pending.append(waiter)
            if self._is_led:
                waiter.asleep = threading.Lock()
                waiter.asleep.acquire()
            else:
                self._is_led = waiter.leads = True
        if waiter.asleep is not None:
            self._sleep(waiter)
        if waiter.leads:
            self._lead()
        return self._node.breaker.away() if waiter.answer is None else waiter.answer

    def _sleep(self, waiter: _Waiter) -> None:
        """Wait to be answered or to lead: for the trip under way and for one of its own."""
        wait_us = min(2 * self._store.timeout_us, waiter.question.timeout_us)
        if waiter.asleep is not None and not waiter.asleep.acquire(timeout=wait_us / US_PER_S):
            with self._lock:
                if waiter in self._pending and not waiter.leads:
                    self._pending.remove(waiter)

    def _lead(self) -> None:
        with self._lock:
            batch, self._pending = self._pending[:MOST_TOGETHER], self._pending[MOST_TOGETHER:]
        failed = True
        try:
            failed = not self._trip(batch)
        finally:
            self._hand_over(failed)
            for waiter in batch:
                if waiter.asleep is not None and not waiter.leads:
                    waiter.asleep.release()

    def _hand_over(self, failed: bool) -> None:
        """Let the first who waits lead the next trip; after a failed one nobody waits for another."""
        with self._lock:
            given_up: list[_Waiter] = []
            if failed:
                given_up, self._pending = self._pending, []
            self._is_led = bool(self._pending)
            if self._pending:
                self._pending[0].leads = True
                leader = self._pending[0].asleep
                if leader is not None:
                    leader.release()
        for waiter in given_up:
            if waiter.asleep is not None:
                waiter.asleep.release()

    def _trip(self, batch: Sequence[_Waiter]) -> bool:
        """Bring everybody an answer. Returns False where there was none, and the next trip would have none either."""
        breaker = self._node.breaker
        ticket = breaker.admit()
        if ticket is None:
            return False
        questions = [waiter.question for waiter in batch]
        bundle = Bundle(self._store.settings.name, questions)
        timeout_us = min(self._store.timeout_us, max(question.timeout_us for question in questions))
        began_us = _CLOCK.now_us()
        try:
            replies = self._node.lines.trip(bundle.calls, timeout_us)
            answers = bundle.answers(replies)
        except (Trouble, ValueError) as trouble:
            return self._settle_failure(str(trouble), timeout_us, began_us, ticket, questions)
        except BaseException:
            breaker.ignore(ticket)
            raise
        breaker.settle(ticket, None)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "ok")
        instant_us = bundle.instant_us(replies)
        if instant_us is not None:
            self._store.heard(instant_us)
        for waiter, answer in zip(batch, answers, strict=True):
            waiter.answer = told(answer, breaker.away)
        return True

    def _settle_failure(self, trouble: str, timeout_us: int, began_us: int, ticket: Ticket, questions: Sequence[Take]) -> bool:
        """Returns whether it says nothing of the server."""
        breaker = self._node.breaker
        was_short = timeout_us < self._store.timeout_us
        if was_short:  # a caller with so little time left is no evidence, and those behind have their own
            breaker.ignore(ticket)
        else:
            breaker.settle(ticket, trouble)
            self._node.failed(questions)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "failed")
        return was_short

    def renew_locks(self) -> None:
        """In a forked child, which has none of the threads that waited or led."""
        self._lock = threading.Lock()
        self._pending = []
        self._is_led = False


class LoopLane:
    """The lane of one event loop to one server."""

    def __init__(self, store: Waits, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._node = node
        self._loop = loop
        self._pending: list[tuple[Take, asyncio.Future[Told]]] = []
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._has_ended = False
        self._decided_us = 0  # the instant of the last trip, by the server's clock

    async def ask(self, question: Take) -> Told:
        """Answer, suspending this task. A caller that is cancelled leaves the trip to the others."""
        future: asyncio.Future[Told] = self._loop.create_future()
        self._pending.append((question, future))
        if self._news is not None:
            self._wake()
        elif self._task is None or self._task.done():
            # In a context of its own: it outlives the call that happens to be the first.
            self._task = self._loop.create_task(self._serve(), name=LANE_TASK, context=contextvars.Context())
        try:
            if question.timeout_us >= 2 * self._store.timeout_us:
                return await future
            async with asyncio.timeout(question.timeout_us / US_PER_S):
                return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it came at the very instant at which its caller was told to go
                self._bring_back(question, future.result())
            raise
        except TimeoutError:
            return self._node.breaker.away("no time left to ask the store") if future.cancelled() else future.result()

    def end(self) -> None:
        """From any thread: its node is no longer asked. The task ends once nobody waits."""
        self._has_ended = True
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _serve(self) -> None:
        """Make trips while anybody asks. It ends when its loop ends, which cancels it, and closes its connection then."""
        line = AsyncLine(self._store.settings, self._node.address)
        try:
            while self._pending or not self._has_ended:
                if not self._pending:
                    self._news = self._loop.create_future()
                    await self._news
                    self._news = None
                    continue
                batch, self._pending = self._pending[:MOST_TOGETHER], self._pending[MOST_TOGETHER:]
                if not await self._trip(line, batch):
                    batch += self._pending
                    self._pending = []
                    self._give_up(batch)
        finally:
            self._news = self._task = None  # whoever asks while the connection is being closed has a task of its own
            pending, self._pending = self._pending, []
            self._give_up(pending)
            await line.close()

    async def _trip(self, line: AsyncLine, batch: Sequence[tuple[Take, asyncio.Future[Told]]]) -> bool:
        breaker = self._node.breaker
        ticket = breaker.admit()
        if ticket is None:
            return False
        bundle = Bundle(self._store.settings.name, [question for question, _ in batch])
        began_us = _CLOCK.now_us()
        try:
            replies = await line.trip(bundle.calls, self._store.timeout_us)
            answers = bundle.answers(replies)
        except (Trouble, ValueError) as trouble:
            breaker.settle(ticket, str(trouble))
            store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "failed")
            self._node.failed([question for question, _ in batch])
            return False
        except BaseException:
            breaker.ignore(ticket)
            self._give_up(batch)
            raise
        breaker.settle(ticket, None)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "ok")
        instant_us = bundle.instant_us(replies)
        if instant_us is not None:
            self._decided_us = instant_us
            self._store.heard(instant_us)
        for (question, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(told(answer, breaker.away))
            else:  # its caller has been cancelled
                self._bring_back(question, answer)
        return True

    def _bring_back(self, question: Take, answer: Told | Trouble) -> None:
        if isinstance(answer, Decided) and answer.taken:
            self._store.give_back(question, answer, self._decided_us + answer.wait_us if answer.wait_us else 0)

    def _give_up(self, batch: Sequence[tuple[Take, asyncio.Future[Told]]]) -> None:
        away = self._node.breaker.away()
        for _, future in batch:
            if not future.done() and not self._loop.is_closed():
                future.set_result(away)


def told(answer: Decided | Trouble, away: Callable[[str], Away]) -> Told:
    """What a caller is told: an error of one call among several is an answer that did not come."""
    return answer if isinstance(answer, (Decided, *NOT_DECIDED)) else away(str(answer))
