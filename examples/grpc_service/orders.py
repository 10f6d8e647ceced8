"""The order service of `examples/asgi_app`, which asks the inventory before it charges.

Start it with `INVENTORY_TARGET=127.0.0.1:50051 uvicorn --factory examples.grpc_service.orders:from_environment`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from examples.asgi_app.app import create_app
from examples.asgi_app.telemetry import write_spans_to
from examples.grpc_service.client import InventoryStock

CONFIG: Final = Path(__file__).with_name("orders.yaml")


def from_environment() -> OpenTelemetryMiddleware:
    """Make it as the environment says: INVENTORY_TARGET, PAYMENTS_URL, RESILIENCE_CONFIG and SPANS_FILE (all optional)."""
    spans_file = os.environ.get("SPANS_FILE")
    if spans_file:
        write_spans_to(Path(spans_file), service="orders")
    config = Path(os.environ.get("RESILIENCE_CONFIG", CONFIG))
    stock = InventoryStock(config, os.environ.get("INVENTORY_TARGET", "127.0.0.1:50051"))
    return create_app(config, os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8001"), stock)
