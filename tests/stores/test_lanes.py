"""Questions on their way: who goes, who comes late, and who has little time, each at the worst instant."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resilience.layers.limiter.questions import Away, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.redis import lanes
from resilience.stores.redis.cluster import Cluster
from resilience.stores.redis.lines import AsyncLine, Lines
from resilience.stores.redis.replies import Trouble
from tests.stores.clusters import TestCluster, asked, knows_map
from tests.stores.limits import Caller, eventually, limiter_over, redis_store
from tests.stores.servers import Server

HOUR = 1 / 3600


def question_of(limiter: Any) -> Take:
    found: Take = limiter.shared.question(None, 1, 0)
    return found


def test_who_asks_while_a_connection_is_being_closed_is_answered(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10)
        close = AsyncLine.close

        async def run() -> Any:
            closing, may_go_on = asyncio.Event(), asyncio.Event()

            async def slowly(line: AsyncLine) -> None:
                closing.set()
                await may_go_on.wait()
                await close(line)

            monkeypatch.setattr(AsyncLine, "close", slowly)
            assert isinstance(await store.aask(question_of(limiter)), Decided)
            store.servers.board.lane_of(asyncio.get_running_loop()).end()
            await closing.wait()
            try:
                return await asyncio.wait_for(store.aask(question_of(limiter)), 10.0)
            finally:
                may_go_on.set()

        assert isinstance(asyncio.run(run()), Decided)


def test_what_comes_at_the_instant_at_which_its_caller_is_cancelled_goes_back(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = lanes.told
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=1)

        async def run() -> None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(store.aask(question_of(limiter)))

            def and_cancel(*answer: Any) -> Any:
                loop.call_soon(task.cancel)  # runs once the answer is there, and before its caller does
                return told(*answer)

            monkeypatch.setattr(lanes, "told", and_cancel)
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(run())
        monkeypatch.setattr(lanes, "told", told)
        caller = Caller(limiter)
        eventually(lambda: caller.call() == "admitted")
        assert limiter.shared.without_store == 0


def test_a_leader_with_little_time_spoils_it_for_nobody_behind(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trip = Lines.trip
    under_way, may_fail = threading.Event(), threading.Event()

    def first_too_late(self: Lines, calls: Any, timeout_us: int, **how: Any) -> Any:
        if timeout_us > 1_000:
            return trip(self, calls, timeout_us, **how)
        under_way.set()
        may_fail.wait(10.0)
        raise Trouble("no answer in time")

    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10)
        assert isinstance(store.ask(question_of(limiter)), Decided)
        monkeypatch.setattr(Lines, "trip", first_too_late)
        found: dict[str, Any] = {}

        def ask(who: str, timeout_us: int) -> None:
            question = question_of(limiter)
            question.timeout_us = timeout_us
            found[who] = store.ask(question)

        leader = threading.Thread(target=ask, args=("leader", 1_000))
        leader.start()
        assert under_way.wait(10.0)
        follower = threading.Thread(target=ask, args=("follower", 1 << 62))
        follower.start()
        lane = store.servers.board.threads
        eventually(lambda: lane._pending)
        may_fail.set()
        leader.join()
        follower.join()
        assert isinstance(found["leader"], Away)
        assert isinstance(found["follower"], Decided)
        assert store.breaker.failures == 0


def test_what_is_left_of_many_leases_goes_back_at_the_end(server: Server, name: str) -> None:
    keys = [f"k{number}" for number in range(300)]
    with redis_store(server.url, name, mode="lease") as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=100, key="header:x-key")
        asyncio.run(asked(limiter, keys * 3))
        assert len(store._leases or ()) == 300
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=100, key="header:x-key")
        left = [limiter.shared.buckets.ask(Take("api", key, limiter.shared.pace(), 0, 0)) for key in keys]
        assert {answer.units // 1_000_000 for answer in left if isinstance(answer, Decided)} == {97}


@contextmanager
def node_that_says(answer: bytes, to_slots: bytes) -> Iterator[int]:
    """The port of a server that says the same to whoever asks, as no real one does for long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                while said := connection.recv(65_536):
                    connection.sendall(to_slots if b"SLOTS" in said else answer)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_node_that_is_known_by_hearsay_alone_is_found_again(name: str) -> None:
    """No map is to be had where the user lacks the right to it: then there is what nodes say of each other."""
    other = Server()
    try:
        with (
            node_that_says(b"-MOVED 7 127.0.0.1:%d\r\n" % other.port, b"-NOPERM no right\r\n") as port,
            redis_store(f"redis+cluster://127.0.0.1:{port}", name, is_patient=False) as store,
        ):
            limiter = limiter_over(store, rate_per_s=HOUR, burst=1_000)
            caller = Caller(limiter)

            def is_shared() -> bool:
                before = limiter.shared.without_store
                caller.call()
                return limiter.shared.without_store == before

            eventually(is_shared, 20.0)
            other.kill()
            eventually(lambda: caller.call() and store.status()["state"] == "partly", 20.0)
            other.start()
            eventually(is_shared, 20.0)
    finally:
        other.close()


@pytest.mark.parametrize("address", [b"h:99999", b"h:0", b"h@x:1/2:7", b"[::1:7", b"not:an:address:7"])
def test_what_is_no_address_reaches_no_caller_and_does_not_stop_the_thread(name: str, address: bytes) -> None:
    host, _, port = address.rpartition(b":")
    of_node = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$%d\r\n%b\r\n:%b\r\n" % (len(host), host, port)
    with (
        node_that_says(b"-MOVED 7 %b\r\n" % address, of_node) as number,
        redis_store(f"redis+cluster://127.0.0.1:{number}", name, is_patient=False) as store,
    ):
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2, key="header:x-key")
        assert [Caller(limiter).call("a") for _ in range(3)] == ["admitted", "admitted", "cut"], "by the local share"
        assert asyncio.run(asked(limiter, ["b"] * 3)) == ["admitted", "admitted", "cut"]
        servers = store.servers
        assert isinstance(servers, Cluster)
        eventually(lambda: servers._turn >= 2)
        assert store._courier._last_error == ""


def test_a_node_that_tells_no_map_is_not_asked_again_while_others_do(cluster: TestCluster, name: str) -> None:
    """Whoever takes connections and says nothing would keep the store's thread for a quarter of a second each time."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        hosts = cluster.url.removeprefix("redis+cluster://")
        with redis_store(f"redis+cluster://127.0.0.1:{silent.getsockname()[1]},{hosts}", name) as store:
            eventually(lambda: knows_map(store), 20.0)
            servers = store.servers
            assert isinstance(servers, Cluster)
            store._courier.stop()
            told = [servers._learn() for _ in range(20)]
            assert told.count(False) <= 1
