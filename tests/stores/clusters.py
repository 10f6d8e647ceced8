"""A real cluster for the tests: Valkey servers from the wheel on loopback ports, with slots that can be moved while they serve."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

import redis
from redis.crc import key_slot

from resilience import Pipeline, RateLimited
from resilience.stores.redis import RedisStore
from resilience.stores.redis.cluster import Cluster
from resilience.stores.redis.scripts import bucket_key
from tests.stores.limits import eventually
from tests.stores.servers import Server, free_port

SLOTS = 16_384
CLUSTER_RIGHTS = ["+cluster|slots", "+asking"]
"""What a user needs besides the rights of one server. The documentation tells to give them."""


class TestCluster:
    """So many masters, each with its part of the slots, and as many replicas of the first of them.

    Keys of living nodes are served whatever becomes of the others.
    """

    __test__ = False

    def __init__(self, masters: int = 3, replicas: int = 0, node_timeout_ms: int = 1_000) -> None:
        self.buses: dict[int, int] = {}
        self.servers = [self._started(node_timeout_ms) for _ in range(masters + replicas)]
        self.masters = self.servers[:masters]
        self.replicas = self.servers[masters:]
        part = -(-SLOTS // masters)
        for number, server in enumerate(self.masters):
            self.tell(server, "CLUSTER", "ADDSLOTSRANGE", number * part, min(SLOTS, (number + 1) * part) - 1)
            self.tell(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self.servers[0]
        for server in self.servers[1:]:
            self.tell(server, "CLUSTER", "MEET", "127.0.0.1", first.port, self.buses[first.port])
        self.eventually_agreed()
        for replica in self.replicas:
            eventually(lambda replica=replica: self._follows(replica, first), 10.0)  # type: ignore[misc]
            eventually(lambda replica=replica: self.link_of(replica) == "up", 20.0)  # type: ignore[misc]

    def _started(self, node_timeout_ms: int) -> Server:
        bus = free_port()
        server = Server(
            *("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        )
        self.buses[server.port] = bus
        return server

    def _follows(self, replica: Server, master: Server) -> bool:
        try:
            self.tell(replica, "CLUSTER", "REPLICATE", self.id_of(master))
        except redis.ResponseError:  # it has not heard of it
            return False
        return True

    @property
    def url(self) -> str:
        """Where its masters are."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.masters)

    def tell(self, server: Server, *words: Any) -> Any:
        """One command to one node, without following anything."""
        with server.client() as client:
            return client.execute_command(*words)

    def id_of(self, server: Server) -> str:
        """What a node is called in the cluster."""
        found: str = self.tell(server, "CLUSTER", "MYID").decode()
        return found

    def link_of(self, replica: Server) -> str:
        """Whether a replica has its master's data: "up"."""
        found: str = self.tell(replica, "INFO", "replication").get("master_link_status", "")
        return found

    def eventually_agreed(self, among: list[Server] | None = None) -> None:
        """Wait until all nodes know all others and serve."""
        servers = self.servers if among is None else among
        eventually(lambda: all(self._knows(server) for server in servers), 20.0)

    def _knows(self, server: Server) -> bool:
        told = self.tell(server, "CLUSTER", "INFO")
        text = told if isinstance(told, dict) else dict(line.split(":") for line in told.decode().split())
        return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == len(self.servers)

    def ports_of_slots(self) -> list[int]:
        """The port of the node that serves each slot, as all nodes say it."""
        eventually(lambda: len({tuple(self._ports_by(server)) for server in self.servers}) == 1, 10.0)
        return self._ports_by(self.servers[0])

    def _ports_by(self, server: Server) -> list[int]:
        ports = [0] * SLOTS
        for first, last, node, *_ in self.tell(server, "CLUSTER", "SLOTS"):
            ports[int(first) : int(last) + 1] = [int(node[1])] * (int(last) + 1 - int(first))
        return ports

    def owner_of(self, key: bytes) -> Server:
        """The node that serves the slot of a key."""
        eventually(lambda: len({self._ports_by(server)[key_slot(key)] for server in self.servers}) == 1, 10.0)
        port = self._ports_by(self.servers[0])[key_slot(key)]
        return next(server for server in self.servers if server.port == port)

    # --- moving slots ------------------------------------------------------------------------------------------------------------

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """From now on, the source answers ASK for what it has not."""
        self.tell(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: Server, target: Server, count: int = 1_000) -> int:
        """Move so many keys of a slot. Returns how many there were."""
        keys = self.tell(source, "CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            self.tell(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: Server) -> None:
        """From now on the target serves the slot."""
        for server in (target, *(server for server in self.masters if server is not target)):
            self.tell(server, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def move(self, slot: int, source: Server, target: Server) -> None:
        """All of it."""
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target):
            time.sleep(0)
        self.end_move(slot, target)

    def close(self) -> None:
        """End all of it."""
        for server in self.servers:
            server.close()


# --- keys and calls ------------------------------------------------------------------------------------------------------------


def keys_by_node(cluster: TestCluster, name: str, count: int) -> dict[int, list[str]]:
    """Keys of clients by the port of the master that keeps their buckets, as many for each."""
    found: dict[int, list[str]] = {server.port: [] for server in cluster.masters}
    ports = cluster.ports_of_slots()
    for number in range(100 * count):
        own = found[ports[slot_of(name, f"k{number}")]]
        if len(own) < count:
            own.append(f"k{number}")
    assert {len(keys) for keys in found.values()} == {count}
    return found


def slot_of(name: str, key: str) -> int:
    return key_slot(bucket_key(name, "api", key))


def keys_of_one_slot(name: str, count: int) -> list[str]:
    """Clients whose buckets happen to be in one slot."""
    found: dict[int, list[str]] = defaultdict(list)
    for number in range(1_000_000):
        own = found[slot_of(name, f"s{number}")]
        own.append(f"s{number}")
        if len(own) == count:
            return own
    raise AssertionError("too few tries")


async def asked(limiter: Any, keys: list[str]) -> list[str]:
    """One call for each key, all at once on one event loop."""
    pipeline = Pipeline("p", limiter)

    async def one(key: str) -> str:
        try:
            async with pipeline.guard(key=key):
                return "admitted"
        except RateLimited as refusal:
            return refusal.reason

    return await asyncio.gather(*(one(key) for key in keys))


def knows_map(store: RedisStore) -> bool:
    store.wake()  # its thread runs once there is something to do
    return isinstance(store.servers, Cluster) and bool(store.servers._masters)


def calls_of_scripts(cluster: TestCluster) -> dict[int, int]:
    found = {}
    for server in cluster.masters:
        told = cluster.tell(server, "INFO", "commandstats")
        found[server.port] = sum(what["calls"] for command, what in told.items() if "evalsha" in command)
    return found
