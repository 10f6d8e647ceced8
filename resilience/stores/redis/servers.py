"""Which server is asked: the only one, or the node of a cluster that serves a slot (`cluster.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from resilience.layers.limiter.questions import Take
from resilience.stores.redis.node import Node
from resilience.stores.redis.replies import Elsewhere, NotDecided

MOST_HOPS: Final = 5
"""Nodes that are asked about one question, each of which has said that it has not decided it."""


class Servers(Protocol):
    """The servers of one store."""

    @property
    def board(self) -> Node:
        """The one that keeps the board of health."""

    @property
    def nodes(self) -> Sequence[Node]:
        """All that are asked."""

    def node_of(self, question: Take) -> Node | None:
        """The one that keeps its bucket; None where none does for now."""

    def instead(self, asked: Node, question: Take, told: NotDecided) -> Node | None:
        """Where to put a question that `asked` has not decided; None: nowhere."""

    def moved(self, asked: Node, told: Elsewhere) -> None:
        """`asked` has said that another serves a slot."""

    def look(self, now_us: int) -> int:
        """In the store's thread: learn what must be learnt. Returns the microseconds until there is more to learn."""

    def missed(self) -> None:
        """A trip has brought nothing."""

    def close(self) -> None:
        """Close all connections that are at rest."""

    def renew_locks(self) -> None:
        """In a forked child."""

    def status(self) -> dict[str, Any]:
        """State, failures and the last of them: no address."""


FAR_US: Final = 1 << 62


class OneServer:
    """A store with one server: itself, or whatever its sentinels lead to."""

    def __init__(self, node: Node) -> None:
        self.board = node
        self.nodes = (node,)

    def node_of(self, question: Take) -> Node | None:
        return self.board

    def instead(self, asked: Node, question: Take, told: NotDecided) -> Node | None:
        return None

    def moved(self, asked: Node, told: Elsewhere) -> None:
        """It has no other."""

    def look(self, now_us: int) -> int:
        return FAR_US

    def missed(self) -> None:
        """There is nothing to learn from it."""

    def close(self) -> None:
        self.board.close()

    def renew_locks(self) -> None:
        self.board.renew_locks()

    def status(self) -> dict[str, Any]:
        return self.board.status()
