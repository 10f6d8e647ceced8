"""Ways to a Redis Cluster, and what is said of one that is wrong."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trustme

from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings
from resilience.stores.redis.scripts import bucket_key
from resilience.stores.settings import RedisStoreSettings
from tests.stores.clusters import (
    CLUSTER_RIGHTS,
    TestCluster,
    asked,
    keys_by_node,
    keys_of_one_slot,
    knows_map,
    slot_of,
)
from tests.stores.limits import Caller, be_patient, eventually, limiter_over
from tests.stores.limits import redis_store as patient_store
from tests.stores.proxy import FaultProxy
from tests.stores.servers import Server
from tests.stores.test_connections import RIGHTS

HOUR = 1 / 3600
redis_store = partial(patient_store, is_patient=False)


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
