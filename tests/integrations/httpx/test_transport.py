"""What is httpx's own: transports within transports, timeouts by phase, the client's own pool, cancellation."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

import resilience
from resilience import BreakerState, CircuitBreaker, ConfigError, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.integrations.httpx import AsyncResilienceTransport, ResilienceTransport
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import PLAIN
from tests.integrations.outgoing.peer import TIMEOUT_S, Peer, says, says_nothing, stalls

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, *layers: Any, **options: Any) -> httpx.Client:
    """A client whose requests are answered in this process."""
    transport = ResilienceTransport(httpx.MockTransport(handler), pipeline=Pipeline("payments", *layers))
    return httpx.Client(transport=transport, base_url="http://payments.example", **options)


def plain(**limits: Any) -> httpx.HTTPTransport:
    """A transport over real sockets."""
    return httpx.HTTPTransport(verify=PLAIN, limits=httpx.Limits(**limits))


# --- the request that is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_s", [3.0, 8.0])
def test_no_timeout_is_longer_than_what_is_left(clock: ManualClock, left_s: float) -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions["timeout"]
        seen.append({name: timeouts.get(name) for name in ("connect", "read", "write", "pool")})
        clock.advance(1.0)
        seen.append({name: timeouts[name] for name in ("connect", "read", "write", "pool")})
        return httpx.Response(200)

    timeout = httpx.Timeout(5.0, read=1.0, pool=None)
    client(handler, Deadline(left_s, clock=clock)).get("/", timeout=timeout)
    first, later = min(5.0, left_s), min(5.0, left_s - 1.0)
    assert seen == [
        {"connect": first, "read": 1.0, "write": first, "pool": left_s},
        {"connect": later, "read": 1.0, "write": later, "pool": left_s - 1.0},
    ]


def test_without_a_deadline_timeouts_are_the_clients(clock: ManualClock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={**request.extensions["timeout"], "pool": request.extensions["timeout"].get("pool")})

    answered = client(handler, Retry(clock=clock)).get("/", timeout=httpx.Timeout(5.0, read=None))
    assert answered.json() == {"connect": 5.0, "read": None, "write": 5.0, "pool": 5.0}


def test_a_request_without_timeouts(clock: ManualClock) -> None:
    transport = ResilienceTransport(
        httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.extensions["timeout"].get("read")))),
        pipeline=Pipeline("payments", Deadline(2.0, clock=clock)),
    )
    response = transport.handle_request(httpx.Request("GET", "http://payments.example"))
    assert response.text == "2.0"


def test_a_transport_within_finds_the_content_and_the_other_extensions(clock: ManualClock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"{request.content!r} {request.extensions['trace']} {request.headers['x-own']}")

    answered = client(handler, Retry(clock=clock)).post(
        "/", content=b"10 EUR", extensions={"trace": "kept"}, headers={"x-own": "1"}
    )
    assert answered.text == "b'10 EUR' kept 1"


def test_a_deadline_that_passes_while_the_peer_takes_the_body_counts(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    class Slow(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.SyncByteStream)
            parts = iter(request.stream)
            assert next(parts) == b"taken "
            clock.advance(5.0)
            next(parts)
            raise AssertionError("more is sent after the deadline")

    transport = ResilienceTransport(Slow(), pipeline=Pipeline("payments", Deadline(5.0, clock=clock), breaker))
    with httpx.Client(transport=transport) as found, pytest.raises(DeadlineExceeded):
        found.put("http://payments.example", content=(part for part in (b"taken ", b"slowly")))
    assert breaker.state is BreakerState.OPEN


def test_files_in_a_form_are_sent_once(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503), says(503))
    with httpx.Client(transport=ResilienceTransport(plain(), pipeline=Pipeline("payments", Retry(clock=clock)))) as found:
        assert found.put(peer.url, files={"order": b"0123456789"}).status_code == 503
    (body,) = peer.bodies
    assert b"0123456789" in body


def test_headers_that_are_there_twice_stay_so(peer: Peer, clock: ManualClock) -> None:
    pipeline = Pipeline("payments", Retry(clock=clock))
    with httpx.Client(transport=ResilienceTransport(plain(), pipeline=pipeline), trust_env=False) as found:
        found.get(peer.url, headers=[("X-Tag", "one"), ("X-Tag", "two")])
    assert peer.seen[0].values("x-tag") == ["one", "two"]


def test_a_redirect_is_a_request_by_itself(clock: ManualClock) -> None:
    breaker = CircuitBreaker(key="host", clock=clock)

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "payments.example":
            return httpx.Response(302, headers={"location": "http://elsewhere.example/"})
        return httpx.Response(200)

    answered = client(handler, breaker, follow_redirects=True).get("/")
    assert (answered.status_code, str(answered.url)) == (200, "http://elsewhere.example/")
    assert breaker.status()["keys"] == 2


# --- responses of other transports ----------------------------------------------------------------------------------------------


def test_a_response_that_was_read_on_the_way_is_settled_at_once(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    answers = iter([503, 200, 500])
    found = client(
        lambda request: httpx.Response(next(answers), text="whole"), Retry(clock=clock), breaker, Deadline(9.0, clock=clock)
    )
    with pytest.raises(resilience.CircuitOpen):
        found.get("/")
    breaker.force("closed")
    breaker.force(None)
    assert found.get("/").text == "whole"
    assert found.get("/").status_code == 500
    assert breaker.state is BreakerState.OPEN


class Recorded(httpx.SyncByteStream):
    """A body that tells how it was used."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts

    def close(self) -> None:
        self.is_closed = True


def test_a_body_of_another_transport_is_closed_however_its_try_ended(clock: ManualClock) -> None:
    bodies = [Recorded(b"later"), Recorded(b"a ", b"body")]
    answers = iter([httpx.Response(503, stream=bodies[0]), httpx.Response(200, stream=bodies[1])])
    assert client(lambda request: next(answers), Retry(clock=clock)).get("/").text == "a body"
    assert [body.is_closed for body in bodies] == [True, True]


def test_an_answer_that_never_ends_is_read_no_further_than_is_worth_it(clock: ManualClock) -> None:
    class Endless(Recorded):
        read = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.read += 1
                yield b"x" * 1024

    body = Endless()
    answers = iter([httpx.Response(503, stream=body), httpx.Response(200)])
    assert client(lambda request: next(answers), Retry(clock=clock)).get("/").status_code == 200
    assert (body.read, body.is_closed) == (64, True)


# --- errors ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError])
def test_what_is_not_sent_for_reasons_of_our_own_is_neither_tried_again_nor_counted(
    clock: ManualClock, error: type[httpx.TransportError]
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    def handler(request: httpx.Request) -> httpx.Response:
        raise error("of our own")

    with pytest.raises(error):
        client(handler, Retry(clock=clock), breaker).get("/")
    assert (breaker.state, clock.slept_s) == (BreakerState.CLOSED, [])


@pytest.mark.parametrize("deadline_s", [0.05, None])
def test_a_full_pool_shows_nothing_of_the_peer(peer: Peer, deadline_s: float | None) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    deadline = Deadline(deadline_s)

    def choose(method: str, host: str) -> Pipeline | None:
        return Pipeline("payments", deadline, breaker) if method == "GET" else None

    with httpx.Client(transport=ResilienceTransport(plain(max_connections=1), pipeline=choose), trust_env=False) as found:
        peer.will(stalls())
        with (
            found.stream("POST", peer.url, timeout=TIMEOUT_S),
            pytest.raises(httpx.PoolTimeout if deadline_s is None else DeadlineExceeded),
        ):
            found.get(peer.url, timeout=httpx.Timeout(TIMEOUT_S, pool=0.05 if deadline_s is None else None))
    assert breaker.state is BreakerState.CLOSED


def test_other_errors_pass_as_themselves_and_count(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    def handler(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client(handler, Retry(clock=clock), breaker).get("/")
    assert breaker.state is BreakerState.OPEN


def test_an_interrupt_while_reading_shows_nothing_of_the_peer(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    class Interrupted(Recorded):
        def __iter__(self) -> Iterator[bytes]:
            raise KeyboardInterrupt
            yield b""

    with pytest.raises(KeyboardInterrupt):
        client(lambda request: httpx.Response(200, stream=Interrupted()), breaker).get("/")
    assert breaker.state is BreakerState.CLOSED


# --- tasks ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("answer", "state"),
    [(says_nothing, BreakerState.CLOSED), (stalls(), BreakerState.CLOSED), (stalls(status=503), BreakerState.OPEN)],
    ids=["no head", "half a body", "half a failure"],
)
def test_a_task_that_is_cancelled_leaves_nothing_behind_and_blames_nobody(
    library: Any, peer: Peer, answer: Any, state: BreakerState
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    pipeline = Pipeline("payments", Deadline(TIMEOUT_S), Retry(1), breaker)
    peer.will(answer)

    async def main() -> bool:
        has_begun = asyncio.Event()

        async def begun(response: Any) -> None:
            has_begun.set()

        transport = AsyncResilienceTransport(library.AsyncHTTPTransport(verify=PLAIN), pipeline=pipeline)
        hooks = {"response": [begun]}
        async with library.AsyncClient(transport=transport, trust_env=False, timeout=TIMEOUT_S, event_hooks=hooks) as found:
            task = asyncio.create_task(found.get(peer.url))
            if answer is says_nothing:
                await asyncio.to_thread(peer.asked.wait, TIMEOUT_S)
            else:
                await asyncio.wait_for(has_begun.wait(), TIMEOUT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(peer.hung_up.wait, TIMEOUT_S)

    assert asyncio.run(main())
    assert breaker.state is state  # a failure was known with its head


def test_a_deadline_that_passes_while_the_task_does_something_else_ends_the_next_read(clock: ManualClock) -> None:
    class Parts(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b"one"
            yield b"two"

    async def main() -> None:
        pipeline = Pipeline("payments", Deadline(5.0, clock=clock))
        inner = httpx.MockTransport(lambda request: httpx.Response(200, stream=Parts()))
        transport = AsyncResilienceTransport(inner, pipeline=pipeline)
        async with httpx.AsyncClient(transport=transport) as found, found.stream("GET", "http://payments.example") as answered:
            parts = answered.aiter_raw()
            assert await anext(parts) == b"one"
            clock.advance(5.0)
            await asyncio.sleep(0)  # nobody cancels what the task does between two parts
            with pytest.raises(DeadlineExceeded):
                await anext(parts)

    asyncio.run(main())


def test_many_tasks_share_one_pool(peer: Peer) -> None:
    pipeline = Pipeline("payments", Retry(100, backoff_s=0.0, budget=(1000, 1.0)), CircuitBreaker(failure_rate=1.0))
    peer.will(*[says(503, b"x" * 100_000), says(200, b"done")] * 40)

    async def main() -> list[int]:
        inner = httpx.AsyncHTTPTransport(verify=PLAIN, limits=httpx.Limits(max_connections=3))
        transport = AsyncResilienceTransport(inner, pipeline=pipeline)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=TIMEOUT_S) as found:
            answers = await asyncio.gather(*[found.get(peer.url) for _ in range(40)])
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200] * 40


def test_a_response_dropped_in_a_task_is_settled_by_the_next_request(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=1.0, clock=clock)
    with pytest.raises(ZeroDivisionError):
        Pipeline("broken", breaker).call(lambda: 1 / 0)
    clock.advance(1.0)  # it will let one probe through

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b"part"

    async def main() -> None:
        inner = httpx.MockTransport(lambda request: httpx.Response(200, stream=Body()))
        transport = AsyncResilienceTransport(inner, pipeline=Pipeline("payments", breaker))
        async with httpx.AsyncClient(transport=transport) as found:
            request = found.build_request("GET", "http://payments.example")
            await found.send(request, stream=True)
            gc.collect()
            assert (await found.get("http://payments.example")).text == "part"

    asyncio.run(main())
    assert breaker.state is BreakerState.CLOSED


# --- the configuration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "with"])
def test_a_transport_closes_what_it_opened(tmp_path: Path, how: str) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text("version: 1\ndeadlines: {out: {default: 5s}}\npipelines: {out: [{deadline: out}]}\n", encoding="utf-8")
    transport = ResilienceTransport(httpx.MockTransport(lambda request: httpx.Response(200)), path, pipeline="out")
    with resilience.load(path) as toolkit:
        found = httpx.Client(transport=transport)
        if how == "close":
            assert found.get("http://payments.example").status_code == 200
            found.close()
        else:
            with found:
                assert found.get("http://payments.example").status_code == 200
        toolkit.reload()
    with pytest.raises(ConfigError):
        toolkit.reload()


def test_the_same_in_a_task(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text("version: 1\ndeadlines: {out: {default: 5s}}\npipelines: {out: [{deadline: out}]}\n", encoding="utf-8")

    async def main() -> resilience.Toolkit:
        transport = AsyncResilienceTransport(httpx.MockTransport(lambda request: httpx.Response(200)), path, pipeline="out")
        toolkit = resilience.load(path)
        async with httpx.AsyncClient(transport=transport) as found:
            assert (await found.get("http://payments.example")).status_code == 200
        await transport.aclose()
        toolkit.close()
        return toolkit

    with pytest.raises(ConfigError):
        asyncio.run(main()).reload()


def test_a_request_that_nothing_guards_goes_through_as_it_is(clock: ManualClock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, text=str(type(request.extensions["timeout"]) is dict))

    transport = ResilienceTransport(httpx.MockTransport(handler), pipeline=lambda method, host: None)
    assert httpx.Client(transport=transport).get("http://payments.example").text == "True"
