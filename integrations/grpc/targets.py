"""Where a channel connects to, as gRPC wants it written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

SCHEME: Final = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):(?!\d+$)")
HIGHEST_PORT: Final = 65_535


class Target(NamedTuple):
    """What gRPC is given, and whether it lists several addresses, of which none is the name of the server."""

    uri: str
    is_list: bool


class _Address(NamedTuple):
    family: str
    host: str
    port: str

    @property
    def text(self) -> str:
        return f"[{self.host}]:{self.port}" if self.family == "ipv6" else f"{self.host}:{self.port}"


def target_of(targets: str | Iterable[str]) -> Target:
    """The target for one server name, or for one or several IP addresses of one family, each with its port.

    "payments.internal:50051" is looked up in DNS, and all its addresses are used. "10.0.0.1:50051,10.0.0.2:50051" and the list
    of both are the same. What has a scheme (`dns:`, `ipv4:`, `ipv6:`, `unix:`, `unix-abstract:`, `vsock:`, `xds:`) is left alone.

    Raises:
        ValueError: no target, no port, several names, or a mixture; the text says what to write.
    """
    if isinstance(targets, str):
        if SCHEME.match(targets):
            return Target(targets, is_list=targets.startswith("ipv") and "," in targets)
        targets = targets.split(",")
    written = [target.strip() for target in targets]
    if len(written) == 1 and SCHEME.match(written[0]):
        return target_of(written[0])
    addresses = [_parsed(text) for text in written]
    if not addresses:
        raise ValueError("targets: give at least one, such as 'payments.internal:50051'")
    if len(addresses) == 1 and addresses[0].family == "dns":
        return Target(f"dns:///{addresses[0].text}", is_list=False)
    return _list_of(addresses)


def _list_of(addresses: list[_Address]) -> Target:
    families = {address.family for address in addresses}
    if "dns" in families:
        names = ", ".join(repr(address.text) for address in addresses if address.family == "dns")
        raise ValueError(
            f"targets: gRPC looks up one name a channel, got {len(addresses)} targets with {names} among them: give the servers "
            "one DNS name with an address record for each, or list their IP addresses"
        )
    if len(families) > 1:
        raise ValueError(
            "targets: a channel takes IPv4 addresses or IPv6 addresses, got both: list those of one family, or give the servers "
            "one DNS name with a record for each address"
        )
    return Target(f"{families.pop()}:{','.join(address.text for address in addresses)}", is_list=len(addresses) > 1)


def _parsed(text: str) -> _Address:
    if SCHEME.match(text):
        raise ValueError(f"targets: {text!r} has a scheme: it must be the only target")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal() and 0 < int(port) <= HIGHEST_PORT):
        raise ValueError(f"targets: write 'host:port', 'address:port' or '[IPv6 address]:port', got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        return _Address("ipv6", _checked_ipv6(host[1:-1], text), port)
    if ":" in host:
        raise ValueError(f"targets: write the IPv6 address in brackets, such as '[::1]:50051', got {text!r}")
    if "/" in host or any(character.isspace() for character in host):
        raise ValueError(f"targets: write 'host:port' without a path, a space or a scheme such as https, got {text!r}")
    try:
        IPv4Address(host)
    except AddressValueError:
        return _Address("dns", host, port)
    return _Address("ipv4", host, port)


def _checked_ipv6(host: str, text: str) -> str:
    try:
        IPv6Address(host)
    except AddressValueError as error:
        raise ValueError(f"targets: {text!r}: {error}") from None
    return host.replace("%", "%25")  # the zone, in a URI
