"""The client interceptor for threads: sends each call of a channel through a pipeline."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import grpc

from resilience import Pipeline, Toolkit
from resilience.edges import Choose, Chosen, OutgoingPipelines
from resilience.integrations.grpc.calls import StreamCall, UnaryRun
from resilience.integrations.grpc.errors import RefusedRpc
from resilience.integrations.grpc.outgoing import RequestStream, RpcExchange
from resilience.integrations.grpc.refused import RefusedCall

Continuation = Callable[[Any, Any], Any]


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpc ships no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends each call through a pipeline: `grpc.intercept_channel(channel, ClientInterceptor(pipeline=payments))`.

    A call passes the layers before the pipeline's `Retry` once, and those after it for each try. Its timeout is the earliest of the
    caller's own, the enclosing deadline less the reserve, and the pipeline's. Tried again is what gRPC's own retries would repeat
    (gRFC A6): UNAVAILABLE, or what `on` names, until response headers or a message have come, at most five times in all, and never
    requests that were taken from an iterator. A refusal is raised as `Rejected`, and is a `grpc.RpcError` with a status code too.

    The channel's service config must have no `retryPolicy`: one layer retries, and this one knows the deadline, the budget and the
    health of the service.

    Args:
        config: the path of a configuration file, or a `Toolkit`; needed where `pipeline` is a name.
        pipeline: a pipeline made in code, or `toolkit.pipeline(name)`, or a name, or a function of the full method and the target
            that returns one of these, or None for no guard.
        target: what the channel calls, such as "inventory:50051": the key of breakers with `key: host`. Interceptors are not told.

    Raises:
        ConfigError: the file cannot be used, or has no such pipeline.
        TypeError: `pipeline` is none of these.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Chosen | Choose,
        target: str = "",
    ) -> None:
        self._pipelines = OutgoingPipelines(config, pipeline)
        self._target = target

    def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """A call with one request and one response, or its future."""
        pipeline = self._find(client_call_details)
        if pipeline is None:
            return continuation(client_call_details, request)
        return self._unary(pipeline, continuation, client_call_details, request, None)

    def intercept_stream_unary(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        """A call with a stream of requests and one response, or its future."""
        pipeline = self._find(client_call_details)
        if pipeline is None:
            return continuation(client_call_details, request_iterator)
        return self._unary(pipeline, continuation, client_call_details, None, RequestStream(request_iterator))

    def intercept_unary_stream(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """A call with one request and a stream of responses."""
        pipeline = self._find(client_call_details)
        if pipeline is None:
            return continuation(client_call_details, request)
        return self._stream(pipeline, continuation, client_call_details, request, None)

    def intercept_stream_stream(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        """A call with streams both ways."""
        pipeline = self._find(client_call_details)
        if pipeline is None:
            return continuation(client_call_details, request_iterator)
        return self._stream(pipeline, continuation, client_call_details, None, RequestStream(request_iterator))

    def close(self) -> None:
        """Give up the configuration file, once, where this was made with a path."""
        self._pipelines.close()

    def _find(self, details: Any) -> Pipeline | None:
        return self._pipelines.find(details.method, self._target)

    def _unary(
        self, pipeline: Pipeline, continuation: Continuation, details: Any, request: Any, requests: RequestStream | None
    ) -> Any:
        exchange = RpcExchange(pipeline, details, self._target, requests, streams_back=False)
        return UnaryRun(exchange, _sender(exchange, continuation, details, request)).begin()

    def _stream(
        self, pipeline: Pipeline, continuation: Continuation, details: Any, request: Any, requests: RequestStream | None
    ) -> Any:
        exchange = RpcExchange(pipeline, details, self._target, requests, streams_back=True)
        try:
            return StreamCall(exchange, _sender(exchange, continuation, details, request))
        except RefusedRpc as refusal:
            return RefusedCall(refusal)


class _Details(
    namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")),
    grpc.ClientCallDetails,  # type: ignore[misc]  # grpc ships no types
):
    """What one try is sent with."""


def _sender(exchange: RpcExchange, continuation: Continuation, details: Any, request: Any) -> Callable[[], Any]:
    """Sends one try, in the context of the plan."""

    def send() -> Any:
        timeout_s, metadata = exchange.begin_try()
        sent = _Details(
            details.method,
            timeout_s,
            metadata or None,
            getattr(details, "credentials", None),
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )
        return continuation(sent, request if exchange.requests is None else exchange.requests.as_sent())

    return send
