"""A Redis Cluster: decisions go to the node of their slot, also while slots move."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from functools import partial

import pytest

from resilience.stores.redis.cluster import Cluster
from resilience.stores.redis.scripts import bucket_key
from tests.soak.sizes import by_length
from tests.stores.clusters import (
    TestCluster,
    asked,
    calls_of_scripts,
    keys_by_node,
    keys_of_one_slot,
    knows_map,
    slot_of,
)
from tests.stores.limits import Caller, be_patient, eventually, limiter_over
from tests.stores.limits import redis_store as patient_store
from tests.stores.servers import free_port

HOUR = 1 / 3600
redis_store = partial(patient_store, is_patient=False)


# --- where decisions go ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "lease"])
@pytest.mark.parametrize("way", ["threads", "loop"])
def test_keys_are_decided_by_the_nodes_of_their_slots(cluster: TestCluster, name: str, mode: str, way: str) -> None:
    with patient_store(cluster.url, name, mode=mode) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=3, key="header:x-key")
        keys = [key for own in keys_by_node(cluster, name, 10).values() for key in own]
        if way == "loop":
            found = Counter(asyncio.run(asked(limiter, keys * 5)))
        else:
            caller = Caller(limiter)
            threads = [threading.Thread(target=lambda: [caller.call(key) for key in keys]) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found = caller.found
        assert found == {"admitted": 90, "quota": 60}
        assert limiter.shared.without_store == 0
        eventually(lambda: knows_map(store))
        assert len(store.servers.nodes) == 3
    for server in cluster.masters:
        with server.client() as client:
            assert len(list(client.scan_iter(f"{name}:limit:*"))) == 10


def test_one_node_of_the_url_is_enough_and_it_need_not_be_the_first(cluster: TestCluster, name: str) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.servers[2].port}"
    with redis_store(url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=1, key="header:x-key"))
        eventually(lambda: knows_map(store))
        alone = caller.limiter.shared.without_store
        keys = [key for own in keys_by_node(cluster, name, 3).values() for key in own]
        assert [caller.call(key) for key in keys] == ["admitted"] * 9
        assert caller.limiter.shared.without_store == alone


def test_decisions_that_wait_together_share_a_trip_to_each_node(cluster: TestCluster, name: str) -> None:
    """The calls of one trip are sent together, one for each slot, and each bucket is asked about once in it."""
    with patient_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=40, key="header:x-key")
        keys = [key for own in keys_by_node(cluster, name, 3).values() for key in own]
        asyncio.run(asked(limiter, keys))
        eventually(lambda: knows_map(store))
        before = sum(calls_of_scripts(cluster).values())
        assert Counter(asyncio.run(asked(limiter, keys * 50))) == {"admitted": 9 * 39, "quota": 9 * 11}
        assert sum(calls_of_scripts(cluster).values()) - before <= 9 * 6 + 10, "450 decisions of nine keys"


def test_each_node_is_told_the_scripts_by_itself(cluster: TestCluster, name: str) -> None:
    with patient_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=5, key="header:x-key")
        caller = Caller(limiter)
        keys = [key for own in keys_by_node(cluster, name, 4).values() for key in own]
        for way in ("threads", "loop") * 2:
            for server in cluster.masters:
                cluster.tell(server, "SCRIPT", "FLUSH")
            found = asyncio.run(asked(limiter, keys)) if way == "loop" else [caller.call(key) for key in keys]
            assert found == ["admitted"] * len(keys)
        assert asyncio.run(asked(limiter, keys * 2)) == ["admitted"] * len(keys) + ["quota"] * len(keys), "each was decided once"
        assert limiter.shared.without_store == 0


# --- while slots move --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["threads", "loop"])
def test_a_slot_that_moves_is_asked_where_its_buckets_are(cluster: TestCluster, name: str, way: str) -> None:
    """Half of its buckets are here and half there; then all there; and nothing is decided twice."""
    keys = keys_of_one_slot(name, 4)
    slot = slot_of(name, keys[0])
    source = cluster.owner_of(bucket_key(name, "api", keys[0]))
    target = next(server for server in cluster.masters if server is not source)
    with patient_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=4, key="header:x-key")
        caller = Caller(limiter)

        def round_of_calls() -> list[str]:
            return asyncio.run(asked(limiter, keys)) if way == "loop" else [caller.call(key) for key in keys]

        def decided() -> None:
            assert round_of_calls() == ["admitted"] * 4
            assert limiter.shared.without_store == 0

        eventually(lambda: knows_map(store))
        be_patient(store)
        decided()
        cluster.begin_move(slot, source, target)
        cluster.tell(target, "SCRIPT", "FLUSH")
        decided()
        assert cluster.move_keys(slot, source, target, 2) == 2
        decided()
        while cluster.move_keys(slot, source, target):
            pass
        cluster.end_move(slot, target)
        decided()
        assert round_of_calls() == ["quota"] * 4, "four each and no more"
        assert limiter.shared.without_store == 0
        assert all(node.breaker.failures == 0 for node in store.servers.nodes)


def test_calls_go_on_while_slots_move_to_and_fro(cluster: TestCluster, name: str) -> None:
    first, second, _ = cluster.masters
    keys = keys_by_node(cluster, name, 6)[first.port]
    with patient_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=50, key="header:x-key")
        caller = Caller(limiter)
        eventually(lambda: knows_map(store))
        be_patient(store)
        is_over = threading.Event()

        def call() -> None:
            while not is_over.is_set():
                for key in keys:
                    caller.call(key)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(by_length(2, 30)):
            there, back = (first, second) if number % 2 == 0 else (second, first)
            for slot in {slot_of(name, key) for key in keys}:
                cluster.move(slot, there, back)
        eventually(lambda: caller.found["quota"] > 100, 20.0)
        is_over.set()
        for thread in threads:
            thread.join()
        assert limiter.shared.without_store == 0
        assert caller.admitted == 50 * len(keys)


@pytest.mark.parametrize("way", ["threads", "loop"])
def test_a_slot_that_nobody_serves_is_no_fault_of_a_node(cluster: TestCluster, name: str, way: str) -> None:
    keys = [key for own in keys_by_node(cluster, name, 2).values() for key in own]
    lost, others = keys[0], keys[1:]
    slot, owner = slot_of(name, lost), cluster.owner_of(bucket_key(name, "api", lost))
    with patient_store(cluster.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10, key="header:x-key")
        caller = Caller(limiter)

        def call(keys: list[str]) -> list[str]:
            return asyncio.run(asked(limiter, keys)) if way == "loop" else [caller.call(key) for key in keys]

        eventually(lambda: knows_map(store))
        be_patient(store)
        for server in cluster.masters:
            cluster.tell(server, "CLUSTER", "DELSLOTS", slot)
        assert call([lost] * 20) == ["admitted"] * 10 + ["cut"] * 10, "by the local share"
        assert call(others * 3) == ["admitted"] * 15
        assert limiter.shared.without_store == 20
        assert all(node.breaker.failures == 0 for node in store.servers.nodes)
        assert isinstance(store.servers, Cluster)
        slots = store.servers
        eventually(lambda: slots._slots[slot] is None)
        cluster.tell(owner, "CLUSTER", "ADDSLOTS", slot)

        def is_shared() -> bool:
            before = limiter.shared.without_store
            call([lost])
            return limiter.shared.without_store == before

        eventually(is_shared, 10.0)


def test_nodes_that_send_calls_round_in_circles_are_not_followed_for_ever(name: str) -> None:
    """No real cluster does so for long: a server that only says so stands in for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                while told := connection.recv(65_536):
                    connection.sendall(b"-ERR no map\r\n" if b"SLOTS" in told else b"-MOVED 7 127.0.0.1:%d\r\n" % port)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=answer, daemon=True).start()
        with redis_store(f"redis+cluster://127.0.0.1:{port}", name) as store:
            limiter = limiter_over(store, rate_per_s=HOUR, burst=2, key="header:x-key")
            assert [Caller(limiter).call("a") for _ in range(3)] == ["admitted", "admitted", "cut"], "by the local share"
            assert asyncio.run(asked(limiter, ["b"] * 3)) == ["admitted", "admitted", "cut"]
            assert limiter.shared.without_store == 6
        listener.shutdown(socket.SHUT_RDWR)
