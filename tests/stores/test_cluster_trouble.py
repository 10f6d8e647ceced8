"""A Redis Cluster whose nodes die, freeze and are taken over from, and the health that is shared over it."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from redis.crc import key_slot

from resilience import StoreChanged, subscribe
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, Hold
from resilience.stores.redis import RedisStore
from resilience.stores.redis.scripts import board_key, channel
from resilience.stores.settings import RedisStoreSettings
from tests.soak.sizes import by_length
from tests.stores.clusters import (
    TestCluster,
    asked,
    calls_of_scripts,
    keys_by_node,
    knows_map,
)
from tests.stores.limits import Caller, be_patient, eventually, limiter_over
from tests.stores.limits import redis_store as patient_store
from tests.stores.servers import Server

HOUR = 1 / 3600
redis_store = partial(patient_store, is_patient=False)


# --- when nodes die ----------------------------------------------------------------------------------------------------------


class Changes:
    def __init__(self) -> None:
        self.seen: list[StoreChanged] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, StoreChanged):
            self.seen.append(event)


@pytest.mark.parametrize("way", ["threads", pytest.param("loop", marks=pytest.mark.soak)])
def test_a_node_that_is_killed_takes_no_other_keys_along(cluster: TestCluster, name: str, way: str) -> None:
    changes = Changes()
    unsubscribe = subscribe(changes)
    keys = keys_by_node(cluster, name, 5)
    board = cluster.owner_of(board_key(name))
    dead = next(server for server in cluster.masters if server is not board)
    gone, alive = keys.pop(dead.port), [key for own in keys.values() for key in own]
    with redis_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10, key="header:x-key")
        caller = Caller(limiter)

        def call(keys: list[str]) -> list[str]:
            return asyncio.run(asked(limiter, keys)) if way == "loop" else [caller.call(key) for key in keys]

        def is_shared(keys: list[str]) -> bool:
            before = limiter.shared.without_store
            call(keys)
            return limiter.shared.without_store == before

        eventually(lambda: knows_map(store) and store.workers == 1)
        be_patient(store)  # a node that is dead refuses at once; one that is only busy is to be no part of this
        label = cluster.id_of(dead)[:8]
        dead.kill()
        assert set(call(gone * 12)) == {"admitted", "cut"}, "by the local share"
        assert limiter.shared.without_store >= 50
        eventually(lambda: call(gone) and limiter.status()["store"]["state"] == "partly")
        before = limiter.shared.without_store
        assert "admitted" in call(alive)
        assert limiter.shared.without_store == before, "nobody else is touched"
        assert limiter.status()["store"]["nodes"][label]["state"] != "closed"
        assert store.breaker.is_closed, "the board is elsewhere"
        dead.start()
        eventually(lambda: limiter.status()["store"]["state"] == "closed", 10.0)
        eventually(lambda: is_shared(gone), 10.0)
    unsubscribe()
    assert [change.answers for change in changes.seen] == [False, True], changes.seen
    assert all(change.reason.startswith(f"node {label}: ") for change in changes.seen), changes.seen


@pytest.mark.soak
def test_a_replica_takes_over(name: str) -> None:
    cluster = TestCluster(replicas=1)
    try:
        master, (replica,) = cluster.masters[0], cluster.replicas
        keys = keys_by_node(cluster, name, 5)[master.port]
        with redis_store(cluster.url, name) as store:
            limiter = limiter_over(store, rate_per_s=HOUR, burst=1_000_000, key="header:x-key")
            caller = Caller(limiter)
            eventually(lambda: knows_map(store))
            for key in keys:
                caller.call(key)
            assert limiter.shared.without_store == 0

            def is_shared() -> bool:
                before = limiter.shared.without_store
                for key in keys:
                    caller.call(key)
                return limiter.shared.without_store == before

            master.kill()
            assert not is_shared()
            eventually(lambda: cluster.tell(replica, "ROLE")[0] == b"master", 30.0)
            eventually(is_shared, 10.0)
            assert cluster.id_of(replica)[:8] in limiter.status()["store"]["nodes"]
            master.start()  # it comes back as a replica of its replica
            eventually(lambda: cluster.tell(master, "ROLE")[0] == b"slave", 20.0)
            eventually(is_shared, 10.0)
            eventually(lambda: cluster.link_of(master) == "up", 20.0)
            cluster.tell(master, "CLUSTER", "FAILOVER")  # in good order: the old one answers MOVED from then on
            eventually(lambda: cluster.tell(replica, "ROLE")[0] == b"slave", 20.0)
            eventually(is_shared, 10.0)
            assert caller.found.keys() == {"admitted"}
    finally:
        cluster.close()


@pytest.mark.soak
def test_a_cluster_that_is_frozen_holds_nobody_up(cluster: TestCluster, name: str) -> None:
    keys = [key for own in keys_by_node(cluster, name, 3).values() for key in own]
    with redis_store(cluster.url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=100.0, burst=10, key="header:x-key"))
        eventually(lambda: knows_map(store))
        for server in cluster.masters:
            server.freeze()
        began_s = time.monotonic()
        while time.monotonic() - began_s < by_length(1.0, 5.0):
            for key in keys:
                caller.call(key)
            time.sleep(0.02)
        assert max(caller.took_s) < 0.5, "none hangs"
        assert caller.limiter.status()["store"]["state"] != "closed"
        for server in cluster.masters:
            server.thaw()
        before = caller.limiter.shared.without_store

        def is_shared() -> bool:
            nonlocal before
            was, before = before, caller.limiter.shared.without_store
            for key in keys:
                caller.call(key)
            return caller.limiter.shared.without_store == before == was

        eventually(is_shared, 10.0)


# --- health ------------------------------------------------------------------------------------------------------------------


class Process:
    """A process as far as stores tell them apart: a store and a signal of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.store = RedisStore(RedisStoreSettings(url, name=name))
        self.signal = FleetHealthSignal(self.store, settings=HealthSettings(), name="default", clock=self.store.clock)
        self.hold = Hold()
        self.store.join(self.signal)
        eventually(lambda: self.signal.status()["shared"])

    def open(self) -> None:
        self.signal.opened(self.hold, self.store.clock.now_us(), None)

    def close(self) -> None:
        self.signal.closed(self.hold, self.store.clock.now_us())


def test_a_board_that_is_on_its_way_is_heard_of_again(cluster: TestCluster, name: str) -> None:
    """Its keys are asked about together, which no node can answer while some of them are here and some there."""
    process = Process(cluster.url, name)
    try:
        slot, source = key_slot(board_key(name)), cluster.owner_of(board_key(name))
        target = next(server for server in cluster.masters if server is not source)
        process.open()
        eventually(lambda: process.signal.status()["fleet_incident"] == 1)
        cluster.begin_move(slot, source, target)
        assert cluster.move_keys(slot, source, target, 1) == 1
        before = sum(calls_of_scripts(cluster).values())
        process.close()
        eventually(lambda: not process.signal.status()["shared"])
        time.sleep(0.5)
        assert sum(calls_of_scripts(cluster).values()) - before < 50, "it is asked now and then"
        assert process.store.breaker.is_closed, "which is no fault of the node"
        while cluster.move_keys(slot, source, target):
            pass
        cluster.end_move(slot, target)
        eventually(lambda: process.signal.status()["shared"] and not process.signal.in_incident)
    finally:
        process.store.close()


def test_health_is_shared_also_when_its_board_moves(cluster: TestCluster, name: str) -> None:
    one, other = (Process(cluster.url, name) for _ in range(2))
    try:
        source = cluster.owner_of(board_key(name))
        target = next(server for server in cluster.masters if server is not source)

        def listeners(server: Server) -> int:
            found: int = cluster.tell(server, "PUBSUB", "NUMSUB", channel(name))[1]
            return found

        eventually(lambda: listeners(source) == 2)
        one.open()
        eventually(lambda: other.signal.factor == 0.3, 1.0)
        cluster.move(key_slot(board_key(name)), source, target)
        eventually(lambda: listeners(target) == 2, 3.0)
        one.close()
        eventually(lambda: not other.signal.in_incident, 1.5)
        other.open()
        eventually(lambda: one.signal.in_incident, 1.0)
        for process in (one, other):
            eventually(lambda process=process: process.signal.status()["fleet_incident"] == 2)  # type: ignore[misc]
    finally:
        for process in (one, other):
            process.store.close()
