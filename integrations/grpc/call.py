"""An RPC as a call, and the address in a peer's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from resilience.edges import Call, InboundCall
from resilience.integrations.grpc.metadata import values_of

Metadata = Sequence[tuple[str, str | bytes]]
"""Keys and values as grpcio has them. A value is bytes where its key ends with "-bin"."""

_WITH_ADDRESS: Final = ("ipv4", "ipv6")


class RpcCall(InboundCall):
    """One RPC. Its name is what it is, not which method the client asked for."""

    __slots__ = ("context", "full_method", "metadata")

    def __init__(self, full_method: str, context: Any) -> None:
        Call.__init__(self, "the RPC")  # not by super(): it is made for every RPC
        self.full_method = full_method
        self.context = context
        self.metadata: Metadata = context.invocation_metadata() or ()

    @property
    def carrier(self) -> Mapping[str, str]:
        return {key: value for key, value in self.metadata if isinstance(value, str)}

    def peer(self) -> str | None:
        return peer_address(self.context.peer())

    def headers(self, name: str) -> list[str]:
        return values_of(self.metadata, name)

    def method(self) -> str | None:
        """The full name, such as "/shop.v1.Orders/Get"."""
        return self.full_method


@lru_cache(maxsize=4_096)  # a connection has one name for all its RPCs
def peer_address(peer: str) -> str | None:
    """The address in a peer's name: "1.2.3.4" of "ipv4:1.2.3.4:5", "::1" of "ipv6:%5B::1%5D:5"; None for a Unix socket.

    Source: "gRPC Name Resolution", whose URIs peers are named by.
    """
    scheme, _, rest = peer.partition(":")
    if scheme not in _WITH_ADDRESS:
        return None
    host = unquote(rest.partition(",")[0].rpartition(":")[0])
    return host.removeprefix("[").removesuffix("]") or None
