"""gRPC on both sides, for threads; `resilience.integrations.grpc.aio` is the same for asyncio."""

from __future__ import annotations

from resilience.integrations.grpc.channel import connect
from resilience.integrations.grpc.client import ClientInterceptor
from resilience.integrations.grpc.credentials import Tls, server_credentials
from resilience.integrations.grpc.faults import RpcStatus, http_answer, rpc_status
from resilience.integrations.grpc.options import ChannelSettings, ServerSettings, server_options
from resilience.integrations.grpc.server import ServerInterceptor

__all__ = [
    "ChannelSettings",
    "ClientInterceptor",
    "RpcStatus",
    "ServerInterceptor",
    "ServerSettings",
    "Tls",
    "connect",
    "http_answer",
    "rpc_status",
    "server_credentials",
    "server_options",
]
