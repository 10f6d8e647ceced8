"""gRPC on both sides, for threads; `resilience.integrations.grpc.aio` is the same for asyncio."""

from __future__ import annotations

from resilience.integrations.grpc.client import ClientInterceptor
from resilience.integrations.grpc.server import ServerInterceptor

__all__ = ["ClientInterceptor", "ServerInterceptor"]
