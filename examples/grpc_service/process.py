"""The inventory as a process of its own, for the demo."""

from __future__ import annotations

import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from examples.demo_kit.processes import Service
from examples.grpc_service.stubs import SERVICE, protos, services


class GrpcService(Service):
    """The inventory under an asyncio server ("tasks") or one of threads ("threads").

    gRPC takes no socket that others have bound. So the port is bound here, without listening, and kept: nobody else can have it,
    and the server shares it.
    """

    _SCHEME = ""

    def _bound(self) -> socket.socket:
        holding = socket.socket()
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holding.bind(("127.0.0.1", 0))
        return holding

    def _arguments(self, factory: str, server: str) -> list[str]:
        return [factory, server, "--held", "--port", self.address.rpartition(":")[2]]

    def _handed_over(self) -> None:
        """It is kept until the process has ended."""

    async def _is_up(self) -> bool:
        """Whether its health service says so."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=SERVICE), timeout=1.0
                )
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def set_fault(self, mode: str) -> None:
        """Break it, or mend it, by the service `Faults`."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            fault = protos.Fault.Value(f"FAULT_{mode.upper()}")
            await services.FaultsStub(channel).Set(protos.SetRequest(fault=fault), timeout=5.0)
