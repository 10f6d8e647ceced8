"""Where state lives: the forms of `store`, at the top of the file and in a limiter."""

from __future__ import annotations

import pytest

from resilience.config.effective import effective
from resilience.config.schema import LIMITERS
from resilience.stores.settings import PROCESS, HostStoreSettings, RedisStoreSettings
from tests.config.editor import complaints
from tests.config.reading import faults, load

URL = "redis://user:secret@127.0.0.1:6379/0"


def test_a_redis_store_with_its_defaults() -> None:
    document = load(f"store: {{redis: {{url: '{URL}'}}}}\nlimiters: {{a: {{rate: 1/s}}, b: {{rate: 1/s, store: process}}}}\n")
    assert document.store == RedisStoreSettings(URL, mode="strict", name="resilience", timeout_s=0.04, quorum=1)
    assert document.limiters["a"].store == document.store
    assert document.limiters["b"].store == PROCESS


def test_every_key_of_a_redis_store() -> None:
    document = load(f"store: {{redis: {{url: '{URL}', mode: lease, name: shop, timeout: 20ms, quorum: 3}}}}\n")
    assert document.store == RedisStoreSettings(URL, mode="lease", name="shop", timeout_s=0.02, quorum=3)


def test_a_host_store_in_a_word_and_with_every_key() -> None:
    assert load("store: host\n").store == HostStoreSettings(name=None, directory=None, quorum=1)
    document = load("store: {host: {name: shop, directory: /run/shop, quorum: 3}}\nlimiters: {a: {rate: 1/s}}\n")
    assert document.store == HostStoreSettings("shop", "/run/shop", quorum=3)
    assert document.limiters["a"].store == document.store
    assert not complaints("version: 1\nstore: host\n")
    assert not complaints("version: 1\nstore: {host: {name: shop, directory: /run/shop, quorum: 3}}\n")


def test_a_limiter_may_have_a_store_of_its_own() -> None:
    document = load(f"limiters: {{a: {{rate: 1/s, store: {{redis: {{url: '{URL}', mode: lease}}}}}}}}\n")
    assert document.store == PROCESS
    assert document.limiters["a"].store == RedisStoreSettings(URL, mode="lease")
    assert {setting.key: setting.text for setting in effective(document, LIMITERS, "a")}["store"] == "redis"


@pytest.mark.parametrize(
    ("store", "found"),
    [
        ("{redis: {}}", "store.redis.url: is missing: text"),
        ("{redis: {url: 'http://h'}}", "store.redis.url: must begin with redis://, rediss://, unix://, "),
        ("{redis: {url: 'redis://h', mode: leased}}", "store.redis.mode: must be one of strict, lease, got 'leased'"),
        ("{redis: {url: 'redis://h', timeout: 60ms}}", "store.redis.timeout: must be between 0.001 s and 0.05 s, got 0.06 s"),
        ("{redis: {url: 'redis://h', quorum: 0}}", "store.redis.quorum: must be between 1 and 10000, got 0"),
        ("{redis: {url: 'redis://h', nmae: a}}", "store.redis.nmae: is unknown; did you mean 'name'?"),
        ("{redis: 'redis://h'}", "store.redis: must be a mapping"),
    ],
)
def test_what_is_wrong_with_a_store_is_told_at_its_place(store: str, found: str) -> None:
    (told,) = faults(f"version: 1\nstore: {store}\n")
    assert found in told
    assert complaints(f"version: 1\nstore: {store}\n") or "http" in store, "an editor that goes by the schema sees it too"


@pytest.mark.parametrize("directory", ["run", "./run", "~/run"])
def test_workers_look_for_their_files_in_one_place(directory: str) -> None:
    """A relative path would lead each to another one, by its working directory."""
    (told,) = faults(f"version: 1\nstore: {{host: {{directory: {directory}}}}}\n")
    assert "store.host.directory: must be an absolute path, such as /run/shop, got '" in told


def test_an_address_is_never_told() -> None:
    settings = RedisStoreSettings(URL)
    assert "secret" not in repr(settings)
    (told,) = faults("version: 1\nstore: {redis: {url: 'http://user:secret@h'}}\n")
    assert "secret" not in told


def test_a_shared_limit_by_a_health_that_is_not_shared_is_warned_of() -> None:
    store = f"{{redis: {{url: '{URL}'}}}}"
    used = "pipelines: {p: [{limiter: a}]}\n"
    (warning,) = load(f"limiters: {{a: {{rate: 1/s, store: {store}}}}}\n{used}").warnings
    assert warning.key == "limiters.a.store"
    assert warning.message.startswith("is shared, but health signal 'default' is each process's own")
    assert "secret" not in warning.message
    assert load(f"limiters: {{a: {{rate: 1/s, health: none, store: {store}}}}}\n{used}").warnings == ()
    assert load(f"limiters: {{a: {{rate: 1/s}}}}\n{used}store: {store}\n").warnings == ()


def test_a_health_of_one_machine_is_no_fleets() -> None:
    redis, other = f"{{redis: {{url: '{URL}'}}}}", f"{{redis: {{url: '{URL}', name: other}}}}"
    used = "pipelines: {p: [{limiter: a}]}\n"
    (warning,) = load(f"limiters: {{a: {{rate: 1/s, store: {redis}}}}}\n{used}store: host\n").warnings
    assert warning.message.startswith("is shared, but health signal 'default' is each machine's own")
    for of_limiter, of_health in ((other, redis), ("host", redis), ("{host: {name: other}}", "host"), ("process", "host")):
        document = load(f"limiters: {{a: {{rate: 1/s, store: {of_limiter}}}}}\n{used}store: {of_health}\n")
        assert document.warnings == ()
        assert document.has_fleet_health("a") or of_limiter == "process"


@pytest.mark.parametrize("url", ["redis+cluster://h:7000,[::1]:7001", "rediss+cluster://user:secret@h/?ssl_ca_certs=ca.pem"])
def test_a_cluster_is_named_by_some_of_its_nodes(url: str) -> None:
    document = load(f"store: {{redis: {{url: '{url}'}}}}\n")
    assert document.store == RedisStoreSettings(url)


def test_a_cluster_that_cannot_be_reached_so_is_told_at_its_place() -> None:
    (told,) = faults("version: 1\nstore: {redis: {url: 'redis+cluster://user:secret@h:7000/1'}}\n")
    assert told.startswith("2:22: store.redis.url: a cluster has no databases")
    assert "secret" not in told
