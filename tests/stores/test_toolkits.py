"""A configuration file whose state is shared: loaded, changed while it lives, and closed."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilience
from resilience import ConfigLoaded, RateLimited, Toolkit, subscribe
from resilience.stores.base import LANE_TASK, STORE_THREAD
from resilience.stores.redis import RedisStore
from tests.stores.limits import be_patient, eventually
from tests.stores.servers import Server

CONFIG = """\
version: 1
limiters: {{api: {{rate: 1/h, burst: 10}}, own: {{rate: 1/h, burst: 10, store: process}}}}
breakers: {{payments: {{}}}}
pipelines: {{api: [{{limiter: api}}], own: [{{limiter: own}}], payments: [{{breaker: payments}}]}}
store: {store}
"""


class Changes:
    def __init__(self) -> None:
        self.restarted: list[tuple[str, ...]] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, ConfigLoaded):
            self.restarted.append(event.restarted)


@pytest.fixture
def path(tmp_path: Path, server: Server, name: str) -> Path:
    path = tmp_path / "resilience.yaml"
    write(path, redis(server, name))
    return path


@pytest.fixture
def toolkit(path: Path) -> Iterator[Toolkit]:
    with resilience.load(path) as toolkit:
        eventually(lambda: toolkit.health().status()["shared"])
        yield toolkit


def redis(server: Server, name: str, mode: str = "strict") -> str:
    return f"{{redis: {{url: '{server.url}', name: {name}, mode: {mode}}}}}"


def write(path: Path, store: str) -> None:
    path.write_text(CONFIG.format(store=store), encoding="utf-8")


def admitted(toolkit: Toolkit, count: int, pipeline: str = "api") -> int:
    for store in toolkit.active.states.stores.values():  # however busy this machine is
        assert isinstance(store, RedisStore)
        be_patient(store)
    found = 0
    for _ in range(count):
        try:
            toolkit.pipeline(pipeline).call(int)
        except RateLimited:
            continue
        found += 1
    return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == STORE_THREAD]


def test_status_tells_of_the_store_and_not_where_it_is(toolkit: Toolkit, server: Server) -> None:
    admitted(toolkit, 4)
    status = toolkit.status()
    told = status["limiters"]["api"]
    assert (told["store"]["kind"], told["store"]["mode"], told["on_store_error"]) == ("redis", "strict", "local")
    assert told["remaining"] == 6
    assert "store" not in status["limiters"]["own"]
    assert status["health"]["default"]["shared"]
    assert str(server.port) not in json.dumps({**status, "path": ""})


def test_another_store_is_told_and_the_old_one_let_go(toolkit: Toolkit, path: Path, server: Server, name: str) -> None:
    assert admitted(toolkit, 4) == 4
    assert admitted(toolkit, 4, "own") == 4
    changes = Changes()
    unsubscribe = subscribe(changes)
    try:
        write(path, redis(server, name, "lease"))
        toolkit.reload()
        assert admitted(toolkit, 20) == 6, "the same bucket, asked in another way"
        write(path, "process")
        toolkit.reload()
        assert admitted(toolkit, 20) == 10, "a bucket of its own"
        assert admitted(toolkit, 20, "own") == 6, "this one never was shared"
    finally:
        unsubscribe()
    health, limiter = "health signal default", "limiter api"
    words = ("other settings of store redis", "store redis -> process")
    assert changes.restarted == [
        tuple(f"{what}: {change}, it goes by what is there" for what in (health, limiter)) for change in words
    ]
    eventually(lambda: not threads())


@pytest.mark.parametrize("next_store", ["process", "another mode"])
def test_an_event_loop_keeps_nothing_of_a_store_that_was_let_go(path: Path, server: Server, name: str, next_store: str) -> None:
    """Else its task would be destroyed while it waits, which asyncio logs as an error, and leave its connection open."""
    complaints: list[object] = []

    async def serve() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        with resilience.load(path) as toolkit:
            for _ in range(3):
                async with toolkit.pipeline("api").guard():
                    pass
            assert len(lanes()) == 1
            write(path, "process" if next_store == "process" else redis(server, name, "lease"))
            toolkit.reload()
            gc.collect()
            await ended()
            async with toolkit.pipeline("api").guard():
                pass
        await ended()

    def lanes() -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == LANE_TASK]

    async def ended() -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*lanes())
        assert not lanes()

    asyncio.run(serve())
    assert complaints == []


def test_settings_change_under_the_same_store(toolkit: Toolkit, path: Path) -> None:
    assert admitted(toolkit, 20) == 10
    path.write_text(path.read_text().replace("burst: 10", "burst: 1000"), encoding="utf-8")
    toolkit.reload()
    assert admitted(toolkit, 20) == 0, "touching the file fills no bucket"


def test_two_files_with_one_store_share_its_thread(toolkit: Toolkit, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text(), encoding="utf-8")
    with resilience.load(other) as second:
        assert admitted(toolkit, 6) + admitted(second, 6) == 10
        assert len(threads()) == 1
    assert admitted(toolkit, 1) == 0
    assert len(threads()) == 1


def test_a_toolkit_that_is_closed_leaves_no_thread(path: Path) -> None:
    with resilience.load(path) as toolkit:
        admitted(toolkit, 1)
        assert threads()
    eventually(lambda: not threads())


def test_a_forked_child_makes_connections_of_its_own(path: Path) -> None:
    """In a process of its own, since this one has threads of the test runner."""
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
    flags = ["-X", "dev", "-W", "error::ResourceWarning"]
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    before, in_child, after, alone = map(int, done.stdout.split())
    assert (before, in_child) == (2, 3), done.stderr
    assert "unclosed" not in done.stderr, "what a child has from its parent it closes"
    assert 5 <= after <= 5 + alone, "whatever a child does with its connections, its parent's answer as before"
