"""The way from the order service to the inventory: a channel of gRPC whose calls pass a pipeline."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from pathlib import Path
from typing import Final

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from examples.asgi_app.stock import NotInStock, StockFailed
from examples.grpc_service.stubs import protos, services
from resilience import Rejected
from resilience.integrations.grpc.aio import client_interceptors, connect

_REFUSALS: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


class InventoryStock:
    """Stock that an inventory keeps.

    Args:
        config: the configuration file of the service that asks; its pipeline `inventory` guards each call.
        target: where the inventory is, such as "127.0.0.1:50051".
    """

    def __init__(self, config: Path, target: str) -> None:
        self._target = target
        self._interceptors = client_interceptors(config, pipeline="inventory", target=target)
        self._put_back: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the channel. Spans of each try are OpenTelemetry's, within those of the retry."""
        traced = aio_client_interceptors()  # type: ignore[no-untyped-call]
        self._channel = connect(self._target, interceptors=[*self._interceptors, *traced])
        self._stub = services.InventoryStub(self._channel)

    async def close(self) -> None:
        """Let calls in flight end, for 5 s at most, and close."""
        await asyncio.gather(*self._put_back)
        await self._channel.close()
        self._interceptors.close()

    async def reserve(self, order_id: str, item: str) -> None:
        """Set one of `item` aside.

        It is tried again where it is worth it, and no longer than the request has time: nothing here says how long to wait. A
        refusal, by the pipeline or by the inventory itself, leaves the handler as it is, and the middleware answers it.

        Raises:
            NotInStock: there is none.
            StockFailed: the inventory could not be reached, or failed.
            RpcError: the pipeline or the inventory refused.
        """
        try:
            await self._stub.Reserve(protos.ReserveRequest(order_id=order_id, item=item, quantity=1))
        except grpc.RpcError as error:
            if isinstance(error, Rejected) or error.code() in _REFUSALS:
                raise
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                raise NotInStock(error.details()) from error
            raise StockFailed(f"the inventory answered {error.code().name}") from error

    def put_back(self, order_id: str) -> None:
        """Put back what was set aside, in a task of its own: the time of the request may be over, and must not bind this."""
        task = asyncio.get_running_loop().create_task(self._release(order_id), context=Context())
        self._put_back.add(task)
        task.add_done_callback(self._put_back.discard)

    async def _release(self, order_id: str) -> None:
        with contextlib.suppress(grpc.RpcError):  # nobody waits for it; a real shop would try again until it has worked
            await self._stub.Release(protos.ReleaseRequest(order_id=order_id))
