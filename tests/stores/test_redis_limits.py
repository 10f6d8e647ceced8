"""Limits in Redis, by threads and by event loops, strict and leased, seen from one process and from several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import Call, Decision, Pipeline, RateLimited
from resilience.stores.redis.store import RedisStore
from tests.stores.limits import Caller, eventually, limiter_over, redis_store
from tests.stores.servers import Server

MODES = ("strict", "lease")
HOUR = 1 / 3600


@pytest.fixture(params=MODES)
def store(request: pytest.FixtureRequest, server: Server, name: str) -> Iterator[RedisStore]:
    with redis_store(server.url, name, mode=request.param) as store:
        yield store


async def admitted_by_tasks(limiter: Any, tasks: int, calls: int) -> int:
    """How many of tasks x calls are let through on one event loop."""
    pipeline = Pipeline("p", limiter)

    async def work() -> None:
        return None

    async def run() -> int:
        count = 0
        for _ in range(calls):
            try:
                await pipeline.acall(work)
            except RateLimited:
                continue
            count += 1
        return count

    return sum(await asyncio.gather(*(run() for _ in range(tasks))))


def test_threads_never_get_more_than_the_bucket_holds(store: RedisStore) -> None:
    caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=100))
    threads = [threading.Thread(target=lambda: [caller.call() for _ in range(40)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caller.found == {"admitted": 100, "quota": 220}
    assert caller.limiter.decisions()["admitted"] == 100


def test_tasks_never_get_more_than_the_bucket_holds(store: RedisStore) -> None:
    limiter = limiter_over(store, rate_per_s=HOUR, burst=100)
    assert asyncio.run(admitted_by_tasks(limiter, 50, 8)) == 100
    assert asyncio.run(admitted_by_tasks(limiter, 5, 2)) == 0, "another loop has the same bucket"


@pytest.mark.parametrize("mode", MODES)
def test_processes_share_the_bucket(server: Server, name: str, mode: str) -> None:
    with redis_store(server.url, name, mode=mode) as one, redis_store(server.url, name, mode=mode) as other:
        callers = [Caller(limiter_over(store, rate_per_s=HOUR, burst=100)) for store in (one, other)]
        for _ in range(150):
            for caller in callers:
                caller.call()
        assert sum(caller.admitted for caller in callers) == 100
        assert min(caller.admitted for caller in callers) >= 25


@pytest.mark.parametrize("mode", MODES)
def test_keys_have_buckets_of_their_own(server: Server, name: str, mode: str) -> None:
    with redis_store(server.url, name, mode=mode) as store:
        caller = Caller(limiter_over(store, rate_per_s=HOUR, burst=3, key="header:x-key"))
        found = [[caller.call(key) for _ in range(5)] for key in ("a", "b", "a\x00", "ü\ud800")]
        assert found == [["admitted"] * 3 + ["quota"] * 2] * 4
        with server.client() as client:
            keys = list(client.scan_iter(f"{name}:limit:*"))
        assert len(keys) == 4
        assert all(len(key.rpartition(b"{")[2]) == 23 for key in keys), "128 bits of a hash, as a hash tag"


def test_a_refusal_tells_what_the_store_knows(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=0.5, burst=2)
        pipeline = Pipeline("p", limiter)
        pipeline.call(int)
        assert limiter.quota(Call()).remaining == 1
        pipeline.call(int)
        with pytest.raises(RateLimited) as caught:
            pipeline.call(int)
        assert caught.value.reason == "quota"
        assert caught.value.retry_after_s == pytest.approx(2.0, abs=0.2)
        quota = caught.value.quota
        assert quota is not None
        assert (quota.policy, quota.limit, quota.window_s, quota.remaining) == ("api", 2, 4, 0)
        assert quota.available_in_s == pytest.approx(2.0, abs=0.2)


def test_the_span_of_a_refusal_tells_what_is_left_for_its_key(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2, key="header:x-key")
        for _ in range(2):
            asked = limiter.admit(Call(key="a", now_us=limiter.clock.now_us()))
            asked.resume(asked.store.ask(asked.question))
        call = Call(key="a", now_us=limiter.clock.now_us())
        asked = limiter.admit(call)
        with pytest.raises(RateLimited):
            asked.resume(asked.store.ask(asked.question))
        assert limiter.attributes(call)["resilience.limiter.remaining"] == 0
        assert limiter.quota(Call(key="b")).remaining == 2


def test_a_cost_above_the_burst_is_refused_without_a_trip(server: Server, name: str) -> None:
    with redis_store("redis://127.0.0.1:1/0", name) as store:
        limiter = limiter_over(store, rate_per_s=10.0, burst=5, cost=6)
        with pytest.raises(RateLimited) as caught:
            Pipeline("p", limiter).call(int)
        assert caught.value.retry_after_s is None
        assert store.breaker.failures == 0


@pytest.mark.parametrize("mode", MODES)
def test_callers_queue_for_what_comes(server: Server, name: str, mode: str) -> None:
    with redis_store(server.url, name, mode=mode) as store:
        limiter = limiter_over(store, rate_per_s=50.0, burst=1, max_wait_s=1.0)
        assert asyncio.run(admitted_by_tasks(limiter, 5, 1)) == 5
        assert limiter.decisions()["queued"] == 4


def test_a_waiter_that_is_cancelled_gives_its_place_back(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=0.1, burst=1, max_wait_s=60.0)
        pipeline = Pipeline("p", limiter)

        async def work() -> None:
            return None

        async def wait_and_leave() -> None:
            await pipeline.acall(work)
            waiter = asyncio.ensure_future(pipeline.acall(work))
            while not limiter.decisions()["queued"]:  # noqa: ASYNC110  # what comes about is a count, not an event
                await asyncio.sleep(0.005)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)

        asyncio.run(wait_and_leave())
        question = limiter.shared.question(None, 0, 0)
        eventually(lambda: store.ask(question).units >= 0)  # type: ignore[union-attr]


def test_in_shadow_nothing_is_refused(store: RedisStore) -> None:
    limiter = limiter_over(store, rate_per_s=HOUR, burst=2, shadow=True)
    caller = Caller(limiter)
    assert [caller.call() for _ in range(5)] == ["admitted"] * 5
    assert limiter.decisions()["would_reject"] == 3


def test_a_call_without_time_is_not_held_up(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=2)
        call = Call(now_us=limiter.clock.now_us())
        call.deadline_us = call.now_us
        question = limiter.shared.question(None, 1, call.now_us, 0, 0)
        store.ask(question)
        assert store.breaker.failures == 0, "a caller without time is no evidence against the store"
        assert store.breaker.is_closed


def test_what_is_leased_and_not_used_is_given_back(server: Server, name: str) -> None:
    with redis_store(server.url, name, mode="lease") as greedy, redis_store(server.url, name) as strict:
        limiter = limiter_over(greedy, rate_per_s=HOUR, burst=1_000)
        caller = Caller(limiter)
        for _ in range(200):
            caller.call()
        assert caller.admitted == 200
        other = limiter_over(strict, rate_per_s=HOUR, burst=1_000)
        left = strict.ask(other.shared.question(None, 0, 0)).units // 1_000_000  # type: ignore[union-attr]
        assert left < 800, "it holds tokens that it has not spent"
        eventually(lambda: strict.ask(other.shared.question(None, 0, 0)).units // 1_000_000 == 800)  # type: ignore[union-attr]


def test_the_end_of_a_process_gives_its_lease_back(server: Server, name: str) -> None:
    with redis_store(server.url, name) as strict:
        with redis_store(server.url, name, mode="lease") as greedy:
            caller = Caller(limiter_over(greedy, rate_per_s=HOUR, burst=1_000))
            for _ in range(200):
                caller.call()
        other = limiter_over(strict, rate_per_s=HOUR, burst=1_000)
        assert strict.ask(other.shared.question(None, 0, 0)).units // 1_000_000 == 800  # type: ignore[union-attr]


def test_decisions_that_wait_together_share_a_trip(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store, server.client() as client:
        limiter = limiter_over(store, rate_per_s=1000.0, burst=10_000)
        asyncio.run(admitted_by_tasks(limiter, 1, 1))
        before = client.info("commandstats")
        assert asyncio.run(admitted_by_tasks(limiter, 100, 10)) == 1_000
        after = client.info("commandstats")
        calls = sum(after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after if "evalsha" in name)
        assert calls <= 60, "a thousand decisions of a hundred tasks"


def test_the_server_is_asked_once_a_decision(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store, server.client() as client:
        caller = Caller(limiter_over(store, rate_per_s=1000.0, burst=10_000))
        caller.call()
        before = client.info("commandstats")["cmdstat_get"]["calls"]
        for _ in range(100):
            caller.call()
        assert client.info("commandstats")["cmdstat_get"]["calls"] - before <= 110, "and what the thread asks meanwhile"


def test_decisions_are_counted_by_their_names(store: RedisStore) -> None:
    limiter = limiter_over(store, rate_per_s=HOUR, burst=1)
    call = Call(now_us=limiter.clock.now_us())
    Pipeline("p", limiter).call(int)
    assert limiter.decisions() == {"admitted": 1, "rejected": 0, "queued": 0, "would_reject": 0}
    assert limiter.status()["store"]["state"] == "closed"
    assert call.key is None
    assert Decision.ADMITTED.value == "admitted"
