"""The same demo with a hop over gRPC: the order service loses its inventory. Run by `make demo-grpc`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout: `examples` is not installed

from examples.asgi_app import demo
from examples.demo_kit.main import Files, main
from examples.demo_kit.processes import Service
from examples.grpc_service.orders import CONFIG
from examples.grpc_service.process import GrpcService


def services(files: Files, server: str = "tasks") -> tuple[Service, Service, Service]:
    """The order service; the inventory, which is broken; and the payment service, which is well."""
    payments = demo.payment_service(files)
    spans = {"SPANS_FILE": str(files.spans)}
    inventory = GrpcService("inventory", "examples.grpc_service.serve", files.folder, spans, server=server)
    environment = demo.order_environment(files, payments) | {"INVENTORY_TARGET": inventory.address}
    return Service("orders", "examples.grpc_service.orders:from_environment", files.folder, environment), inventory, payments


DEMO = dataclasses.replace(
    demo.DEMO,
    name="grpc_service",
    title="An order service in Starlette, guarded by resilience, loses its inventory behind gRPC and gets it back",
    config=CONFIG,
    shortened={"every: 1m": "every: 2s", "inventory: {open_for: 30s": "inventory: {open_for: 3s"},
    services=services,
)

if __name__ == "__main__":
    sys.exit(main(DEMO))
