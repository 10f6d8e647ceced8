"""The configuration file: read, validated and handed on as plain data."""

from __future__ import annotations

from resilience.config.document import BreakerEntry, Document, LayerReference, LimiterEntry, PoolEntry, RetryEntry
from resilience.config.parse import parse, read
from resilience.config.report import Position
from resilience.config.routes import RouteRule, RouteTable

__all__ = [
    "BreakerEntry",
    "Document",
    "LayerReference",
    "LimiterEntry",
    "PoolEntry",
    "Position",
    "RetryEntry",
    "RouteRule",
    "RouteTable",
    "parse",
    "read",
]
