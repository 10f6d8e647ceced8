"""Whose request it is: the client's address, believed only as far as the proxies in between are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN: Final = "unknown"
"""The one key of all clients whose address nobody knows."""
_MAX_HOPS: Final = 100
_MOST_KNOWN: Final = 4_096
LONGEST: Final = 100
"""No address is longer, with brackets, quotes, zone and port."""
_IPV6_PREFIX: Final = 64
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch


def networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Parse addresses and networks such as "10.0.0.0/8" or "::1". Raises ValueError on any other text."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def parse_address(text: str) -> IPAddress | None:
    """Parse an address as it stands in a peer name or a forwarding header, with or without port, brackets or zone.

    An IPv4-mapped IPv6 address is IPv4. Returns None when it is no address.
    """
    return None if len(text) > LONGEST else _parsed(text)  # what is kept is small, whatever is sent


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> IPAddress | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


_known: Final[dict[str | None, str]] = {}
known_key: Final = _known.get
"""The key of an address that was seen of late; None of another. Each request asks: for what it does not know, ask `address_key`."""


def address_key(text: str | None) -> str:
    """The key of one client: an IPv4 address as it is, an IPv6 address by its /64, since one host owns all of that.

    None, and what is no address, is unknown: all such clients share a key.
    """
    if text is None or len(text) > LONGEST:  # what is kept is small, whatever is sent
        return UNKNOWN
    key = _known.get(text)
    if key is None:
        key = _key_of(text)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[text] = key
    return key


def _key_of(text: str) -> str:
    if _IPV4(text):  # as nearly all are: to look through it takes a tenth of the time that to parse it takes
        return text
    address = _parsed(text)
    if address is None:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, _IPV6_PREFIX), strict=False))
    return str(address)


def is_trusted(text: str, trusted: Sequence[IPNetwork]) -> bool:
    """Whether the address in `text` belongs to a trusted proxy."""
    address = parse_address(text)
    return address is not None and any(address in network for network in trusted if network.version == address.version)


def client_address(peer: str | None, hops: Sequence[str], trusted: Sequence[IPNetwork]) -> str | None:
    """The address of the client behind `peer`.

    The peer itself, unless it is trusted; then the rightmost of `hops` that is not. A hop that is no address ends the search at
    the last trusted one before it, for whoever wrote it can write anything. All trusted: the first hop of the chain.
    """
    if peer is None or not is_trusted(peer, trusted):
        return peer
    believed = peer
    for hop in islice(reversed(hops), _MAX_HOPS):
        if parse_address(hop) is None:
            return believed
        believed = hop
        if not is_trusted(hop, trusted):
            return believed
    return believed


def x_forwarded_for(values: Sequence[str]) -> list[str]:
    """The hops named by X-Forwarded-For, nearest last."""
    return [hop.strip() for value in values for hop in value.split(",")]


def forwarded(values: Sequence[str]) -> list[str]:
    """The `for` nodes of Forwarded (RFC 7239), nearest last. An element without one counts as an unknown hop."""
    return [_forwarded_for(element) for value in values for element in _split(value, ",")]


def _split(text: str, separator: str) -> list[str]:
    """Split at each separator outside of quoted strings.

    They are told from the right, where the nearest proxy has written: a quote that the client opened and did not close cannot hide
    what came after it, nor can what a proxy quotes of the client's, such as its `host`, pass for an element.
    """
    if '"' not in text:
        return text.split(separator)
    parts, end, quoted = [], len(text), False
    for index in range(len(text) - 1, -1, -1):
        if text[index] == separator and not quoted:
            parts.append(text[index + 1 : end])
            end = index
        elif text[index] == '"' and not _is_escaped(text, index):
            quoted = not quoted
    parts.append(text[:end])
    return parts[::-1]


def _is_escaped(text: str, index: int) -> bool:
    first = index
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    return (index - first) % 2 == 1


def _forwarded_for(element: str) -> str:
    for pair in _split(element, ";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value.strip()
    return ""
