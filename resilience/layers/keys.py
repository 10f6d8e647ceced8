"""What a keyed layer tells its calls apart by."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Final

from resilience.call import Call
from resilience.layers.address import (
    UNKNOWN,
    address_key,
    client_address,
    forwarded,
    is_trusted,
    known_key,
    networks,
    x_forwarded_for,
)

KeyFunction = Callable[[Call], str | None]
"""Returns the key of a call; None puts it with all others that have none."""

log = logging.getLogger("resilience")
HEADER_PREFIX: Final = "header:"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_LONGEST_PLAIN: Final = 64


def hashed(parts: Sequence[str]) -> str:
    """One short key of several texts: 128 bits, each part with its length, so that no two lists of parts collide."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def header_name(source: str) -> str:
    """The header named by "header:NAME", in lower case. Raises ValueError when NAME is no header name (RFC 9110)."""
    name = source.removeprefix(HEADER_PREFIX)
    if not _TOKEN.match(name):
        raise ValueError(f"key: {source!r} names no header; write header:NAME, such as header:x-api-key")
    return name.lower()


def key_function(source: str | KeyFunction, trusted_proxies: Sequence[str] = ()) -> Callable[[Call], str]:
    """Make the key function that `source` names. It returns a key of bounded size, `UNKNOWN` where there is none.

    Raises:
        ValueError: `source` names no way to make a key, or a trusted proxy is no address.
    """
    if callable(source):
        return _bounded(_careful(source))
    if source in ("client_address", "forwarded_address"):
        return _address_function(source, trusted_proxies)
    if source.startswith(HEADER_PREFIX):
        name = header_name(source)
        return lambda call: hashed(call.headers(name))
    if source == "host":
        return lambda call: bounded(call.host())
    if source == "method":
        return lambda call: bounded(call.method())
    raise ValueError(f"key: {source!r} is unknown; write client_address, forwarded_address, host, method or header:NAME")


def bounded(key: str | None) -> str:
    """A key of bounded size: a long one is hashed. None is the key of all that have none.

    It is plain text: one of a class of its own could compare by code of its own, in the midst of a table.
    """
    if type(key) is not str:
        if key is None:
            return UNKNOWN
        given: object = key
        key = str.__str__(given) if isinstance(given, str) else str(given)
    return key if len(key) <= _LONGEST_PLAIN else hashed([key])


def _bounded(function: KeyFunction) -> Callable[[Call], str]:
    return lambda call: bounded(function(call))


def _careful(function: KeyFunction) -> KeyFunction:
    """A key function of the user's that raises must neither fail the request nor free it of its limit."""

    def key_of(call: Call) -> str | None:
        try:
            key: object = function(call)
            return key if key is None or isinstance(key, str) else str(key)  # a number of a user, say
        except Exception:
            log.exception("the key function %r raised; the call shares the bucket of all that have no key", function)
            return None

    return key_of


def _address_function(source: str, trusted_proxies: Sequence[str]) -> Callable[[Call], str]:
    trusted = networks(trusted_proxies)
    header, read = ("forwarded", forwarded) if source == "forwarded_address" else ("x-forwarded-for", x_forwarded_for)

    def of_peer(call: Call) -> str:
        peer = call.peer()
        return known_key(peer) or address_key(peer)

    def behind_proxies(call: Call) -> str:
        peer = call.peer()
        if peer is not None and is_trusted(peer, trusted):
            peer = client_address(peer, read(call.headers(header)), trusted)
        return address_key(peer)

    return behind_proxies if trusted else of_peer
