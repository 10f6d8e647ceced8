"""The inventory on a server of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from examples.grpc_service.faults import HANG_S, OUT_OF_ORDER, SLOW_S, fault_in
from examples.grpc_service.inventory import Inventory, Refused
from examples.grpc_service.stubs import SERVICE, SERVICES, protos, services
from resilience.integrations.grpc import ServerSettings, server_options
from resilience.integrations.grpc.aio import ServerInterceptor

GRACE_S: Final = 2.0


class TaskFaults:
    """The fault that is switched on."""

    def __init__(self) -> None:
        self._fault = protos.FAULT_NONE
        self._changed = asyncio.Event()

    async def Set(self, request: Any, context: Any) -> Any:  # noqa: N802  # as the proto has it
        """Switch it."""
        try:
            self._fault = fault_in(request, context.peer())
        except Refused as refused:
            await context.abort(refused.code, str(refused))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return protos.SetResponse()

    async def is_well(self) -> bool:
        """Suffer the fault. False: the answer is UNAVAILABLE. The guard cancels a task whose time is over."""
        if self._fault == protos.FAULT_SLOW:
            await asyncio.sleep(SLOW_S)
        elif self._fault == protos.FAULT_HANG:
            try:
                await asyncio.wait_for(self._changed.wait(), HANG_S)
            except TimeoutError:
                return False
        return bool(self._fault != protos.FAULT_FAIL)


class TaskInventory:
    """The methods, each in a task."""

    def __init__(self, inventory: Inventory, faults: TaskFaults) -> None:
        self._inventory = inventory
        self._faults = faults

    async def GetStock(self, request: Any, context: Any) -> Any:  # noqa: N802
        """How many of an item are left."""
        return await self._answer(self._inventory.get_stock, request, context)

    async def Reserve(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Set some of an item aside."""
        return await self._answer(self._inventory.reserve, request, context)

    async def Release(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Put it back."""
        return await self._answer(self._inventory.release, request, context)

    async def _answer(self, method: Callable[[Any], Any], request: Any, context: Any) -> Any:
        if not await self._faults.is_well():
            await context.abort(grpc.StatusCode.UNAVAILABLE, OUT_OF_ORDER)
        try:
            return method(request)
        except Refused as refused:
            return await context.abort(refused.code, str(refused))


@asynccontextmanager
async def serving(
    config: Path, address: str, settings: ServerSettings | None = None, around: Sequence[Any] = ()
) -> AsyncIterator[int]:
    """Serve until the block is left. Yields the port. Args and what is raised: as for `threads.serving`."""
    guard = ServerInterceptor(config)
    try:
        server = grpc.aio.server(interceptors=[*around, guard], options=server_options(settings))
        faults, checks = TaskFaults(), health.aio.HealthServicer()
        services.add_InventoryServicer_to_server(TaskInventory(Inventory(), faults), server)
        services.add_FaultsServicer_to_server(faults, server)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        reflection.enable_server_reflection(SERVICES, server)
        port = server.add_insecure_port(address)
        await server.start()
        await checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        try:
            yield port
        finally:
            await checks.enter_graceful_shutdown()
            await server.stop(GRACE_S)
    finally:
        guard.close()
