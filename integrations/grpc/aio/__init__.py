"""gRPC on both sides, for asyncio."""

from __future__ import annotations

from resilience.integrations.grpc.aio.channel import connect
from resilience.integrations.grpc.aio.client import client_interceptors
from resilience.integrations.grpc.aio.server import ServerInterceptor

__all__ = ["ServerInterceptor", "client_interceptors", "connect"]
