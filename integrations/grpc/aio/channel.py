"""Channels for asyncio that are set up well: connections watched, calls spread over servers, closed without cutting calls off."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import grpc
from grpc import aio

from resilience.integrations.grpc.call_metadata import CallMetadata, Pairs, PairsOf
from resilience.integrations.grpc.channel import dialling
from resilience.integrations.grpc.credentials import Tls
from resilience.integrations.grpc.options import ChannelSettings


def connect(
    targets: str | Iterable[str],
    settings: ChannelSettings | None = None,
    *,
    tls: Tls | grpc.ChannelCredentials | None = None,
    interceptors: Sequence[Any] = (),
    metadata: Pairs | PairsOf = (),
    call_credentials: grpc.CallCredentials | None = None,
    service_config: Mapping[str, Any] | None = None,
    options: Iterable[tuple[str, Any]] = (),
) -> Channel:
    """Open a channel for asyncio: `async with connect("orders.internal:50051", interceptors=client_interceptors(...)) as channel:`.

    Args and what is raised: as for `resilience.integrations.grpc.connect`; `interceptors` are those of `grpc.aio`. The files
    of certificates are read here, so open channels at the start, not while the loop serves.
    """
    settings = ChannelSettings() if settings is None else settings
    call_metadata = CallMetadata(metadata)
    to = dialling(targets, settings, tls, call_credentials, service_config, options)
    if to.credentials is None:
        channel = aio.insecure_channel(to.uri, options=to.options, interceptors=list(interceptors))
    else:
        channel = aio.secure_channel(to.uri, to.credentials, options=to.options, interceptors=list(interceptors))
    return Channel(channel, call_metadata, settings.close_grace_s)


class Channel(aio.Channel):  # type: ignore[misc]  # grpc ships no types
    """A channel that closes in two steps: no more calls, and then, when those in flight are over or have had their time, the rest.

    It is used as any channel of `grpc.aio`; `async with connect(...) as channel:` closes it in the same way. Tries that a call in
    flight makes anew while the channel closes still go out.
    """

    def __init__(self, inner: Any, metadata: CallMetadata, close_grace_s: float) -> None:
        self._inner = inner
        self._metadata = metadata
        self._close_grace_s = close_grace_s
        self._is_closing = False
        self._calls: weakref.WeakSet[Any] = weakref.WeakSet()  # gRPC may cancel a call that nobody holds

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls, wait for those in flight, cancel what is left. Closing again, with less time, cuts the wait short.

        Args:
            grace: seconds to wait at most; default the settings' `close_grace_s`. 0 cancels at once.
        """
        self._is_closing = True
        calls = [call for call in self._calls if not call.done()]
        try:
            await _all_over(calls, self._close_grace_s if grace is None else grace)
        finally:
            for call in calls:
                call.cancel()
            await self._inner.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> MultiCallable:
        return self._counted(self._inner.unary_unary, method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> MultiCallable:
        return self._counted(self._inner.unary_stream, method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> MultiCallable:
        return self._counted(self._inner.stream_unary, method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> MultiCallable:
        return self._counted(self._inner.stream_stream, method, args, kwargs)

    def _counted(self, kind: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MultiCallable:
        return MultiCallable(kind(method, *args, **kwargs), method, self)

    def begin(self, send: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call.

        Raises:
            UsageError: the channel closes, as gRPC raises it.
        """
        if self._is_closing:
            raise aio.UsageError("the channel is closed, or about to be: it takes no more calls")
        args, kwargs = self._metadata.added_to(method, args, kwargs)
        call = send(*args, **kwargs)
        self._calls.add(call)
        return call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class MultiCallable:
    """What a stub calls. Arguments are gRPC's, and so are their defaults."""

    def __init__(self, inner: Any, method: str, channel: Channel) -> None:
        self._inner = inner
        self._method = method
        self._channel = channel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.begin(self._inner, self._method, args, kwargs)


async def _all_over(calls: list[Any], at_most_s: float) -> None:
    """Wait until every call is over, or for so long."""
    loop = asyncio.get_running_loop()
    ends = []
    for call in calls:
        end = loop.create_future()
        call.add_done_callback(lambda _, end=end: end.done() or end.set_result(None))
        ends.append(end)
    if ends:
        await asyncio.wait(ends, timeout=at_most_s)
