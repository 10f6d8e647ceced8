"""A Redis Cluster: which node serves which of its 16,384 slots, learnt from any of them and corrected by each.

A call goes to the node that the map says. A node that does not serve the slot says so without running the script, so that the call
can be put to the one that it names. The map is learnt by the store's thread; before it is, any node says where to go.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from resilience.errors import ConfigError
from resilience.layers.limiter.questions import Take
from resilience.stores.redis.address import seeds, slot_function
from resilience.stores.redis.bundle import Place
from resilience.stores.redis.node import Node
from resilience.stores.redis.replies import Address, Divided, Elsewhere, NotDecided, Trouble, Unserved
from resilience.stores.redis.scripts import board_key, bucket_key
from resilience.stores.redis.servers import FAR_US
from resilience.stores.settings import RedisStoreSettings

log = logging.getLogger("resilience")
SLOTS: Final = 16_384
_AGAIN_US: Final = 200_000
"""The map is not learnt more often."""
_WHILE_SICK_US: Final = 500_000
"""How often it is learnt while a node does not answer, whose slots another may have taken over."""
_MOST_NODES: Final = 2_000
_MOST_PORTS: Final = 65_536
_NOT_ONE: Final = "the server is not one of a cluster: its url begins with redis://"


class Cluster:
    """The nodes of a cluster that serve slots, and those that its URL names."""

    def __init__(self, settings: RedisStoreSettings, make: Callable[[Address], Node], wake: Callable[[], None]) -> None:
        self._name = settings.name
        self._make = make
        self._wake = wake
        self._slot_of = slot_function()
        self._board_slot = self._slot_of(board_key(settings.name))
        self._lock = threading.Lock()
        self._seeds = {address: make(address) for address in seeds(settings)}
        for number, node in enumerate(self._seeds.values()):
            node.call_it(f"{number + 1} of the url")
        self._nodes = dict(self._seeds)
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: tuple[Node, ...] = ()
        self._wants_map = True
        self._look_at_us = 0
        self._turn = 0
        self._silent: set[Node] = set()
        """Those that had no map when they were asked last: others are asked first."""
        self.trouble = ""

    # --- in calls --------------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Sequence[Node]:
        """Those that serve slots; without a map, those that the URL names and those that they have named."""
        return self._masters or tuple(self._nodes.values())

    @property
    def board(self) -> Node:
        """All keys of a board are in one slot."""
        return self._slots[self._board_slot] or self._any()

    def node_of(self, question: Take) -> Node | None:
        if question.place is None:
            question.place = Place(self._slot_of(bucket_key(self._name, question.limit, question.key)))
        slot: int = question.place.slot
        node = self._slots[slot]
        if node is None and self._masters:  # by now somebody may serve it
            self.missed()
        elif node is None:
            return self._any()
        return node

    def _any(self) -> Node:
        """Before the map is known, whoever answers says where to go."""
        known = self.nodes
        return next((node for node in known if node.breaker.is_closed), known[0])

    def instead(self, asked: Node, question: Take, told: NotDecided) -> Node | None:
        slot = question.place.slot
        if isinstance(told, Unserved):
            self.missed()
            return None
        if isinstance(told, Divided):
            question.place = Place(slot, is_alone=True, is_asking=question.place.is_asking)
            return asked
        node = self._node_at(asked, told.address)
        if node is None or told.is_asking:
            question.place = Place(slot, is_alone=True, is_asking=True)
            return node
        question.place = Place(slot)
        self.moved(asked, told)
        return node

    def moved(self, asked: Node, told: Elsewhere) -> None:
        """Believe it for this slot at once, and have the whole map learnt: it is seldom one slot alone."""
        node = self._node_at(asked, told.address)
        if node is not None and not told.is_asking and told.slot < SLOTS:
            self._slots[told.slot] = node
        self.missed()

    def _node_at(self, asked: Node, address: Address) -> Node | None:
        """The node there. None: there are too many, or what a node has named is no address: no caller is to hear of that."""
        host, port = address
        if not host and asked.address is not None:
            host = asked.address[0]
        node = self._nodes.get((host, port))
        if node is None:
            with self._lock:
                node = self._nodes.get((host, port))
                if node is None and len(self._nodes) < _MOST_NODES and 0 < port < _MOST_PORTS:
                    with contextlib.suppress(ConfigError):
                        node = self._nodes[host, port] = self._make((host, port))
                        node.call_it("that is new")
        return node

    def missed(self) -> None:
        if not self._wants_map:
            self._wants_map = True
            self._wake()

    # --- in the store's thread -------------------------------------------------------------------------------------------------

    def look(self, now_us: int) -> int:
        """Learn the map where somebody has said that it is wrong, and again and again while a node does not answer."""
        is_sick = not all(node.breaker.is_closed for node in self.nodes)
        if not self._wants_map and not is_sick:
            return FAR_US
        if now_us >= self._look_at_us:
            self._wants_map = False
            self._wants_map = not self._learn() or self._wants_map
            self._look_at_us = now_us + (_WHILE_SICK_US if is_sick else _AGAIN_US)
        return max(0, self._look_at_us - now_us) if self._wants_map or is_sick else FAR_US

    def _learn(self) -> bool:
        """Ask the next node for the map. Returns whether it had one."""
        known = dict.fromkeys((*self._masters, *self._seeds.values()))
        well = [node for node in known if node.breaker.is_closed] or list(known)
        asked = [node for node in well if node not in self._silent]
        if not asked:
            self._silent.clear()
            asked = well
        self._turn += 1
        node = asked[self._turn % len(asked)]
        self._silent.add(node)
        try:
            told = _owners(node.lines.map_of_slots())
        except Trouble as trouble:
            return self._has_none(_NOT_ONE if str(trouble) == "the server says ERR" else str(trouble))
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            return self._has_none("what the server tells of its cluster cannot be read")
        if not told:
            return self._has_none("the server is one of a cluster that serves no slots")
        self.trouble = ""
        self._silent.discard(node)
        self._take_over(node, told)
        return True

    def _has_none(self, trouble: str) -> bool:
        if trouble != self.trouble:
            log.warning("the store cannot learn which node of its cluster serves what: %s", trouble)
        self.trouble = trouble
        return False

    def _take_over(self, asked: Node, told: Sequence[tuple[int, int, Address, str]]) -> None:
        slots: list[Node | None] = [None] * SLOTS
        for first, last, address, label in told:
            node = self._node_at(asked, address)
            if node is not None:
                node.call_it(label)
                slots[first : last + 1] = [node] * (last + 1 - first)
        for slot, (old, new) in enumerate(zip(self._slots, slots, strict=True)):
            # A node that was cut off tells what was once: it does not lead from one that answers to one that does not.
            if old is not None and new is not None and old.breaker.is_closed and not new.breaker.is_closed:
                slots[slot] = old
        self._slots = slots
        self._masters = tuple(dict.fromkeys(node for node in slots if node is not None))
        self._forget_others()

    def _forget_others(self) -> None:
        """Nodes that serve nothing any more, but for those that the URL names."""
        with self._lock:
            kept = {*self._masters, *self._seeds.values()}
            others = [address for address, node in self._nodes.items() if node not in kept]
            gone = [self._nodes.pop(address) for address in others]
        self._silent.intersection_update(kept)
        for node in gone:
            node.close()

    # --- its end, and forks ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all connections that are at rest."""
        for node in list(self._nodes.values()):
            node.close()

    def renew_locks(self) -> None:
        """In a forked child: what is known of the cluster holds there too."""
        self._lock = threading.Lock()
        for node in list(self._nodes.values()):
            node.renew_locks()

    def status(self) -> dict[str, Any]:
        """Of all nodes together, and of each by the first letters of its id."""
        nodes = self.nodes
        states = {node.breaker.state for node in nodes}
        last = next((node.breaker.reason for node in nodes if not node.breaker.is_closed), "")
        return {
            "state": states.pop() if len(states) == 1 else "partly",
            "failures": sum(node.breaker.failures for node in nodes),
            "last_failure": last or self.trouble or next((node.breaker.reason for node in nodes if node.breaker.reason), None),
            "nodes": {node.label: node.status() for node in nodes},
        }


def _owners(told: Any) -> list[tuple[int, int, Address, str]]:
    """Of a reply to CLUSTER SLOTS: first and last slot, who serves them, and the first letters of its id."""
    found = []
    for first, last, master, *_ in told:
        if not 0 <= int(first) <= int(last) < SLOTS:
            raise ValueError("no such slots")
        host = (master[0] or b"").decode()
        label = master[2].decode("ascii", "replace")[:8] if len(master) > 2 else ""
        if host != "?":  # it does not know its name
            found.append((int(first), int(last), (host, int(master[1])), label))
    return found
