"""Questions on their way: those that are put while a trip is under way share the next, and one call of the script decides them all.

A process has one lane for its threads, in which whoever finds it free makes the trip for everybody waiting; and one for each event
loop, in which a task of its own does. So a process never has more than a few connections, however many callers wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from resilience import store_timing
from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.layers.breaker.machine import Ticket
from resilience.layers.limiter.questions import Answer, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.base import LANE_TASK
from resilience.stores.redis.lines import AsyncLine, Lines, Trouble
from resilience.stores.redis.scripts import Questions
from resilience.stores.settings import RedisStoreSettings
from resilience.stores.trouble import StoreBreaker

MOST_TOGETHER: Final = 128
"""The most questions of one call: a script runs alone on its server, and must not keep others waiting."""
_CLOCK: Final = SYSTEM_CLOCK


class Waits(Protocol):
    """What a lane needs to know of its store."""

    settings: RedisStoreSettings
    breaker: StoreBreaker
    timeout_us: int

    def heard(self, instant_us: int) -> None:
        """The server has told the time."""

    def give_back(self, question: Take, decided: Decided, due_us: int) -> None:
        """Return what was taken, unless the instant `due_us` by the server's clock has passed; 0 is never."""


class _Waiter:
    """A thread that waits for an answer, or to lead."""

    __slots__ = ("answer", "asleep", "leads", "question")

    def __init__(self, question: Take) -> None:
        self.question = question
        self.answer: Answer | None = None
        self.leads = False
        self.asleep: threading.Lock | None = None


class ThreadLane:
    """The lane of all threads of a process."""

    def __init__(self, store: Waits, lines: Lines) -> None:
        self._store = store
        self._lines = lines
        self._lock = threading.Lock()
        self._pending: list[_Waiter] = []
        self._is_led = False

    def ask(self, question: Take) -> Answer:
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
        return self._store.breaker.away() if waiter.answer is None else waiter.answer

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
        """Bring everybody an answer. Returns False where there was none."""
        breaker = self._store.breaker
        ticket = breaker.admit()
        if ticket is None:
            return False
        questions = Questions(self._store.settings.name, [waiter.question for waiter in batch])
        timeout_us = min(self._store.timeout_us, max(waiter.question.timeout_us for waiter in batch))
        began_us = _CLOCK.now_us()
        try:
            reply = self._lines.trip(questions.call(), timeout_us, lambda: questions.call(whole=True))
            answers = questions.answers(reply)
            self._store.heard(questions.instant_us(reply))
        except (Trouble, ValueError) as trouble:
            self._settle_failure(str(trouble), timeout_us, began_us, ticket)
            return False
        except BaseException:
            breaker.ignore(ticket)
            raise
        breaker.settle(ticket, None)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "ok")
        for waiter, answer in zip(batch, answers, strict=True):
            waiter.answer = answer
        return True

    def _settle_failure(self, trouble: str, timeout_us: int, began_us: int, ticket: Ticket) -> None:
        breaker = self._store.breaker
        if timeout_us < self._store.timeout_us:  # a caller with so little time left is no evidence
            breaker.ignore(ticket)
        else:
            breaker.settle(ticket, trouble)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "failed")

    def renew_locks(self) -> None:
        """In a forked child, which has none of the threads that waited or led."""
        self._lock = threading.Lock()
        self._pending = []
        self._is_led = False


class LoopLane:
    """The lane of one event loop."""

    def __init__(self, store: Waits, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._pending: list[tuple[Take, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None

    async def ask(self, question: Take) -> Answer:
        """Answer, suspending this task. A caller that is cancelled leaves the trip to the others."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._pending.append((question, future))
        if self._news is not None:
            if not self._news.done():
                self._news.set_result(None)
        elif self._task is None or self._task.done():
            # In a context of its own: it outlives the call that happens to be the first.
            self._task = self._loop.create_task(self._serve(), name=LANE_TASK, context=contextvars.Context())
        if question.timeout_us >= 2 * self._store.timeout_us:
            return await future
        try:
            async with asyncio.timeout(question.timeout_us / US_PER_S):
                return await future
        except TimeoutError:
            return self._store.breaker.away("no time left to ask the store")

    async def _serve(self) -> None:
        """Make trips while anybody asks. It ends when its loop ends, which cancels it, and closes its connection then."""
        line = AsyncLine(self._store.settings)
        try:
            while True:
                if not self._pending:
                    self._news = self._loop.create_future()
                    await self._news
                    self._news = None
                batch, self._pending = self._pending[:MOST_TOGETHER], self._pending[MOST_TOGETHER:]
                if not await self._trip(line, batch):
                    batch += self._pending
                    self._pending = []
                    self._give_up(batch)
        finally:
            self._news = None
            pending, self._pending = self._pending, []
            self._give_up(pending)
            await line.close()

    async def _trip(self, line: AsyncLine, batch: Sequence[tuple[Take, asyncio.Future[Answer]]]) -> bool:
        breaker = self._store.breaker
        ticket = breaker.admit()
        if ticket is None:
            return False
        questions = Questions(self._store.settings.name, [question for question, _ in batch])
        began_us = _CLOCK.now_us()
        try:
            reply = await line.trip(questions.call(), self._store.timeout_us, lambda: questions.call(whole=True))
            answers = questions.answers(reply)
            self._store.heard(questions.instant_us(reply))
        except (Trouble, ValueError) as trouble:
            breaker.settle(ticket, str(trouble))
            store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "failed")
            return False
        except BaseException:
            breaker.ignore(ticket)
            self._give_up(batch)
            raise
        breaker.settle(ticket, None)
        store_timing.record((_CLOCK.now_us() - began_us) / US_PER_S, "redis", "ok")
        instant_us = questions.instant_us(reply)
        for (question, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
            elif answer.taken:  # its caller has been cancelled
                self._store.give_back(question, answer, instant_us + answer.wait_us if answer.wait_us else 0)
        return True

    def _give_up(self, batch: Sequence[tuple[Take, asyncio.Future[Answer]]]) -> None:
        away = self._store.breaker.away()
        for _, future in batch:
            if not future.done() and not self._loop.is_closed():
                future.set_result(away)
