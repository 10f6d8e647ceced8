"""gRPC on both sides, for asyncio."""

from __future__ import annotations
