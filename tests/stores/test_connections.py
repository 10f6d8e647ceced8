"""Ways to a server: TLS, users with rights of their own, a socket in the file system, sentinels."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from resilience.errors import ConfigError
from resilience.stores.redis.store import RedisStore
from resilience.stores.settings import RedisStoreSettings
from tests.stores.limits import Caller, eventually, limiter_over, redis_store
from tests.stores.proxy import FaultProxy
from tests.stores.servers import Server
from tests.stores.test_trouble import by_tasks

HOUR = 1 / 3600
RIGHTS = ["+evalsha", "+eval", "+time", "+get", "+set", "+del", "+@sortedset", "+pexpire", "+publish", "+subscribe", "+select"]


def check(url: str, name: str) -> None:
    """Threads and tasks reach one bucket there."""
    with redis_store(url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=6)
        caller = Caller(limiter)
        assert [caller.call() for _ in range(3)] == ["admitted"] * 3, store.breaker.reason
        assert asyncio.run(by_tasks(limiter, 5)) == ["admitted"] * 3 + ["quota"] * 2, store.breaker.reason
        assert store.breaker.failures == 0
        eventually(lambda: store.workers == 1 and store.offset_us)


def test_a_socket_in_the_file_system(tmp_path: Path, name: str) -> None:
    path = tmp_path / "server.sock"
    server = Server("--unixsocket", str(path))
    try:
        check(f"unix://{path}?db=3", name)
    finally:
        server.close()


def test_tls(server: Server, tmp_path: Path, name: str) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    files = {what: tmp_path / f"{what}.pem" for what in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    proxy = FaultProxy(server.port, context)  # the server of the wheel speaks no TLS itself
    try:
        check(f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={files['ca']}", name)
        with redis_store(f"rediss://127.0.0.1:{proxy.port}/0", name) as store:
            Caller(limiter_over(store, rate_per_s=HOUR, burst=1)).call()
            assert store.breaker.failures > 0, "a certificate that nobody vouches for"
    finally:
        proxy.close()


def test_a_user_with_the_rights_that_it_needs_and_no_more(name: str) -> None:
    """The rights are those that the documentation tells to give."""
    server = Server()
    try:
        with server.client() as client:
            client.acl_setuser(
                "limits",
                enabled=True,
                passwords=["+s3cret/!"],
                keys=[f"{name}:*", f"{{{name}}}:*"],
                channels=[f"{name}:*"],
                commands=["-@all", *RIGHTS],
            )
        check(f"redis://limits:s3cret%2F%21@127.0.0.1:{server.port}/0", name)
        with redis_store(f"redis://limits:wrong@127.0.0.1:{server.port}/0", name) as store:
            Caller(limiter_over(store, rate_per_s=HOUR, burst=1)).call()
            eventually(lambda: "WRONGPASS" in store.breaker.reason)
    finally:
        server.close()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[int, Server, Server]]:
    """A sentinel over a master and its replica."""
    master = Server()
    replica = Server("--replicaof", "127.0.0.1", str(master.port))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor limits 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds limits 300\nsentinel failover-timeout limits 1000\n"
    )
    watcher = Server("--sentinel", config=config)
    yield watcher.port, master, replica
    for server in (watcher, replica, master):
        server.close()


def test_sentinels_lead_to_the_master_and_to_the_next(sentinel: tuple[int, Server, Server], name: str) -> None:
    port, master, replica = sentinel
    url = f"redis+sentinel://127.0.0.1:{port}/limits/0"
    with replica.client() as client:
        eventually(lambda: client.info("replication")["master_link_status"] == "up", 20.0)
        check(url, name)
        with redis_store(url, f"{name}next") as store:
            caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=1_000_000))
            assert caller.call() == "admitted"
            master.kill()
            eventually(lambda: client.info("replication")["role"] == "master", 40.0)
            eventually(lambda: is_shared(caller), 20.0)


def is_shared(caller: Caller) -> bool:
    """Whether the next call is decided by the store."""
    before = caller.limiter.shared.without_store
    return caller.call() == "admitted" and caller.limiter.shared.without_store == before


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:port/0", "redis+sentinel://127.0.0.1:1/", "redis+sentinel://127.0.0.1:1/limits/x"],
)
def test_a_url_that_cannot_be_read_is_told_without_its_password(url: str) -> None:
    secret = url.replace("://", "://user:s3cret@")
    with pytest.raises(ConfigError) as caught:
        RedisStore(RedisStoreSettings(secret))
    assert "s3cret" not in str(caught.value)
