"""Channels over real connections: spread, watched, bounded, waited for, closed without cutting calls off."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from resilience import Deadline, Pipeline, Retry
from resilience.integrations.grpc import ChannelSettings, ClientInterceptor, ServerSettings, connect
from resilience.testing import no_leaks_fixture
from tests.integrations.grpc.channel_peers import (
    CHAT,
    COUNT,
    ECHO,
    METADATA,
    PEER,
    SUM,
    WAIT,
    WHO,
    ChildPeer,
    Peer,
    child_serving,
    serving,
    socket_options,
    unused_port,
)
from tests.soak.sizes import by_length

no_leaks = no_leaks_fixture(autouse=True)

QUICK = ChannelSettings(reconnect_initial_s=0.05, reconnect_max_s=0.1)
TIMEOUT_S = 10.0


def ask(channel: Any, method: str = WHO, request: bytes = b"", **kwargs: Any) -> Any:
    kwargs.setdefault("timeout", TIMEOUT_S)
    return channel.unary_unary(method)(request, **kwargs)


def asked(channel: Any, times: int) -> Counter[bytes]:
    return Counter(ask(channel) for _ in range(times))


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def child() -> Iterator[ChildPeer]:
    with child_serving() as served:
        yield served


# --- several servers ----------------------------------------------------------------------------------------------------------


def test_calls_go_round_all_servers_and_skip_one_that_is_gone() -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(serving(name)) for name in ("a", "b", "c")]
        channel = stack.enter_context(connect([peer.address for peer in peers], QUICK))
        while len(asked(channel, 6)) < 3:  # until all three connections are there
            pass
        assert asked(channel, 30) == {b"a": 10, b"b": 10, b"c": 10}
        peers[1].stop()
        left = asked(channel, 30)
        assert set(left) == {b"a", b"c"}
        assert abs(left[b"a"] - left[b"c"]) <= 2
        stack.enter_context(serving("b again", port=peers[1].port))
        while b"b again" not in asked(channel, 3):
            pass


# --- a server that hangs ------------------------------------------------------------------------------------------------------


def test_a_server_that_hangs_is_noticed(child: ChildPeer) -> None:
    settings = ChannelSettings(keepalive_s=0.2, keepalive_timeout_s=1.0)
    with connect(child.address, settings) as channel:
        assert ask(channel) == b"peer"
        with child.hanging():
            code, details = code_of(lambda: ask(channel))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "timeout" in details


def test_without_pings_nobody_would_notice(child: ChildPeer) -> None:
    with connect(child.address, ChannelSettings(keepalive_s=None)) as channel:
        assert ask(channel) == b"peer"
        with child.hanging():
            assert code_of(lambda: ask(channel, timeout=0.8))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert ask(channel, wait_for_ready=True) == b"peer"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's option is Linux's own")
def test_the_kernel_gives_up_a_host_that_has_vanished(peer: Peer) -> None:
    with connect(peer.address, ChannelSettings(keepalive_timeout_s=7.0)) as channel:
        ask(channel)
        timeouts_ms = socket_options(peer.port, socket.TCP_USER_TIMEOUT)
    assert timeouts_ms == {7000}


@pytest.mark.soak
def test_our_servers_bear_pings_that_others_do_not() -> None:
    """Calls that nobody answers, and a channel without any, that ping all the time: until another server has had enough."""
    eager = ChannelSettings(keepalive_s=0.1, keepalive_timeout_s=5.0)
    idle = ChannelSettings(keepalive_s=0.1, keepalive_timeout_s=5.0, keepalive_without_calls=True)
    patient = ServerSettings(min_ping_interval_s=0.05)
    with ExitStack() as stack:
        ours, other_ours = stack.enter_context(serving(settings=patient)), stack.enter_context(serving(settings=patient))
        stock = stack.enter_context(serving(options=[]))
        quiet = stack.enter_context(connect(other_ours.address, idle))
        connection = ask(quiet, PEER)
        borne, channel = _waiting(stack, ours, eager), stack.enter_context(connect(stock.address, eager))
        code, details = code_of(lambda: ask(channel, WAIT, timeout=60))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "pings" in details
        with pytest.raises(grpc.FutureTimeoutError):
            borne.result(timeout=by_length(0.01, 60.0))
        ours.go.set()
        assert borne.result() == b"peer"
        assert ask(quiet, PEER) == connection


def _waiting(stack: ExitStack, peer: Peer, settings: ChannelSettings) -> Any:
    return stack.enter_context(connect(peer.address, settings)).unary_unary(WAIT).future(b"", timeout=120)


def test_the_defaults_of_both_sides_go_together_and_with_servers_that_know_nothing_of_us() -> None:
    keepalive_s = ChannelSettings().keepalive_s
    assert keepalive_s is not None
    assert keepalive_s >= 300  # what a server permits that says nothing else
    assert ServerSettings().min_ping_interval_s <= 10  # the least that a client may ask for


# --- connections that grow old ------------------------------------------------------------------------------------------------


def test_old_connections_are_replaced_and_no_call_fails() -> None:
    settings = ServerSettings(max_connection_age_s=0.1)
    seen: set[bytes] = set()
    failed: list[object] = []
    with serving(settings=settings) as peer, connect(peer.address, QUICK) as channel:

        def load() -> None:
            for _ in itertools.count():
                try:
                    seen.add(ask(channel, PEER))
                except grpc.RpcError as error:
                    failed.append(error)
                if len(seen) >= by_length(4, 40) or failed:
                    return

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failed
    assert len(seen) >= 4


def test_a_call_in_flight_outlives_its_connection_until_the_grace_is_over() -> None:
    settings = ServerSettings(max_connection_age_s=0.1, max_connection_age_grace_s=0.2)
    with serving(settings=settings) as peer, connect(peer.address, QUICK) as channel:
        assert code_of(lambda: ask(channel, WAIT))[0] is grpc.StatusCode.UNAVAILABLE
    with serving(settings=ServerSettings(max_connection_age_s=0.1)) as peer, connect(peer.address, QUICK) as channel:
        call = channel.unary_unary(WAIT).future(b"", timeout=TIMEOUT_S)
        assert peer.arrived.acquire(timeout=TIMEOUT_S)
        first = ask(channel, PEER)
        while ask(channel, PEER) == first:
            pass
        peer.go.set()
        assert call.result() == b"peer"


def test_two_servers_do_not_share_a_port_by_mistake(peer: Peer) -> None:
    with pytest.raises(RuntimeError, match="Failed to bind"), serving(port=peer.port):
        pass
    shared = ServerSettings(share_port=True)
    with serving(settings=shared) as one, serving(settings=shared, port=one.port) as two:
        assert one.port == two.port


# --- sizes --------------------------------------------------------------------------------------------------------------------

SMALL = 1000


@pytest.mark.parametrize(
    ("channel_settings", "server_settings", "told"),
    [
        (ChannelSettings(max_send_bytes=SMALL), ServerSettings(), "Sent message larger than max"),
        (ChannelSettings(max_receive_bytes=SMALL), ServerSettings(), "Received message larger than max"),
        (ChannelSettings(), ServerSettings(max_receive_bytes=SMALL), "Received message larger than max"),
        (ChannelSettings(), ServerSettings(max_send_bytes=SMALL), "Sent message larger than max"),
    ],
    ids=["client sends", "client receives", "server receives", "server sends"],
)
def test_larger_messages_are_refused(channel_settings: ChannelSettings, server_settings: ServerSettings, told: str) -> None:
    with serving(settings=server_settings) as peer, connect(peer.address, channel_settings) as channel:
        assert len(ask(channel, ECHO, b"x" * 400)) == 800
        code, details = code_of(lambda: ask(channel, ECHO, b"x" * 1001))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told in details


def test_sizes_can_be_unlimited() -> None:
    without = 5 * 1024 * 1024
    with (
        serving(settings=ServerSettings(max_receive_bytes=None)) as peer,
        connect(peer.address, ChannelSettings(max_receive_bytes=None)) as channel,
    ):
        assert len(ask(channel, ECHO, b"x" * without)) == 2 * without


# --- servers that come later --------------------------------------------------------------------------------------------------


def test_a_call_waits_for_a_server_that_comes_later() -> None:
    port = unused_port()
    settings = ChannelSettings(reconnect_initial_s=0.05, reconnect_max_s=0.1, wait_for_ready=True)
    with connect(f"127.0.0.1:{port}", settings) as channel:
        code, _ = code_of(lambda: ask(channel, wait_for_ready=False))
        assert code is grpc.StatusCode.UNAVAILABLE
        call = channel.unary_unary(WHO).future(b"", timeout=TIMEOUT_S)
        assert not call.done()
        with serving("late", port=port):
            assert call.result() == b"late"


def test_a_call_does_not_wait_unless_asked() -> None:
    with connect(f"127.0.0.1:{unused_port()}") as channel:
        assert code_of(lambda: ask(channel))[0] is grpc.StatusCode.UNAVAILABLE


def test_a_service_config_of_ones_own_keeps_what_it_says_and_gets_the_rest(peer: Peer) -> None:
    own = {"methodConfig": [{"name": [{"service": "test.Peer", "method": "Echo"}], "maxRequestMessageBytes": 10}]}
    with connect(peer.address, ChannelSettings(wait_for_ready=True), service_config=own) as channel:
        assert ask(channel, ECHO, b"x" * 10) == b"x" * 20
        assert code_of(lambda: ask(channel, ECHO, b"x" * 11))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- metadata -----------------------------------------------------------------------------------------------------------------


def test_metadata_goes_with_every_call_and_a_calls_own_wins(peer: Peer) -> None:
    with connect(peer.address, metadata=[("x-tenant", "blue"), ("x-raw-bin", b"\x00\xff")]) as channel:
        both = [("x-raw-bin", b"\x00\xff"), ("x-tenant", "blue")]
        assert ask(channel, METADATA) == repr(both).encode()
        mine = [("x-raw-bin", b"\x00\xff"), ("x-tenant", "green"), ("x-trace", "7")]
        assert ask(channel, METADATA, metadata=[("x-tenant", "green"), ("x-trace", "7")]) == repr(mine).encode()
        by_position = channel.unary_unary(METADATA)(b"", TIMEOUT_S, (("x-tenant", "green"), ("x-trace", "7")))
        assert by_position == repr(mine).encode()


def test_metadata_of_a_function_is_asked_for_each_call(peer: Peer) -> None:
    turn = itertools.count()
    with connect(peer.address, metadata=lambda method: [("x-turn", f"{method} {next(turn)}")]) as channel:
        told = [ask(channel, METADATA) for _ in range(2)]
    assert told == [repr([("x-turn", f"{METADATA} {turn}")]).encode() for turn in range(2)]


class Noting(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details)
        return continuation(details, request)


def test_interceptors_see_what_is_added(peer: Peer) -> None:
    noting = Noting()
    with connect(peer.address, interceptors=[noting], metadata=[("x-tenant", "blue")]) as channel:
        ask(channel, timeout=3, wait_for_ready=True)
    (details,) = noting.seen
    assert (details.method, details.timeout, details.wait_for_ready) == (WHO, 3, True)
    assert tuple(details.metadata) == (("x-tenant", "blue"),)


# --- closing ------------------------------------------------------------------------------------------------------------------

Begin = Callable[[Any], Callable[[], Any]]

KINDS: dict[str, tuple[Begin, Any]] = {
    "unary-unary": (lambda channel: channel.unary_unary(WAIT).future(b"", timeout=20).result, b"peer"),
    "stream-unary": (lambda channel: channel.stream_unary(SUM).future(iter([b"1", b"2"]), timeout=20).result, b"peer 12"),
    "unary-stream": (lambda channel: _rest(channel.unary_stream(COUNT)(b"", timeout=20)), [b"peer"]),
    "stream-stream": (lambda channel: _rest(channel.stream_stream(CHAT)(iter([b"1", b"2"]), timeout=20)), [b"peer", b"1", b"2"]),
}


def _rest(stream: Any) -> Callable[[], Any]:
    assert next(stream) == b"first"
    return lambda: list(stream)


def until_closing(channel: Any) -> None:
    """Call until the channel takes no more calls."""

    def ask_on() -> None:
        while True:
            ask(channel)

    with pytest.raises(ValueError, match="takes no more calls"):
        ask_on()


@pytest.mark.parametrize("is_guarded", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_flight_end_in_peace(peer: Peer, kind: str, is_guarded: bool) -> None:
    begin, answer = KINDS[kind]
    pipeline = Pipeline("peer", Deadline(default_s=20.0), Retry(attempts=2))
    channel = connect(peer.address, interceptors=[ClientInterceptor(pipeline=pipeline)] if is_guarded else [])
    result = begin(channel)
    assert peer.arrived.acquire(timeout=TIMEOUT_S)
    closing = threading.Thread(target=channel.close, args=[20.0])
    closing.start()
    until_closing(channel)
    assert closing.is_alive()
    peer.go.set()
    assert result() == answer
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    channel.close()


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_take_longer_than_the_grace_are_cancelled(peer: Peer, kind: str) -> None:
    channel = connect(peer.address)
    result = KINDS[kind][0](channel)
    assert peer.arrived.acquire(timeout=TIMEOUT_S)
    channel.close(0.05)
    assert code_of(result)[0] is grpc.StatusCode.CANCELLED


def test_a_blocking_call_is_waited_for(peer: Peer) -> None:
    channel = connect(peer.address)
    answers: list[bytes] = []
    caller = threading.Thread(target=lambda: answers.append(ask(channel, WAIT)))
    caller.start()
    assert peer.arrived.acquire(timeout=TIMEOUT_S)
    closing = threading.Thread(target=channel.close, args=[20.0])
    closing.start()
    until_closing(channel)
    peer.go.set()
    caller.join(TIMEOUT_S)
    closing.join(TIMEOUT_S)
    assert answers == [b"peer"]


def test_closing_again_cuts_the_wait_short(peer: Peer) -> None:
    channel = connect(peer.address)
    call = channel.unary_unary(WAIT).future(b"", timeout=20)
    assert peer.arrived.acquire(timeout=TIMEOUT_S)
    closing = threading.Thread(target=channel.close, args=[3600.0])
    closing.start()
    until_closing(channel)
    channel.close(0)
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    assert code_of(call.result)[0] is grpc.StatusCode.CANCELLED


def test_an_idle_channel_closes_at_once_and_as_often_as_one_likes(peer: Peer) -> None:
    with connect(peer.address, ChannelSettings(close_grace_s=3600)) as channel:
        assert ask(channel) == b"peer"
        assert channel.unary_unary(WHO).with_call(b"")[0] == b"peer"
        stream = channel.unary_stream(COUNT)(b"", timeout=TIMEOUT_S)
        assert next(stream) == b"first"
        stream.cancel()
        abandoned = channel.unary_stream(COUNT)(b"", timeout=TIMEOUT_S)
        del abandoned, stream
        assert code_of(lambda: ask(channel, "/test.Peer/Unknown"))[0] is grpc.StatusCode.UNIMPLEMENTED
    channel.close()
    with pytest.raises(ValueError, match="takes no more calls"):
        ask(channel)


class Failing(Noting):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError("refused")


def test_calls_that_never_left_are_not_waited_for(peer: Peer) -> None:
    with connect(peer.address, ChannelSettings(close_grace_s=3600), interceptors=[Failing()]) as channel:
        with pytest.raises(LookupError):
            ask(channel)
        call = channel.unary_unary(WHO).future(b"")
        with pytest.raises(LookupError):
            call.result()
        with pytest.raises(TypeError):
            channel.unary_unary(WHO)(b"", no_such_argument=1)


class Generating(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return (item for item in [b"made up"])


def test_what_is_no_call_of_grpc_is_not_waited_for(peer: Peer) -> None:
    with connect(peer.address, ChannelSettings(close_grace_s=3600), interceptors=[Generating()]) as channel:
        stream = channel.unary_stream(COUNT)(b"")
    assert list(stream) == [b"made up"]
