"""A Redis Cluster: decisions go to the node of their slot, also while slots move, nodes die and others take over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.crc import key_slot

from resilience import Pipeline, RateLimited, StoreChanged, subscribe
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, Hold
from resilience.stores.redis import RedisStore
from resilience.stores.redis.cluster import Cluster
from resilience.stores.redis.scripts import board_key, bucket_key, channel
from resilience.stores.settings import RedisStoreSettings
from tests.soak.sizes import by_length
from tests.stores.clusters import TestCluster
from tests.stores.limits import Caller, be_patient, eventually, limiter_over
from tests.stores.limits import redis_store as patient_store
from tests.stores.proxy import FaultProxy
from tests.stores.servers import Server, free_port
from tests.stores.test_connections import RIGHTS

HOUR = 1 / 3600
CLUSTER_RIGHTS = ["+cluster|slots", "+asking"]
"""What a user needs besides the rights of one server. The documentation tells to give them."""
redis_store = partial(patient_store, is_patient=False)


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[TestCluster]:
    """One for all tests: it takes a cluster two seconds to begin."""
    cluster = TestCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: TestCluster) -> TestCluster:
    """With all nodes up, whatever a test before has done to them."""
    shared_cluster.eventually_agreed()
    return shared_cluster


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


def calls_of_scripts(cluster: TestCluster) -> dict[int, int]:
    found = {}
    for server in cluster.masters:
        told = cluster.tell(server, "INFO", "commandstats")
        found[server.port] = sum(what["calls"] for command, what in told.items() if "evalsha" in command)
    return found


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


# --- ways to it and its configuration ----------------------------------------------------------------------------------------


def test_a_user_with_the_rights_that_it_needs_and_no_more(cluster: TestCluster, name: str) -> None:
    keys = keys_of_one_slot(name, 3)
    source = cluster.owner_of(bucket_key(name, "api", keys[0]))
    target = next(server for server in cluster.masters if server is not source)
    rights = [f"~{name}:*", f"~{{{name}}}:*", f"&{name}:*", "-@all", *RIGHTS, *CLUSTER_RIGHTS]
    for server in cluster.masters:
        cluster.tell(server, "ACL", "SETUSER", name, "on", ">s3cret/!", *rights)
    with patient_store(cluster.url.replace("://", f"://{name}:s3cret%2F%21@"), name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2, key="header:x-key")
        signal = FleetHealthSignal(store, settings=HealthSettings(), name="default", clock=store.clock)
        store.join(signal)
        eventually(lambda: knows_map(store) and signal.status()["shared"])
        eventually(lambda: store._subscription is not None)
        be_patient(store)
        cluster.begin_move(slot_of(name, keys[0]), source, target)
        assert [Caller(limiter).call(key) for key in keys] == ["admitted"] * 3
        assert asyncio.run(asked(limiter, keys * 2)) == ["admitted"] * 3 + ["quota"] * 3
        cluster.move(slot_of(name, keys[0]), source, target)
        assert limiter.shared.without_store == 0


@pytest.mark.soak
def test_tls_to_every_node(tmp_path: Path, name: str) -> None:
    """The servers of the wheel speak none themselves: each announces the port of one that does."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    cluster = TestCluster()
    proxies = [FaultProxy(server.port, context) for server in cluster.masters]
    try:
        for server, proxy in zip(cluster.masters, proxies, strict=True):
            cluster.tell(server, "CONFIG", "SET", "cluster-announce-port", proxy.port)
        eventually(lambda: set(cluster.ports_of_slots()) == {proxy.port for proxy in proxies}, 20.0)
        with patient_store(f"rediss+cluster://127.0.0.1:{proxies[1].port}/?ssl_ca_certs={tmp_path / 'ca.pem'}", name) as store:
            limiter = limiter_over(store, rate_per_s=HOUR, burst=2, key="header:x-key")
            eventually(lambda: knows_map(store))
            be_patient(store)
            keys = [f"k{number}" for number in range(30)]
            assert [Caller(limiter).call(key) for key in keys] == ["admitted"] * 30
            assert asyncio.run(asked(limiter, keys)) == ["admitted"] * 30
            assert limiter.shared.without_store == 0
            assert {node.address for node in store.servers.nodes} == {("127.0.0.1", proxy.port) for proxy in proxies}
    finally:
        for proxy in proxies:
            proxy.close()
        cluster.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+cluster://", "one host at least"),
        ("redis+cluster:///0", "one host at least"),
        ("redis+cluster://user:s3cret@", "one host at least"),
        ("redis+cluster://user:s3cret@h:port", "HOST:PORT"),
        ("redis+cluster://user:s3cret@h:1,:2", "HOST:PORT"),
        ("redis+cluster://h:1,h:70000", "HOST:PORT"),
        ("redis+cluster://[::1:7000", "cannot be read"),
        ("redis+cluster://user:s3cret@h:1/3", "no databases"),
        ("redis+clusters://h:1", "must begin with"),
    ],
)
def test_a_url_that_is_wrong_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        RedisStoreSettings(url)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("RedisStoreSettings.url: ")


def test_one_server_is_no_cluster_and_a_cluster_no_server(server: Server, cluster: TestCluster, name: str) -> None:
    with redis_store(f"redis+cluster://127.0.0.1:{server.port}", name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=1)
        Caller(limiter).call()
        eventually(lambda: "is not one of a cluster" in (limiter.status()["store"]["last_failure"] or ""))
    with redis_store(cluster.url.split(",")[0].replace("redis+cluster", "redis"), name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=100, key="header:x-key")
        for key in (key for own in keys_by_node(cluster, name, 3).values() for key in own):
            Caller(limiter).call(key)
        assert "redis+cluster://" in limiter.status()["store"]["last_failure"]


def test_a_file_with_a_cluster_and_a_forked_child(cluster: TestCluster, name: str, tmp_path: Path) -> None:
    """In a process of its own, since this one has threads of the test runner."""
    path = tmp_path / "resilience.yaml"
    path.write_text(
        "version: 1\nlimiters: {api: {rate: 1/h, burst: 10}}\npipelines: {api: [{limiter: api}]}\n"
        f"store: {{redis: {{url: '{cluster.url}', name: {name}}}}}\n"
    )
    program = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: of forks while there are threads
import resilience
toolkit = resilience.load({str(path)!r})
def admitted(count):
    found = 0
    for _ in range(count):
        try:
            toolkit.pipeline("api").call(int)
        except resilience.RateLimited:
            continue
        found += 1
    return found
before = admitted(2)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b"%d" % admitted(3))
    os._exit(0)
os.waitpid(child, 0)
print(before, int(os.read(reading, 9)), admitted(20), toolkit.status()["limiters"]["api"]["decided_without_store"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    before, in_child, after, alone = map(int, done.stdout.split())
    assert (before, in_child) == (2, 3), done.stderr
    assert 5 <= after <= 5 + alone, "whatever a child does with its connections, its parent's answer as before"
