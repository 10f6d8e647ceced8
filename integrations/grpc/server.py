"""The server interceptor for threads: wraps each handler once; what guards its method is looked up for each RPC."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from resilience import Pipeline, Toolkit
from resilience.edges import RouteSource, open_source
from resilience.integrations.grpc.exchange import Behavior, StreamExchange, UnaryExchange
from resilience.integrations.grpc.methods import DEFAULT_EXEMPT, Handlers

log = logging.getLogger("resilience")
_ARITIES: Final = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
_POOL: Final = "experimental_thread_pool"
_NON_BLOCKING: Final = "experimental_non_blocking"


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Guards the RPCs of a server of threads: `grpc.server(pool, interceptors=[ServerInterceptor("resilience.yaml")])`.

    It stands after interceptors that trace, so that its spans are theirs. A handler in a thread cannot be stopped when its deadline
    passes: its late response goes out all the same and is counted as `expired`. `resilience.current_deadline()` tells a handler how
    long it still has, its `check()` gives up, and outgoing calls through a pipeline are bounded by it.

    Args:
        config: the path of a configuration file, or a `Toolkit`. Its `grpc` routes say which pipeline guards which method.
        pipeline: one pipeline made in code that guards every method instead.
        exempt: services ("shop.v1.Orders") and methods ("/shop.v1.Orders/Get") that are not guarded, whatever the routes say;
            default health checks and reflection.

    Raises:
        ConfigError: the file cannot be used: the service does not start.
        TypeError: neither or both of `config` and `pipeline` are given, or `exempt` is one text.
        ValueError: a text in `exempt` names neither a service nor a method.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Pipeline | None = None,
        exempt: Iterable[str] = DEFAULT_EXEMPT,
    ) -> None:
        self._handlers = Handlers(self._wrap, exempt)
        self._source, close = open_source(config, pipeline)
        self._close: Callable[[], None] | None = close

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Wrap the handler. The thread that runs this serves every RPC: admission waits for the one that runs the handler."""
        handler = continuation(handler_call_details)
        return None if handler is None else self._handlers.guarded(handler_call_details.method, handler)

    def _wrap(self, method: str, handler: Any) -> Any:
        return wrapped(handler, lambda behavior, streams: guarded_behavior(self._source, method, behavior, streams=streams))

    def close(self) -> None:
        """Give up the configuration file, once. For servers that are taken down while the process lives on."""
        if self._close is not None:
            self._close()
            self._close = None


def behavior_of(handler: Any) -> Any:
    """The function of a handler that serves its method."""
    return getattr(handler, _ARITIES[bool(handler.request_streaming), bool(handler.response_streaming)][0])


def wrapped(handler: Any, wrap: Callable[[Any, bool], Any]) -> Any:
    """A handler like `handler` whose behavior is what `wrap` makes of that and of whether its responses are a stream."""
    name, make = _ARITIES[bool(handler.request_streaming), bool(handler.response_streaming)]
    behavior = wrap(getattr(handler, name), bool(handler.response_streaming))
    return make(behavior, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer)


def guarded_behavior(source: RouteSource, method: str, behavior: Behavior, *, streams: bool) -> Behavior:
    """What a thread of the server runs instead of `behavior`."""
    if getattr(behavior, _NON_BLOCKING, False):
        log.warning("%r answers through a callback (experimental_non_blocking), which is not guarded", behavior)
        return behavior
    guarded = _stream(source, method, behavior) if streams else _unary(source, method, behavior)
    if hasattr(behavior, _POOL):  # by which grpcio chooses the thread
        setattr(guarded, _POOL, getattr(behavior, _POOL))
    return guarded


def _unary(source: RouteSource, method: str, behavior: Behavior) -> Behavior:
    find = source.find_grpc

    def guarded_unary(request: Any, context: Any) -> Any:
        guarded = find(method)
        if guarded is None:
            return behavior(request, context)
        return UnaryExchange(guarded, method, context).run(behavior, request)

    return guarded_unary


def _stream(source: RouteSource, method: str, behavior: Behavior) -> Behavior:
    find = source.find_grpc

    def guarded_stream(request: Any, context: Any) -> Any:
        guarded = find(method)
        if guarded is None:
            return behavior(request, context)
        stream = StreamExchange(guarded, method, context)
        if not context.add_callback(stream.gone):
            stream.gone()  # it was over before it began
        stream.start(behavior, request)
        return stream

    return guarded_stream
