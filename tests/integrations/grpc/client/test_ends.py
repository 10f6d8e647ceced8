"""How a call says that it has ended, whatever it ended by, and whoever asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from resilience import CircuitBreaker, CircuitOpen, Deadline, Pipeline, Retry
from resilience.clock import SystemClock
from resilience.integrations.grpc import ClientInterceptor
from resilience.testing import ManualClock
from tests.integrations.grpc.client.clients import AioClient, Client, Driven, FutureClient
from tests.integrations.grpc.client.peer import HANG, KINDS, SERVICE, UNAVAILABLE, Fails, Peer

CODES = grpc.StatusCode
ALL = 10_000


class SleepingClock(SystemClock):
    """Waits between tries until it is told to wake. Knows which threads do."""

    def __init__(self) -> None:
        self.sleepers: list[str] = []
        self.asleep_now = threading.Event()
        self.wake = threading.Event()

    def sleep(self, duration_s: float) -> None:
        self.sleepers.append(threading.current_thread().name)
        self.asleep_now.set()
        self.wake.wait(10)

    async def asleep(self, duration_s: float) -> None:
        self.asleep_now.set()
        await asyncio.sleep(10)


@pytest.fixture
def sleeping() -> Iterator[SleepingClock]:
    """A clock whose sleepers wake in the end."""
    clock = SleepingClock()
    yield clock
    clock.wake.set()


def forced_open() -> Pipeline:
    """A pipeline whose breaker an operator holds open."""
    breaker = CircuitBreaker(name="out")
    breaker.force("open")
    return Pipeline("p", breaker)


def retrying(clock: Any, *layers: Any, **settings: Any) -> Pipeline:
    """A pipeline that retries once and has budget enough."""
    return Pipeline("p", Retry(**{"attempts": 2, "budget": (1000, 1.0), "clock": clock, **settings}), *layers)


async def told(call: Any, what: str) -> Any:
    """What a call says of itself, in threads and in tasks."""
    said = getattr(call, what)()
    return await said if hasattr(said, "__await__") else said


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_was_refused_says_so_of_itself(kind: str, drive: Driven, peer: Peer) -> None:
    async def steps(client: Client) -> None:
        call = client.begin(kind)
        ended: list[Any] = []
        if hasattr(call, "add_done_callback"):
            call.add_done_callback(ended.append)
        assert await told(call, "code") is CODES.UNAVAILABLE
        assert await told(call, "details") == "out: the circuit breaker is held open by its operator"
        assert list(await told(call, "initial_metadata")) == list(await told(call, "trailing_metadata")) == []
        assert (call.done(), call.cancelled(), call.cancel(), ended) == (True, False, False, [call])
        with pytest.raises(CircuitOpen) as caught:
            await responses(call)
        assert isinstance(caught.value, grpc.aio.AioRpcError)

    drive(forced_open(), steps)
    assert peer.tries == []


async def responses(call: Any) -> list[Any]:
    """All that a call answers."""
    if hasattr(call, "__aiter__") and not isinstance(call, grpc.aio.UnaryUnaryCall | grpc.aio.StreamUnaryCall):
        return [message async for message in call]
    if hasattr(call, "__await__"):
        return [await call]
    return list(call) if hasattr(call, "__next__") and not hasattr(call, "_future") else [await asyncio.to_thread(call.result, 10)]


@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
def test_a_call_of_a_task_tells_of_its_last_try(kind: str, peer: Peer, clock: ManualClock) -> None:
    peer.script = [Fails(CODES.UNAVAILABLE, (("x-try", "first"),))]

    async def steps(client: Client) -> None:
        call = client.begin(kind)
        codes: list[Any] = []
        call.add_done_callback(lambda call: codes.append(len(peer.tries)))
        assert await call.code() is CODES.OK
        assert dict(await call.trailing_metadata()) == {}
        assert await call.details() == ""
        assert b"".join(await responses(call)) == b"re: a"
        assert (call.done(), codes) == (True, [2])

    Driven(AioClient, peer.target)(retrying(clock), steps)


def test_two_tasks_that_wait_for_one_call_have_the_same_response(peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE]

    async def steps(client: Client) -> Any:
        call = client.begin("stream_unary")
        return await asyncio.gather(responses(call), responses(call))

    assert Driven(AioClient, peer.target)(retrying(clock), steps) == [[b"re: a"], [b"re: a"]]
    assert len(peer.tries) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_s_call_that_is_cancelled_between_two_tries_ends_at_once(kind: str, peer: Peer, sleeping: SleepingClock) -> None:
    peer.script = [UNAVAILABLE]

    async def steps(client: Client) -> None:
        call = client.begin(kind)
        waiting = asyncio.ensure_future(responses(call))
        assert await asyncio.to_thread(sleeping.asleep_now.wait, 10)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 5)
        assert call.cancelled()
        assert await call.code() is CODES.CANCELLED

    Driven(AioClient, peer.target)(retrying(sleeping), steps)
    assert len(peer.tries) == 1


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_a_future_that_is_cancelled_between_two_tries_ends_at_once(kind: str, peer: Peer, sleeping: SleepingClock) -> None:
    peer.script = [UNAVAILABLE]

    async def steps(client: Client) -> None:
        future = client.begin(kind)
        assert sleeping.asleep_now.wait(10)
        assert future.cancel()
        assert (future.done(), future.cancelled(), future.code()) == (True, True, CODES.CANCELLED)
        with pytest.raises(grpc.FutureCancelledError):
            future.result(5)

    Driven(FutureClient, peer.target)(retrying(sleeping), steps)
    assert len(peer.tries) == 1


@pytest.mark.parametrize(
    ("action", "make"),
    [
        (HANG, lambda clock: retrying(clock, Deadline(default_s=0.1, clock=clock))),
        (Fails(CODES.NOT_FOUND), lambda clock: retrying(clock, on=grpc.RpcError)),
        (UNAVAILABLE, retrying),
    ],
    ids=["deadline of a try", "named error", "code"],
)
def test_no_thread_of_grpc_waits_for_the_next_try(
    action: Any, make: Callable[[Any], Pipeline], peer: Peer, sleeping: SleepingClock
) -> None:
    peer.script = [action]
    sleeping.wake.set()

    async def steps(client: Client) -> None:
        assert await asyncio.to_thread(client.begin("unary_unary").result, 10) == b"re: a"

    Driven(FutureClient, peer.target)(make(sleeping), steps)
    assert sleeping.sleepers == ["resilience-grpc-retry"]


async def on_closed_channel(client: Client) -> None:
    await client.close()
    await client.call("unary_unary")


async def with_bad_metadata(client: Client) -> None:
    await client.call("unary_unary", metadata=(("Not A Key", "x"),))


@pytest.mark.parametrize("unsendable", [on_closed_channel, with_bad_metadata])
def test_a_call_that_grpc_cannot_send_says_nothing_of_the_peer(unsendable: Any, drive: Driven, peer: Peer) -> None:
    breaker = CircuitBreaker(min_calls=ALL, window_calls=ALL)
    with pytest.raises(Exception, match=r"losed|nvalid metadata|execute_batch"):
        drive(Pipeline("p", breaker), unsendable)
    assert (breaker.status()["admitted"], breaker.status()["failure_rate"]) == (1, 0.0)
    assert peer.tries == []


def test_metadata_that_can_be_read_once_travel_with_each_try(peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE]
    pairs = (("x-part", str(number)) for number in range(1))
    Driven(Client, peer.target)(retrying(clock), lambda client: client.call("unary_unary", metadata=pairs))
    assert [each.metadata.get("x-part") for each in peer.tries] == ["0", "0"]


@pytest.mark.parametrize("timeout_s", [float("inf"), 9.2e18], ids=str)
def test_a_timeout_without_end_is_none(timeout_s: float, drive: Driven, peer: Peer) -> None:
    """What `time_remaining()` says in a server of threads whose client set no deadline; gRPC takes it for one that has passed."""
    assert drive(Pipeline("p"), lambda client: client.call("unary_unary", timeout=timeout_s)) == [b"re: a"]


class Interrupted(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Makes plain generators of its calls, as tracers do, in which Ctrl-C is hit."""

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Iterator[Any]:
        call = continuation(client_call_details, request)
        if next(call):
            raise KeyboardInterrupt
        yield from call


def test_an_interrupted_stream_is_interrupted_whatever_interceptors_have_made_of_it(peer: Peer, clock: ManualClock) -> None:
    with grpc.insecure_channel(peer.target) as channel:
        guarded = grpc.intercept_channel(channel, ClientInterceptor(pipeline=retrying(clock)), Interrupted())
        with pytest.raises(KeyboardInterrupt):
            next(guarded.unary_stream(f"/{SERVICE}/unary_stream")(b"a"))


class Plain(Interrupted):
    """Makes plain generators of its calls."""

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Iterator[Any]:
        yield from continuation(client_call_details, request)


def test_two_guards_before_an_interceptor_that_makes_a_plain_iterator(peer: Peer, clock: ManualClock) -> None:
    guards = [ClientInterceptor(pipeline=retrying(clock)), ClientInterceptor(pipeline=retrying(clock))]
    with grpc.insecure_channel(peer.target) as channel:
        guarded = grpc.intercept_channel(channel, *guards, Plain())
        assert list(guarded.unary_stream(f"/{SERVICE}/unary_stream")(b"a")) == [b"re: a"]
