"""HTTP as a back end of batches, over real sockets, in tasks and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, Pipeline, Retry
from resilience.batch import Balanced, BatchCaller, Kind, RequestNotMade, Results
from resilience.integrations.httpx.batch import HttpxBackend
from tests.integrations.outgoing.peer import Peer, breaks_off, closed_port, hangs_up, peering, says, says_nothing, stalls

Fetch = Callable[..., Results[Any]]


def in_tasks(requests: Any, pipeline: Pipeline | None = None, library: Any = httpx, **settings: Any) -> Results[Any]:
    async def run() -> Results[Any]:
        async with library.AsyncClient(trust_env=False, timeout=20) as client:
            found: Results[Any] = await BatchCaller(**settings).acall(HttpxBackend(client, pipeline), requests)
            return found

    return asyncio.run(run())


def in_threads(requests: Any, pipeline: Pipeline | None = None, library: Any = httpx, **settings: Any) -> Results[Any]:
    with library.Client(trust_env=False, timeout=20) as client, BatchCaller(**settings) as caller:
        found: Results[Any] = caller.call(HttpxBackend(client, pipeline), requests)
        return found


both = pytest.mark.parametrize("fetch", [in_tasks, in_threads], ids=["tasks", "threads"])


@both
@pytest.mark.parametrize("library", [httpx, httpx2])
def test_values_are_responses_read_whole(fetch: Fetch, library: Any, peer: Peer) -> None:
    results = fetch([peer.url, ("POST", peer.url), library.Request("PUT", peer.url, content=b"x")], library=library)
    assert [(response.status_code, response.content) for response in results.values()] == [(200, b"done")] * 3
    assert sorted(seen.method for seen in peer.seen) == ["GET", "POST", "PUT"]


@both
def test_each_answer_has_its_kind_and_its_vote(fetch: Fetch, peer: Peer) -> None:
    breaker = CircuitBreaker(min_calls=100)
    peer.will(says(404), says(429), says(503), says(504), says(409), hangs_up, breaks_off, says(200, b"done"))
    results = fetch([peer.url] * 8, Pipeline("stock", breaker), concurrency=1)
    assert [getattr(result, "kind", None) for result in results] == [
        Kind.BUSINESS,
        Kind.REFUSED,
        Kind.TRANSPORT,
        Kind.TIMEOUT,
        Kind.BUSINESS,
        Kind.TRANSPORT,
        Kind.TRANSPORT,
        None,
    ]
    assert getattr(results[0], "error").response.status_code == 404  # noqa: B009  # an Err has it
    assert breaker.pool.single.failure_rate(breaker.clock.now_us()) == 0.5  # of eight: 503, 504 and two that broke off


@both
def test_a_peer_that_is_not_there(fetch: Fetch) -> None:
    with closed_port() as url:
        assert [failure.kind for failure in fetch([url]).errors()] == [Kind.TRANSPORT]


@both
def test_a_request_that_cannot_be_made(fetch: Fetch, peer: Peer) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    results = fetch(["http://stock:no-port", peer.url], Pipeline("stock", breaker))
    assert (type(results.errors()[0].error), len(results.values())) == (RequestNotMade, 1)
    assert breaker.state is BreakerState.CLOSED


@both
def test_retries_and_time_go_by_http(fetch: Fetch, peer: Peer) -> None:
    peer.will(says(503), says(200, b"again"))
    results = fetch([peer.url], Pipeline("stock", Deadline(5.0), Retry(backoff_s=0.001)), timeout_s=2.0)
    assert [response.content for response in results.values()] == [b"again"]
    assert peer.values("x-retry-attempt") == [None, "1"]
    assert all(0 < int(said or 0) <= 2000 for said in peer.values("x-envoy-expected-rq-timeout-ms"))


@both
@pytest.mark.parametrize("layers", [(), (Deadline(0.5),)], ids=["bare", "deadline"])
@pytest.mark.parametrize("hangs", [says_nothing, stalls()], ids=["at once", "in the body"])
def test_a_peer_that_hangs_is_late_and_opens_its_breaker(fetch: Fetch, peer: Peer, layers: Any, hangs: Any) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    peer.will(hangs)
    results = fetch([peer.url], Pipeline("stock", *layers, breaker), timeout_s=0.3, grace_s=2.0)
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [(Kind.TIMEOUT, False)]
    assert breaker.state is BreakerState.OPEN


@both
def test_a_sick_endpoint_is_skipped(fetch: Fetch) -> None:
    with peering() as sick, peering() as well:
        sick.will(*[says(503)] * 50)
        breaker = CircuitBreaker(consecutive_failures=2)

        async def run() -> Results[Any]:
            async with httpx.AsyncClient(trust_env=False) as client:

                class At(HttpxBackend):
                    def __init__(self, peer: Peer, pipeline: Pipeline) -> None:
                        super().__init__(client, pipeline, name=peer.host)
                        self.url = peer.url

                    def prepare(self, request: Any) -> Any:
                        return super().prepare(self.url + request)

                balanced: Any = Balanced(At(sick, Pipeline("sick", breaker)), At(well, Pipeline("well", CircuitBreaker())))
                return await BatchCaller(concurrency=1).acall(balanced, ["/a"] * 12)

        results = asyncio.run(run())
        assert [result.ok for result in results] == [False, True, False, True, *[True] * 8]
        assert (len(sick.seen), len(well.seen)) == (2, 10)


def test_only_what_can_be_repeated_is_hedged() -> None:
    backend = HttpxBackend(httpx.Client(trust_env=False))
    url = "http://stock"
    assert backend.may_hedge(url)
    assert backend.may_hedge(("put", url))
    assert not backend.may_hedge(("POST", url))
    assert not backend.may_hedge(httpx.Request("POST", url, content=b"x"))
    assert backend.may_hedge(httpx.Request("POST", url, content=b"x", headers={"idempotency-key": "7"}))
    assert not backend.may_hedge(httpx.Request("PUT", url, content=iter([b"x"])))


def test_answers_may_all_be_values(peer: Peer) -> None:
    peer.will(says(503))
    with httpx.Client(trust_env=False) as client, BatchCaller() as caller:
        results = caller.call(HttpxBackend(client, raise_for_status=False), [peer.url])
    assert [response.status_code for response in results.values()] == [503]


def test_a_redirect_is_followed_as_the_client_does(peer: Peer) -> None:
    peer.will(says(302, location="/there"))
    with httpx.Client(trust_env=False, follow_redirects=True) as client, BatchCaller() as caller:
        (response,) = caller.call(HttpxBackend(client, Pipeline("stock", Deadline(5.0))), [peer.url]).values()
    assert (response.status_code, [seen.path for seen in peer.seen]) == (200, ["/", "/there"])


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(TypeError, match=r"client must be an httpx.AsyncClient or an httpx.Client, got 'http://stock'"):
        HttpxBackend("http://stock")
