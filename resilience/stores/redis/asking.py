"""Questions are put to the server that keeps their buckets, and to another only where one has said that it has not decided them."""

from __future__ import annotations

import asyncio
from typing import Final

from resilience.clock import SYSTEM_CLOCK
from resilience.layers.limiter.questions import Answer, Away, Take
from resilience.stores.redis.bundle import Bundle
from resilience.stores.redis.lanes import Told, Waits, told
from resilience.stores.redis.node import Node
from resilience.stores.redis.replies import NOT_DECIDED, NotDecided
from resilience.stores.redis.servers import MOST_HOPS, Servers
from resilience.stores.trouble import RETRY_US

NOBODY: Final = Away("no node of the cluster serves its slot", RETRY_US)
_UNSETTLED: Final = Away("the nodes of the cluster do not agree who serves its slot", RETRY_US)


class Asking:
    """Asks the servers of one store."""

    def __init__(self, store: Waits, servers: Servers) -> None:
        self._store = store
        self._servers = servers

    def ask(self, question: Take) -> Answer:
        """Answer, blocking this thread."""
        node = self._servers.node_of(question)
        began_us = 0 if question.place is None else SYSTEM_CLOCK.now_us()
        for _ in range(MOST_HOPS):
            if node is None:
                return NOBODY
            found = node.threads.ask(question)
            if not isinstance(found, NOT_DECIDED):
                return found
            node = self._instead(node, question, found, began_us)
        return _UNSETTLED

    async def aask(self, question: Take, loop: asyncio.AbstractEventLoop) -> Answer:
        """Answer, suspending this task."""
        node = self._servers.node_of(question)
        began_us = 0 if question.place is None else SYSTEM_CLOCK.now_us()
        for _ in range(MOST_HOPS):
            if node is None:
                return NOBODY
            found = await node.lane_of(loop).ask(question)
            if not isinstance(found, NOT_DECIDED):
                return found
            node = self._instead(node, question, found, began_us)
        return _UNSETTLED

    def _instead(self, asked: Node, question: Take, found: NotDecided, began_us: int) -> Node | None:
        """Where a question is put that a node has not decided. All of them have the time of two trips between them."""
        left_us = began_us + 2 * self._store.timeout_us - SYSTEM_CLOCK.now_us()
        question.timeout_us = max(0, min(question.timeout_us, left_us))
        return self._servers.instead(asked, question, found)

    # --- in the store's thread -------------------------------------------------------------------------------------------------

    def by_thread(self, batch: list[Take]) -> list[Answer]:
        """What becomes of questions of the thread's own, in their order."""
        answers: dict[Take, Answer] = {}
        nodes = {question: self._servers.node_of(question) for question in batch}
        for _ in range(MOST_HOPS):
            if not nodes:
                break
            asked, nodes = nodes, {}
            for node in dict.fromkeys(asked.values()):
                own = [question for question in asked if asked[question] is node]
                for question, found in zip(own, self._told_by(node, own), strict=True):
                    if node is not None and isinstance(found, NOT_DECIDED):
                        nodes[question] = self._servers.instead(node, question, found)
                    else:
                        answers[question] = found  # type: ignore[assignment]  # nobody sends on what nobody was asked
        return [answers.get(question, _UNSETTLED) for question in batch]

    def _told_by(self, node: Node | None, questions: list[Take]) -> list[Told]:
        if node is None:
            return [NOBODY] * len(questions)
        bundle = Bundle(self._store.settings.name, questions)
        replies = node.trip(node.breaker.admit(), bundle.calls)
        if replies is None:
            node.failed(questions)
            return [node.breaker.away() for _ in questions]
        return [told(answer, node.breaker.away) for answer in bundle.answers(replies)]
