"""The same channels for asyncio, over real connections."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import grpc
import pytest
from grpc import aio

from resilience import Deadline, Pipeline, Retry
from resilience.integrations.grpc import ChannelSettings
from resilience.integrations.grpc.aio import client_interceptors, connect
from resilience.testing import no_leaks_fixture
from tests.integrations.asgi.conversation import run as run_once
from tests.integrations.grpc.channel_peers import (
    CHAT,
    COUNT,
    METADATA,
    SUM,
    WAIT,
    WHO,
    Peer,
    child_serving,
    serving,
    unused_port,
)

no_leaks = no_leaks_fixture(autouse=True)

T = TypeVar("T")
TIMEOUT_S = 10.0


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as served:
        yield served


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run `scenario`, and let gRPC end what it ends by itself.

    The task of a cancelled call ends when the C core has heard of it; gRPC's thread with the last of its objects, of which
    exceptions hold some in circles.
    """

    async def to_its_end() -> T:
        result = await scenario
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=TIMEOUT_S)
        return result

    try:
        return run_once(to_its_end())
    finally:
        gc.collect()


async def ask(channel: Any, method: str = WHO, **kwargs: Any) -> Any:
    kwargs.setdefault("timeout", TIMEOUT_S)
    return await channel.unary_unary(method)(b"", **kwargs)


async def code_of(answer: Any) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await answer
    return caught.value.code()


def test_calls_go_round_all_servers() -> None:
    async def scenario(addresses: list[str]) -> Counter[bytes]:
        async with connect(addresses) as channel:
            while len({await ask(channel) for _ in range(6)}) < 3:
                pass
            return Counter([await ask(channel) for _ in range(30)])

    with ExitStack() as stack:
        peers = [stack.enter_context(serving(name)) for name in ("a", "b", "c")]
        assert run(scenario([peer.address for peer in peers])) == {b"a": 10, b"b": 10, b"c": 10}


def test_a_server_that_hangs_is_noticed() -> None:
    async def scenario(child: Any) -> None:
        async with connect(child.address, ChannelSettings(keepalive_s=0.2, keepalive_timeout_s=1.0)) as channel:
            assert await ask(channel) == b"peer"
            with child.hanging():
                assert await code_of(ask(channel)) is grpc.StatusCode.UNAVAILABLE

    with child_serving() as child:
        run(scenario(child))


def test_a_call_waits_for_a_server_that_comes_later() -> None:
    port = unused_port()
    settings = ChannelSettings(reconnect_initial_s=0.05, reconnect_max_s=0.1, wait_for_ready=True)

    async def scenario() -> None:
        async with connect(f"127.0.0.1:{port}", settings) as channel:
            assert await code_of(ask(channel, wait_for_ready=False)) is grpc.StatusCode.UNAVAILABLE
            call = channel.unary_unary(WHO)(b"", timeout=TIMEOUT_S)
            with serving("late", port=port):
                assert await call == b"late"
                await channel.channel_ready()
                assert channel.get_state() is grpc.ChannelConnectivity.READY

    run(scenario())


class Noting(aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details)
        return await continuation(details, request)


def test_metadata_goes_with_every_call_and_a_calls_own_wins(peer: Peer) -> None:
    noting = Noting()

    async def scenario() -> list[bytes]:
        defaults: list[tuple[str, str | bytes]] = [("x-tenant", "blue"), ("x-raw-bin", b"\x00")]
        own = aio.Metadata(("x-tenant", "green"))
        async with connect(peer.address, metadata=defaults, interceptors=[noting]) as channel:
            return [await ask(channel, METADATA), await ask(channel, METADATA, metadata=own, wait_for_ready=True)]

    told = run(scenario())
    assert told == [repr([("x-raw-bin", b"\x00"), ("x-tenant", tenant)]).encode() for tenant in ("blue", "green")]
    assert [details.metadata["x-tenant"] for details in noting.seen] == ["blue", "green"]
    assert (noting.seen[1].timeout, noting.seen[1].wait_for_ready) == (TIMEOUT_S, True)


# --- closing ------------------------------------------------------------------------------------------------------------------


async def two() -> Any:
    for item in (b"1", b"2"):
        yield item


async def _rest(stream: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    answers = aiter(stream)
    assert await anext(answers) == b"first"

    async def rest() -> list[bytes]:
        return [item async for item in answers]

    return rest


async def begin(channel: Any, kind: str) -> Callable[[], Coroutine[Any, Any, Any]]:
    if kind == "unary-stream":
        return await _rest(channel.unary_stream(COUNT)(b"", timeout=20))
    if kind == "stream-stream":
        return await _rest(channel.stream_stream(CHAT)(two(), timeout=20))
    call = channel.unary_unary(WAIT)(b"", timeout=20) if kind == "unary-unary" else channel.stream_unary(SUM)(two(), timeout=20)

    async def answer() -> Any:
        return await call

    return answer


KINDS = {"unary-unary": b"peer", "stream-unary": b"peer 12", "unary-stream": [b"peer"], "stream-stream": [b"peer", b"1", b"2"]}


async def arrived(peer: Peer) -> None:
    assert await asyncio.to_thread(peer.arrived.acquire, timeout=TIMEOUT_S)


@pytest.mark.parametrize("is_guarded", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_flight_end_in_peace(peer: Peer, kind: str, is_guarded: bool) -> None:
    pipeline = Pipeline("peer", Deadline(default_s=20.0), Retry(attempts=2))

    async def scenario() -> None:
        channel = connect(peer.address, interceptors=client_interceptors(pipeline=pipeline) if is_guarded else [])
        answer = await begin(channel, kind)
        await arrived(peer)
        closing = asyncio.create_task(channel.close(20.0))
        await asyncio.sleep(0)
        with pytest.raises(aio.UsageError, match="takes no more calls"):
            await ask(channel)
        assert not closing.done()
        peer.go.set()
        assert await answer() == KINDS[kind]
        await closing
        await channel.close()

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_take_longer_than_the_grace_are_cancelled(peer: Peer, kind: str) -> None:
    async def scenario() -> None:
        channel = connect(peer.address)
        answer = await begin(channel, kind)
        await arrived(peer)
        await channel.close(0.05)
        with pytest.raises(asyncio.CancelledError):
            await answer()

    run(scenario())


def test_closing_again_cuts_the_wait_short(peer: Peer) -> None:
    async def scenario() -> None:
        channel = connect(peer.address)
        answer = await begin(channel, "unary-unary")
        await arrived(peer)
        closing = asyncio.create_task(channel.close(3600.0))
        await asyncio.sleep(0)
        await channel.close(0)
        await asyncio.wait_for(closing, TIMEOUT_S)
        with pytest.raises(asyncio.CancelledError):
            await answer()

    run(scenario())


class Failing(Noting):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError("refused")


def test_an_idle_channel_closes_at_once(peer: Peer) -> None:
    async def scenario() -> None:
        async with connect(peer.address, ChannelSettings(close_grace_s=3600), interceptors=[Failing()]) as channel:
            with pytest.raises(LookupError):
                await ask(channel)
            stream = channel.unary_stream(COUNT)(b"", timeout=TIMEOUT_S)
            assert await stream.read() == b"first"
            stream.cancel()
            with pytest.raises(TypeError):
                channel.unary_unary(WHO)(b"", no_such_argument=1)

    run(scenario())


class TryingAgain(Noting):
    """Begins a second try while the channel closes."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        first = await continuation(details, request)
        await first
        return await continuation(details, request)


def test_a_call_may_try_again_while_its_channel_closes(peer: Peer) -> None:
    async def scenario() -> None:
        channel = connect(peer.address, interceptors=[TryingAgain(peer)])
        answer = await begin(channel, "unary-unary")
        await arrived(peer)
        closing = asyncio.create_task(channel.close(20.0))
        await asyncio.sleep(0)
        peer.go.set()
        assert await answer() == b"peer"
        await arrived(peer)
        await closing

    run(scenario())


def test_what_cannot_be_used_is_refused_as_for_threads() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="call_credentials: would travel unencrypted"):
            connect("127.0.0.1:1", call_credentials=grpc.access_token_call_credentials("a-token"))
        with pytest.raises(ValueError, match="gRPC looks up one name a channel"):
            connect(["a:1", "b:2"])

    run(scenario())
