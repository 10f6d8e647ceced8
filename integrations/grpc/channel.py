"""Channels that are set up well: connections watched, calls spread over servers, closed without cutting calls off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import grpc

from resilience.integrations.grpc.call_metadata import CallMetadata, Pairs, PairsOf
from resilience.integrations.grpc.credentials import Tls, channel_credentials
from resilience.integrations.grpc.options import ChannelSettings, Options, channel_options
from resilience.integrations.grpc.service_config import service_config_text
from resilience.integrations.grpc.targets import Target, target_of

NAMES_OF_THE_SERVER = ("grpc.default_authority", "grpc.ssl_target_name_override")


class Dialling(NamedTuple):
    """What a channel is opened with; `credentials` is None for plain text."""

    uri: str
    credentials: Any
    options: Options


def dialling(
    targets: str | Iterable[str],
    settings: ChannelSettings,
    tls: Any,
    call_credentials: Any,
    service_config: Mapping[str, Any] | None,
    options: Iterable[tuple[str, Any]],
) -> Dialling:
    """Check what `connect` was given, and read the files.

    Raises:
        ValueError: it cannot be used.
        TypeError: `tls` or `call_credentials` is of the wrong kind.
    """
    target = target_of(targets)
    config = service_config_text(service_config, wait_for_ready=settings.wait_for_ready)
    made = channel_options(settings, config, options)
    if isinstance(tls, Tls) and tls.server_name is not None:
        if any(name in NAMES_OF_THE_SERVER for name, _ in made):
            raise ValueError(f"options: {' and '.join(NAMES_OF_THE_SERVER)} go with Tls.server_name: give one of them only")
        made.append(("grpc.default_authority", tls.server_name))
    return Dialling(target.uri, _credentials(target, made, tls, call_credentials), made)


def _credentials(target: Target, options: Options, tls: Any, call_credentials: Any) -> Any:
    if call_credentials is not None and not isinstance(call_credentials, grpc.CallCredentials):
        raise TypeError(f"call_credentials: must be a grpc.CallCredentials, got {type(call_credentials).__name__}")
    if tls is None:
        if call_credentials is not None:
            raise ValueError("call_credentials: would travel unencrypted: give tls as well, such as tls=Tls(ca_file='ca.pem')")
        return None
    if not isinstance(tls, (Tls, grpc.ChannelCredentials)):
        raise TypeError(f"tls: must be a Tls or a grpc.ChannelCredentials, got {type(tls).__name__}")
    if target.is_list and not any(name in NAMES_OF_THE_SERVER for name, _ in options):
        raise ValueError("Tls.server_name: needed with several addresses: the name that the certificates of all of them have")
    credentials = channel_credentials(tls) if isinstance(tls, Tls) else tls
    return credentials if call_credentials is None else grpc.composite_channel_credentials(credentials, call_credentials)


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
    """Open a channel: `stub = OrdersStub(connect("orders.internal:50051", interceptors=[ClientInterceptor(...)]))`.

    Args:
        targets: a DNS name with its port, or one or several IP addresses with theirs, or a URI as gRPC writes it. Calls go round
            all addresses that can be reached.
        settings: default `ChannelSettings()`.
        tls: where the certificates are, or credentials made with gRPC; default None: plain text, for loopback and service meshes.
        interceptors: gRPC's, outermost first. They see the metadata that is added here.
        metadata: pairs of key and value for every call, or a function of the method that returns them; a call's own come first.
        call_credentials: tokens for every call; only with `tls`.
        service_config: further service config, such as sizes for a method; it must not retry.
        options: further options of the C core, as gRPC takes them.

    Raises:
        ValueError: something that was given cannot be used; the text says what to write instead.
        TypeError: `tls` or `call_credentials` is of the wrong kind.
    """
    settings = ChannelSettings() if settings is None else settings
    call_metadata = CallMetadata(metadata)
    to = dialling(targets, settings, tls, call_credentials, service_config, options)
    if to.credentials is None:
        channel = grpc.insecure_channel(to.uri, options=to.options)
    else:
        channel = grpc.secure_channel(to.uri, to.credentials, options=to.options)
    return Channel(grpc.intercept_channel(channel, *interceptors), call_metadata, settings.close_grace_s)


class Channel(grpc.Channel):  # type: ignore[misc]  # grpc ships no types
    """A channel that closes in two steps: no more calls, and then, when those in flight are over or have had their time, the rest.

    It is used as any channel of gRPC; `with connect(...) as channel:` closes it in the same way. A stream whose interceptor returns
    something that is no call of gRPC, such as a generator, is not waited for.
    """

    def __init__(self, inner: Any, metadata: CallMetadata, close_grace_s: float) -> None:
        self._inner = inner
        self._metadata = metadata
        self._close_grace_s = close_grace_s
        self._calls = CallsInFlight()

    def close(self, grace_s: float | None = None) -> None:
        """Take no more calls, wait for those in flight, cancel what is left. Closing again, with less time, cuts the wait short.

        Args:
            grace_s: seconds to wait at most; default the settings' `close_grace_s`. 0 cancels at once.
        """
        try:
            self._calls.wait_for_last(self._close_grace_s if grace_s is None else grace_s)
        finally:
            if self._calls.end():
                self._inner.close()

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._inner.unsubscribe(callback)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> OneAnswer:
        return OneAnswer(self._inner.unary_unary(method, *args, **kwargs), method, self._calls, self._metadata)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> ManyAnswers:
        return ManyAnswers(self._inner.unary_stream(method, *args, **kwargs), method, self._calls, self._metadata)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> OneAnswer:
        return OneAnswer(self._inner.stream_unary(method, *args, **kwargs), method, self._calls, self._metadata)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> ManyAnswers:
        return ManyAnswers(self._inner.stream_stream(method, *args, **kwargs), method, self._calls, self._metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class CallsInFlight:
    """Counts the calls of one channel, refuses them once it closes, and waits for the last."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_closing = False
        self._is_over = False

    def enter(self) -> None:
        """One more call.

        Raises:
            ValueError: the channel closes, as gRPC raises it.
        """
        with self._changed:
            if self._is_closing:
                raise ValueError("the channel is closed, or about to be: it takes no more calls")
            self._count += 1

    def leave(self) -> None:
        """One call is over."""
        with self._changed:
            self._count -= 1
            if self._is_closing and self._count == 0:
                self._changed.notify_all()

    def leave_after(self, call: Any) -> None:
        """Leave when `call` is over; at once where nobody can tell."""
        add_callback = getattr(call, "add_callback", None)
        if add_callback is None or not add_callback(self.leave):
            self.leave()

    def wait_for_last(self, at_most_s: float) -> None:
        """Let no more calls in, and wait until the last has left, or somebody has lost patience."""
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: self._is_over or self._count == 0, at_most_s)

    def end(self) -> bool:
        """Wait no more, here or in another thread. True for whoever comes first."""
        with self._changed:
            is_first, self._is_over = not self._is_over, True
            self._changed.notify_all()
            return is_first


class _MultiCallable:
    """What a stub calls. Arguments are gRPC's, and so are their defaults."""

    def __init__(self, inner: Any, method: str, calls: CallsInFlight, metadata: CallMetadata) -> None:
        self._inner = inner
        self._method = method
        self._calls = calls
        self._metadata = metadata

    def _finish(self, send: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that is over when `send` returns."""
        self._calls.enter()
        try:
            args, kwargs = self._metadata.added_to(self._method, args, kwargs)
            return send(*args, **kwargs)
        finally:
            self._calls.leave()

    def _begin(self, send: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that goes on when `send` returns."""
        self._calls.enter()
        try:
            args, kwargs = self._metadata.added_to(self._method, args, kwargs)
            call = send(*args, **kwargs)
        except BaseException:
            self._calls.leave()
            raise
        self._calls.leave_after(call)
        return call


class OneAnswer(_MultiCallable):
    """A method that answers with one message, whatever it is sent."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._finish(self._inner, args, kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._finish(self._inner.with_call, args, kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(self._inner.future, args, kwargs)


class ManyAnswers(_MultiCallable):
    """A method that answers with a stream of messages."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._begin(self._inner, args, kwargs)
