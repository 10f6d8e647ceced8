"""What goes wrong with a server and on the way to it: decisions go on by the local share, and none ends in an error."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis

from resilience import Pipeline, RateLimited, StoreChanged, subscribe
from resilience.stores.base import CONNECT_THREAD, STORE_THREAD
from resilience.stores.redis.lines import AsyncLine
from resilience.stores.redis.replies import Trouble
from resilience.stores.redis.scripts import Renewal
from resilience.stores.redis.store import RedisStore
from tests.stores.limits import Caller, eventually, limiter_over
from tests.stores.limits import redis_store as patient_store
from tests.stores.proxy import FaultProxy
from tests.stores.servers import Server, free_port

HOUR = 1 / 3600
redis_store = partial(patient_store, is_patient=False)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may harm."""
    server = Server("--busy-reply-threshold", "50")
    yield server
    server.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.port)
    yield proxy
    proxy.close()


class Changes:
    """The events of stores."""

    def __init__(self) -> None:
        self.seen: list[StoreChanged] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, StoreChanged):
            self.seen.append(event)


@pytest.fixture
def changes() -> Iterator[Changes]:
    changes = Changes()
    unsubscribe = subscribe(changes)
    yield changes
    unsubscribe()


def is_back(store: RedisStore) -> bool:
    return store.breaker.is_closed and store.breaker.state == "closed"


def is_shared(caller: Caller) -> bool:
    """Whether the store decides the next call."""
    before = caller.limiter.shared.without_store
    caller.call()
    return caller.limiter.shared.without_store == before


def some(caller: Caller, count: int = 20) -> list[str]:
    return [caller.call() for _ in range(count)]


# --- what the server says ----------------------------------------------------------------------------------------------------


@contextmanager
def read_only(server: Server, client: Any) -> Iterator[None]:
    client.replicaof("127.0.0.1", free_port())
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def out_of_memory(server: Server, client: Any) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


def is_refused(client: Any) -> bool:
    try:
        client.get("any")
    except redis.ResponseError:
        return True
    return False


@contextmanager
def busy(server: Server, client: Any) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", server.port)) as hog:
        hog.sendall(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n")
        eventually(lambda: is_refused(client))
        yield
        client.script_kill()


@contextmanager
def full(server: Server, client: Any) -> Iterator[None]:
    client.config_set("maxclients", 1)
    client.client_kill_filter(skipme=True)
    yield
    client.config_set("maxclients", 10_000)


@contextmanager
def locked(server: Server, client: Any) -> Iterator[None]:
    client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all", "-evalsha", "-eval"], keys=["*"], channels=["*"])
    yield
    client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"], keys=["*"], channels=["*"])


@contextmanager
def gone(server: Server, client: Any) -> Iterator[None]:
    server.kill()
    yield
    server.start()


TROUBLES = [
    (read_only, "the server says READONLY"),
    (out_of_memory, "the server says OOM"),
    (busy, "the server says BUSY"),
    (full, ""),
    (locked, "the server says NOPERM"),
    (gone, "no connection (Connection"),
]


@pytest.mark.parametrize(("trouble", "reason"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
@pytest.mark.parametrize("way", ["threads", "loop"])
def test_a_server_in_trouble_leaves_the_local_share(
    own_server: Server, name: str, changes: Changes, trouble: Any, reason: str, way: str
) -> None:
    with redis_store(own_server.url, name) as store, own_server.client() as client:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10)
        caller = Caller(limiter)
        assert some(caller, 4) == ["admitted"] * 4
        with trouble(own_server, client):
            found = some(caller, 40) if way == "threads" else asyncio.run(by_tasks(limiter, 40))
            assert set(found) <= {"admitted", "cut"}, "nothing but admissions and refusals"
            assert found.count("admitted") <= 10, "one burst at most"
            assert limiter.shared.without_store > 30
            assert store.breaker.state != "closed"
            assert reason in store.breaker.reason
            status = limiter.status()
            assert status["decided_without_store"] == limiter.shared.without_store
            assert status["store"]["last_failure"] == store.breaker.reason
        eventually(lambda: is_back(store))
        eventually(lambda: is_shared(caller), 10.0)
        assert [change.answers for change in changes.seen][:2] == [False, True]
        assert reason in changes.seen[0].reason


async def by_tasks(limiter: Any, count: int) -> list[str]:
    pipeline = Pipeline("p", limiter)

    async def work() -> None:
        return None

    async def one() -> str:
        try:
            await pipeline.acall(work)
        except RateLimited as refusal:
            return refusal.reason
        return "admitted"

    return [await one() for _ in range(count)]


def test_a_server_that_loads_says_so(name: str) -> None:
    """No small server loads for long enough: one that only says so stands in for it."""

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if connection.recv(65_536):
                            connection.sendall(b"-LOADING the dataset\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with redis_store(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", name) as store:
            limiter = limiter_over(store, rate_per_s=HOUR, burst=5)
            assert asyncio.run(by_tasks(limiter, 10)) == ["admitted"] * 5 + ["cut"] * 5
            assert store.breaker.reason == "the server says LOADING"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("answer", "found"), [("open", "admitted"), ("closed", "cut")])
def test_a_limiter_may_let_all_through_or_none(name: str, answer: Any, found: str) -> None:
    with redis_store(f"redis://127.0.0.1:{free_port()}/0", name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2, on_store_error=answer)
        caller = Caller(limiter)
        assert some(caller, 20) == [found] * 20
        assert sum(limiter.decisions().values()) == 20


def test_a_refusal_for_lack_of_a_store_is_a_reduced_capacity(name: str) -> None:
    with redis_store(f"redis://127.0.0.1:{free_port()}/0", name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2, on_store_error="closed", status=503)
        with pytest.raises(RateLimited) as caught:
            Pipeline("p", limiter).call(int)
        assert (caught.value.reason, caught.value.status, caught.value.retry_after_s) == ("cut", 503, 0.5)


def test_the_share_is_a_part_of_the_limit(own_server: Server, name: str) -> None:
    with redis_store(own_server.url, name) as one, redis_store(own_server.url, name) as other:
        limiters = [limiter_over(store, rate_per_s=HOUR, burst=100) for store in (one, other)]
        callers = [Caller(limiter) for limiter in limiters]
        for caller in callers:
            caller.call()
        eventually(lambda: one.workers == other.workers == 2)
        own_server.kill()
        for caller in callers:
            some(caller, 200)
        assert [caller.admitted for caller in callers] == [51, 51], "half of the burst each, and what was admitted before"
        assert limiters[0].status()["share_per_s"] == pytest.approx(HOUR / 2)


def test_one_absence_after_the_other_gives_no_fresh_share(own_server: Server, name: str) -> None:
    with redis_store(own_server.url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        own_server.kill()
        some(caller, 30)
        assert caller.admitted == 10
        for _ in range(2):
            own_server.start()
            eventually(lambda: is_back(store))
            own_server.kill()
            some(caller, 30)
        assert caller.admitted <= 10 + 2, "what slips in between the start and the next end, and no burst"


# --- what the server forgets -------------------------------------------------------------------------------------------------


def test_a_server_that_forgets_its_scripts_is_told_them_again(own_server: Server, name: str) -> None:
    with patient_store(own_server.url, name) as store, own_server.client() as client:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=30))
        for _ in range(5):
            client.script_flush()
            some(caller, 4)
        assert caller.admitted == 20
        assert store.breaker.failures == 0
        client.script_flush()
        assert asyncio.run(by_tasks(caller.limiter, 12)) == ["admitted"] * 10 + ["quota"] * 2, "each was decided once"


def test_a_server_that_forgets_everything_gives_a_burst_and_no_more(own_server: Server, name: str) -> None:
    with patient_store(own_server.url, name) as store, own_server.client() as client:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        some(caller, 20)
        client.flushall()
        some(caller, 40)
        assert caller.admitted == 20
        assert store.breaker.failures == 0


def test_evicted_buckets_are_full_ones(own_server: Server, name: str) -> None:
    with patient_store(own_server.url, name) as store, own_server.client() as client:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        some(caller, 20)
        client.delete(*client.scan_iter(f"{name}:limit:*"))
        some(caller, 20)
        assert caller.admitted == 20


# --- what happens on the way -------------------------------------------------------------------------------------------------


def test_a_slow_network_is_not_waited_for(proxy: FaultProxy, name: str) -> None:
    proxy.jitter(0.2, 0.1)
    with redis_store(proxy.url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        some(caller, 50)
        assert caller.admitted == 10
        assert max(caller.took_s) < 1.0
        assert store.breaker.state != "closed"
        proxy.delay_s = lambda: 0.0
        eventually(lambda: is_back(store))


def test_answers_in_slices_are_put_together(proxy: FaultProxy, name: str) -> None:
    proxy.slice_bytes = 3
    with patient_store(proxy.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10)
        assert some(Caller(limiter), 6) == ["admitted"] * 6
        assert asyncio.run(by_tasks(limiter, 6)) == ["admitted"] * 4 + ["quota"] * 2
        assert store.breaker.failures == 0


def test_answers_that_trickle_in_are_given_up(proxy: FaultProxy, name: str) -> None:
    """No single wait is long; all of them together are."""
    with redis_store(proxy.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10)
        proxy.slice_bytes = 1
        proxy.delay_s = lambda: 0.01
        began_s = time.monotonic()
        assert store.ask(limiter.shared.question(None, 1, 0)) == store.breaker.away()
        assert time.monotonic() - began_s < 0.3, "40 ms, where the whole answer would take half a second"


def test_a_half_open_connection_is_given_up(proxy: FaultProxy, name: str) -> None:
    with redis_store(proxy.url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        caller.call()
        proxy.is_deaf = True
        some(caller, 30)
        assert store.breaker.state != "closed"
        proxy.is_deaf = False
        eventually(lambda: is_shared(caller), 10.0)


@pytest.mark.parametrize("ending", ["it is found", "it is not known"])
def test_a_name_that_is_long_in_being_looked_up_is_not_waited_for(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The system's own look-up knows no limit of time."""
    is_over, look_up, asked = threading.Event(), socket.getaddrinfo, list[object]()

    def slowly(host: object, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        assert is_over.wait(60)
        if ending == "it is not known":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up("127.0.0.1", *rest, **options)

    def connecting() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == CONNECT_THREAD]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with redis_store(f"redis://somewhere.internal:{server.port}/0", name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        some(caller, 5)
        assert max(caller.took_s) < 5.0, "the look-up never ends by itself"
        assert caller.limiter.shared.without_store == 5
        assert len(connecting()) <= 2, "then the store is asked no more"
        is_over.set()
        eventually(lambda: not connecting())
        if ending == "it is found":
            eventually(lambda: is_shared(caller), 10.0)
    assert set(asked) == {"somewhere.internal"}


def test_without_a_thread_to_be_had_there_is_no_connection(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that allows few processes. The store's thread is had later, and then the server."""
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        refused.append(thread.name)
        raise RuntimeError("can't start new thread")

    with redis_store(server.url, name) as store:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=10))
        assert some(caller, 3) == ["admitted"] * 3
        assert caller.limiter.shared.without_store == 3
        assert refused.count(STORE_THREAD) <= 1, "it is tried once a second"
        monkeypatch.undo()
        eventually(lambda: is_shared(caller), 10.0)


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_is_cut_at_rest_costs_nothing(proxy: FaultProxy, name: str, reset: bool) -> None:
    with patient_store(proxy.url, name) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=100))
        for _ in range(3):
            some(caller, 5)
            connections = proxy.connections
            proxy.cut(reset=reset)
            time.sleep(0.05)
            some(caller, 5)
            assert proxy.connections > connections
        assert caller.admitted == 30
        assert caller.limiter.shared.without_store == 0


def test_calls_that_are_cancelled_leave_their_answers_to_nobody(proxy: FaultProxy, name: str) -> None:
    """A thousand decisions cancelled in flight over a slow network: later ones get their own answers."""
    proxy.delay_s = lambda: 0.1
    with redis_store(proxy.url, name, timeout_s=0.05) as store:
        limiter = limiter_over(store, rate_per_s=1e6, burst=1_000_000, key="header:x-key")
        pipeline = Pipeline("p", limiter)

        async def work() -> None:
            return None

        async def cancelled(number: int) -> None:
            async with pipeline.guard(key=f"other{number}", cost=number % 7 + 1):
                pass

        async def own(number: int) -> int:
            call = limiter.shared.question(f"own{number}", number, limiter.clock.now_us())
            answer = await store.aask(call)
            return getattr(answer, "units", -1)

        async def run() -> list[int]:
            for first in range(0, 1_000, 100):
                tasks = [asyncio.ensure_future(cancelled(first + number)) for number in range(100)]
                await asyncio.sleep(0.004)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            proxy.delay_s = lambda: 0.0
            while not is_back(store):  # noqa: ASYNC110  # it comes about in a thread
                await asyncio.sleep(0.01)
            return await asyncio.gather(*(own(number) for number in range(1, 50)))

        found = asyncio.run(run())
        assert found == [(1_000_000 - number) * 1_000_000 for number in range(1, 50)]
        assert store.breaker.failures > 0, "a hundred milliseconds are more than a decision waits for"


def test_no_script_runs_twice_for_one_decision(proxy: FaultProxy, server: Server, name: str) -> None:
    """Whether it ran is not known when no answer came: it is not asked again."""
    with redis_store(proxy.url, name) as store, server.client() as client:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=1_000)
        caller = Caller(limiter)
        caller.call()
        for _ in range(10):
            proxy.cut()
            some(caller, 3)
            eventually(lambda: is_back(store))
        with redis_store(server.url, name) as other:
            answer = other.ask(limiter.shared.question(None, 0, 0))
            assert answer.units // 1_000_000 >= 1_000 - len(caller.took_s)  # type: ignore[union-attr]
        assert client.ping()


def test_a_process_keeps_few_connections(server: Server, name: str) -> None:
    with patient_store(server.url, name) as store, server.client() as client:
        before = client.info("clients")["connected_clients"]
        limiter = limiter_over(store, rate_per_s=1e6, burst=1_000_000)
        Caller(limiter).calls_for(0.3, 2_000, threads=40)

        async def many() -> int:
            await asyncio.gather(*(by_tasks(limiter, 5) for _ in range(100)))
            found: int = client.info("clients")["connected_clients"]
            return found

        assert asyncio.run(many()) - before <= 5
        assert store.breaker.is_closed


@pytest.mark.parametrize("way", ["threads", "loop"])
def test_a_frozen_server_holds_nobody_up(own_server: Server, name: str, way: str) -> None:
    with redis_store(own_server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=100.0, burst=10)
        caller = Caller(limiter)
        caller.call()
        own_server.freeze()
        if way == "threads":
            caller.calls_for(1.0, 200)
            assert max(caller.took_s) < 0.5, "none hangs"
        else:
            assert set(asyncio.run(by_tasks(limiter, 200))) <= {"admitted", "cut"}
        assert store.breaker.state != "closed"
        own_server.thaw()
        eventually(lambda: is_shared(caller), 10.0)


@pytest.mark.parametrize("way", ["threads", "loop"])
def test_a_server_may_be_away_for_any_number_of_tries(own_server: Server, name: str, way: str) -> None:
    """redis-py's pools make a hundred connections by default, and then no more."""
    with redis_store(own_server.url, name) as store:
        line, lines, calls = AsyncLine(store.settings), store.servers.board.lines, [Renewal(name, "a", 0, [])]
        own_server.kill()

        async def tries() -> Sequence[Any]:
            for _ in range(250):
                with pytest.raises(Trouble):
                    await line.trip(calls, 1_000_000)
            own_server.start()
            replies = await line.trip(calls, 5_000_000)
            await line.close()
            return replies

        if way == "loop":
            assert [len(reply) for reply in asyncio.run(tries())] == [16]
            return
        for number in range(250):
            with pytest.raises(Trouble):
                lines.trip(calls, 1_000_000, is_patient=number % 2 == 0)
        own_server.start()
        for patient in (True, False):
            (reply,) = lines.trip(calls, 5_000_000, is_patient=patient)
            assert isinstance(reply, bytes)
            assert len(reply) == 16


@pytest.mark.parametrize("mode", ["strict", "lease"])
def test_what_was_taken_for_a_cancelled_call_goes_back(proxy: FaultProxy, name: str, mode: str) -> None:
    with patient_store(proxy.url, name, mode=mode) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=1_000, cost=7)

        async def ask() -> None:
            await store.aask(limiter.shared.question(None, 7, 0))

        async def leave() -> None:
            await ask()
            proxy.delay_s = lambda: 0.1
            tasks = [asyncio.ensure_future(ask()) for _ in range(10)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            proxy.delay_s = lambda: 0.0
            await asyncio.sleep(0.5)  # the trip that they were on ends

        asyncio.run(leave())
        with patient_store(proxy.url, name) as other:
            look = limiter.shared.question(None, 0, 0)
            eventually(lambda: other.ask(look).units // 1_000_000 == 993, 10.0)  # type: ignore[union-attr]
