"""What can be wrong with the inventory, whatever server runs it."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import grpc

from examples.grpc_service.inventory import Refused
from examples.grpc_service.stubs import protos

SLOW_S: Final = 0.3
HANG_S: Final = 30.0
OUT_OF_ORDER: Final = "out of order"


def fault_in(request: Any, peer: str) -> Any:
    """The fault that a request asks for.

    Args:
        request: a `SetRequest`.
        peer: who sent it, in gRPC's words.

    Raises:
        Refused: PERMISSION_DENIED to whoever is not on this machine; INVALID_ARGUMENT where it names no fault.
    """
    if not _is_on_this_machine(peer):
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "only from this machine")
    if request.fault not in protos.Fault.values() or request.fault == protos.FAULT_UNSPECIFIED:
        names = ", ".join(protos.Fault.keys()[1:])
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"fault must be one of {names}")
    return request.fault


def _is_on_this_machine(peer: str) -> bool:
    """Behind a proxy on the same machine everybody is: keep `Faults` off there."""
    scheme, _, rest = peer.partition(":")
    if scheme == "unix":
        return True
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
