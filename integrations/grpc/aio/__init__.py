"""gRPC on both sides, for asyncio."""

from __future__ import annotations

from resilience.integrations.grpc.aio.client import client_interceptors

__all__ = ["client_interceptors"]
