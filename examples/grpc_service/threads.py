"""The inventory on a server of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from examples.grpc_service.faults import HANG_S, OUT_OF_ORDER, SLOW_S, fault_in
from examples.grpc_service.inventory import Inventory, Refused
from examples.grpc_service.stubs import SERVICE, SERVICES, protos, services
from resilience import current_deadline
from resilience.integrations.grpc import ServerInterceptor, ServerSettings, server_options

GRACE_S: Final = 2.0
_THREADS: Final = 64
"""While the service hangs, each call that is admitted holds one until its time is over."""


class ThreadFaults:
    """The fault that is switched on."""

    def __init__(self) -> None:
        self._fault = protos.FAULT_NONE
        self._changed = threading.Event()

    def Set(self, request: Any, context: Any) -> Any:  # noqa: N802  # as the proto has it
        """Switch it."""
        try:
            self._fault = fault_in(request, context.peer())
        except Refused as refused:
            context.abort(refused.code, str(refused))
        changed, self._changed = self._changed, threading.Event()
        changed.set()
        return protos.SetResponse()

    def is_well(self) -> bool:
        """Suffer the fault. False: the answer is UNAVAILABLE."""
        if self._fault == protos.FAULT_SLOW:
            time.sleep(SLOW_S)
        elif self._fault == protos.FAULT_HANG:
            return self._hang()
        return bool(self._fault != protos.FAULT_FAIL)

    def _hang(self) -> bool:
        """Nothing stops a thread at its deadline: it has to ask when that is."""
        deadline = current_deadline()
        if self._changed.wait(HANG_S if deadline is None else min(HANG_S, deadline.remaining_s())):
            return bool(self._fault != protos.FAULT_FAIL)
        if deadline is not None:
            deadline.check()  # raises, and the guard answers DEADLINE_EXCEEDED
        return False


class ThreadInventory:
    """The methods, each in a thread."""

    def __init__(self, inventory: Inventory, faults: ThreadFaults) -> None:
        self._inventory = inventory
        self._faults = faults

    def GetStock(self, request: Any, context: Any) -> Any:  # noqa: N802
        """How many of an item are left."""
        return self._answer(self._inventory.get_stock, request, context)

    def Reserve(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Set some of an item aside."""
        return self._answer(self._inventory.reserve, request, context)

    def Release(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Put it back."""
        return self._answer(self._inventory.release, request, context)

    def _answer(self, method: Callable[[Any], Any], request: Any, context: Any) -> Any:
        if not self._faults.is_well():
            context.abort(grpc.StatusCode.UNAVAILABLE, OUT_OF_ORDER)
        try:
            return method(request)
        except Refused as refused:
            return context.abort(refused.code, str(refused))


@contextmanager
def serving(config: Path, address: str, settings: ServerSettings | None = None, around: Sequence[Any] = ()) -> Iterator[int]:
    """Serve until the block is left. Yields the port.

    Args:
        config: the file that says how the service is guarded.
        address: where to listen, such as "127.0.0.1:50051"; port 0 is any that is free.
        settings: of its connections.
        around: interceptors around the guard.

    Raises:
        ConfigError: the file cannot be used.
        RuntimeError: nobody can listen there.
    """
    guard = ServerInterceptor(config)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            server = grpc.server(pool, interceptors=[*around, guard], options=server_options(settings))
            faults, checks = ThreadFaults(), health.HealthServicer()
            services.add_InventoryServicer_to_server(ThreadInventory(Inventory(), faults), server)
            services.add_FaultsServicer_to_server(faults, server)
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            reflection.enable_server_reflection(SERVICES, server)
            port = server.add_insecure_port(address)
            server.start()
            checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            try:
                yield port
            finally:
                checks.enter_graceful_shutdown()
                server.stop(GRACE_S).wait()
    finally:
        guard.close()
