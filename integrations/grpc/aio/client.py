"""The client interceptors for asyncio: they send each call of a channel through a pipeline."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from resilience import Pipeline, Toolkit
from resilience.edges import Choose, Chosen, OutgoingPipelines
from resilience.integrations.grpc.aio.calls import Send, StreamStreamCall, StreamUnaryCall, UnaryStreamCall, aunary
from resilience.integrations.grpc.aio.ended import call_of
from resilience.integrations.grpc.outgoing import RequestStream, RpcExchange

Continuation = Callable[[Any, Any], Awaitable[Any]]


class _Ways:
    """The way of calls through the interceptors of one channel."""

    def __init__(self, pipelines: OutgoingPipelines, target: str) -> None:
        self._pipelines = pipelines
        self._target = target

    def find(self, details: Any) -> Pipeline | None:
        """The pipeline of a call, or None where it is not guarded."""
        method = details.method
        return self._pipelines.find(method.decode() if isinstance(method, bytes) else method, self._target)

    def exchange(self, pipeline: Pipeline, details: Any, requests: RequestStream | None, *, streams_back: bool) -> RpcExchange:
        """One call on its way."""
        return RpcExchange(pipeline, details, self._target, requests, streams_back=streams_back)


class _UnaryUnary(_Ways, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    async def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        pipeline = self.find(client_call_details)
        if pipeline is None:
            return await continuation(client_call_details, request)
        exchange = self.exchange(pipeline, client_call_details, None, streams_back=False)
        return await call_of(aunary(exchange, _sender(exchange, continuation, client_call_details, request)))


class _UnaryStream(_Ways, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    async def intercept_unary_stream(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        pipeline = self.find(client_call_details)
        if pipeline is None:
            return await continuation(client_call_details, request)
        exchange = self.exchange(pipeline, client_call_details, None, streams_back=True)
        return await call_of(UnaryStreamCall(exchange, _sender(exchange, continuation, client_call_details, request)).begin())


class _StreamUnary(_Ways, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    async def intercept_stream_unary(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        pipeline = self.find(client_call_details)
        if pipeline is None:
            return await continuation(client_call_details, request_iterator)
        exchange = self.exchange(pipeline, client_call_details, RequestStream(request_iterator), streams_back=False)
        return await call_of(StreamUnaryCall(exchange, _sender(exchange, continuation, client_call_details, None)).begin())


class _StreamStream(_Ways, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc ships no types
    async def intercept_stream_stream(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        pipeline = self.find(client_call_details)
        if pipeline is None:
            return await continuation(client_call_details, request_iterator)
        exchange = self.exchange(pipeline, client_call_details, RequestStream(request_iterator), streams_back=True)
        return await call_of(StreamStreamCall(exchange, _sender(exchange, continuation, client_call_details, None)).begin())


class ClientInterceptors(list[Any]):
    """The interceptors of one channel, one for each kind of call: gRPC takes an object for one kind only."""

    def __init__(self, pipelines: OutgoingPipelines, target: str) -> None:
        super().__init__(kind(pipelines, target) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream))
        self._pipelines = pipelines

    def close(self) -> None:
        """Give up the configuration file, once, where they were made with a path."""
        self._pipelines.close()


def client_interceptors(
    config: str | os.PathLike[str] | Toolkit | None = None, *, pipeline: Chosen | Choose, target: str = ""
) -> ClientInterceptors:
    """Interceptors that send each call of a channel through a pipeline, by the rules of the `ClientInterceptor` for threads.

    `grpc.aio.insecure_channel(target, interceptors=client_interceptors(pipeline=payments))`

    Args:
        config: the path of a configuration file, or a `Toolkit`; needed where `pipeline` is a name.
        pipeline: a pipeline made in code, or `toolkit.pipeline(name)`, or a name, or a function of the full method and the target
            that returns one of these, or None for no guard.
        target: what the channel calls, such as "inventory:50051": the key of breakers with `key: host`. Interceptors are not told.

    Raises:
        ConfigError: the file cannot be used, or has no such pipeline.
        TypeError: `pipeline` is none of these.
    """
    return ClientInterceptors(OutgoingPipelines(config, pipeline), target)


def _sender(exchange: RpcExchange, continuation: Continuation, details: Any, request: Any) -> Send:
    """Sends one try: returns its call, which is on its way."""

    async def send() -> Any:
        timeout_s, metadata = exchange.begin_try()
        sent = grpc.aio.ClientCallDetails(
            details.method, timeout_s, grpc.aio.Metadata(*metadata), details.credentials, details.wait_for_ready
        )
        requests = request if exchange.requests is None else exchange.requests.as_sent()
        return await continuation(sent, requests)

    return send
