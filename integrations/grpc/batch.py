"""A method of a gRPC stub as a back end of batches."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from resilience import Pipeline, PipelineHandle
from resilience.batch import Backend, limit_as_deadline
from resilience.integrations.grpc.aio.client import client_interceptors
from resilience.integrations.grpc.client import ClientInterceptor

__all__ = ["GrpcBackend"]

_TASK_METHODS: Final = (grpc.aio.UnaryUnaryMultiCallable,)


class _Details(
    namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")),
    grpc.ClientCallDetails,  # type: ignore[misc]  # grpc ships no types
):
    """What a call is sent with."""


class GrpcBackend(Backend[Any, Any]):
    """Calls a method with one request and one response, of a stub for asyncio, or in threads of any other. A value is a response.

    A call goes through `pipeline` as through the interceptors of this room: its time limit becomes gRPC's own, retries go by gRPC's
    design, breakers by codes. Errors: UNAVAILABLE, INTERNAL, UNKNOWN and DATA_LOSS are TRANSPORT, DEADLINE_EXCEEDED is TIMEOUT,
    CANCELLED is CANCELLED; what a guard of the service says, RESOURCE_EXHAUSTED always, is REFUSED; every other code is BUSINESS.

    Args:
        method: such as `stub.Level`. One whose channel is guarded already needs no `pipeline` here.
        pipeline: what calls go through; default no guard.
        name: the full name of the method, such as "/shop.v1.Stock/Level": for breakers with `key: method`, spans and errors.
        target: what the channel calls, such as "stock:50051": for breakers with `key: host`.
        metadata: is sent with every call.

    Raises:
        TypeError: `method` is none with one request and one response.
    """

    def __init__(
        self,
        method: Any,
        pipeline: Pipeline | PipelineHandle | None = None,
        *,
        name: str = "grpc",
        target: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        is_async = isinstance(method, _TASK_METHODS)
        if not is_async and not isinstance(method, grpc.UnaryUnaryMultiCallable):
            raise TypeError(f"back end {name!r}: method must be one of a stub, with one request and one response; got {method!r}")
        super().__init__(name, pipeline, is_async=is_async)
        guard = Pipeline(name) if pipeline is None else pipeline
        self._metadata = tuple(metadata)
        self._begin: Callable[..., Any]
        if is_async:
            self._begin = client_interceptors(pipeline=guard, target=target)[0].intercept_unary_unary
            self._continue: Callable[..., Any] = _acontinuation(method)
        else:
            self._begin = ClientInterceptor(pipeline=guard, target=target).intercept_unary_unary
            self._continue = _continuation(method)

    def send(self, prepared: Any) -> Any:
        """Call the method."""
        return self._asend(prepared) if self.is_async else self._begin(self._continue, self._details(), prepared).result()

    async def _asend(self, request: Any) -> Any:
        call = await self._begin(self._continue, self._details(), request)
        return await call

    def _details(self) -> Any:
        if self.is_async:
            return grpc.aio.ClientCallDetails(self.name, None, grpc.aio.Metadata(*self._metadata), None, None)
        return _Details(self.name, None, self._metadata, None, None, None)


def _continuation(method: Any) -> Callable[[Any, Any], Any]:
    def send(details: Any, request: Any) -> Any:
        with limit_as_deadline():
            return method.future(request, timeout=details.timeout, metadata=details.metadata)

    return send


def _acontinuation(method: Any) -> Callable[[Any, Any], Any]:
    async def send(details: Any, request: Any) -> Any:
        call = method(request, timeout=details.timeout, metadata=details.metadata)
        try:
            with limit_as_deadline():  # whether gRPC's own timeout or the batch is first to end it
                await call.code()
        except BaseException:
            call.cancel()
            raise
        return call

    return send
