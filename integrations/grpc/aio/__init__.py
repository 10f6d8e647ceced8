"""gRPC on both sides, for asyncio."""

from __future__ import annotations

from resilience.integrations.grpc.aio.channel import connect
from resilience.integrations.grpc.aio.client import client_interceptors
from resilience.integrations.grpc.aio.server import ServerInterceptor
from resilience.integrations.grpc.faults import RpcStatus, http_answer, rpc_status

__all__ = ["RpcStatus", "ServerInterceptor", "client_interceptors", "connect", "http_answer", "rpc_status"]
