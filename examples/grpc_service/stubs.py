"""Messages and stubs of `inventory.proto`, compiled when they are imported: nothing that is generated lies in the tree.

A service of yours would run `python -m grpc_tools.protoc` where its image is built. What that writes refuses an older grpcio.
"""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

protos, services = grpc.protos_and_services("examples/grpc_service/inventory.proto")

SERVICE: Final = "shop.inventory.v1.Inventory"
"""The name that the health service knows it by."""
SERVICES: Final = (SERVICE, "shop.inventory.v1.Faults", health.SERVICE_NAME, reflection.SERVICE_NAME)
"""What reflection tells of."""
