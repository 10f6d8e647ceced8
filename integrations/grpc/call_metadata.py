"""The metadata that every call of a channel carries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

Pairs = Iterable[tuple[str, str | bytes]]
PairsOf = Callable[[str], Pairs]
"""Gives the metadata of one call of a method such as "/shop.v1.Orders/Get"."""

PLACE: Final = 2
"""Where gRPC takes metadata by position, after the request and the timeout."""
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")


class CallMetadata:
    """Adds metadata to each call. A key that the call brings itself is left to it.

    Args:
        given: pairs for every call, or a function of the method that returns them.

    Raises:
        ValueError: a pair of `given` cannot travel; its value is not shown, since it may be a secret.
    """

    def __init__(self, given: Pairs | PairsOf) -> None:
        self._of = given if callable(given) else None
        self._pairs = () if callable(given) else tuple(_checked(pair) for pair in given)

    def added_to(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call to `method` as gRPC takes them, with the metadata in its place: the third, or by its name."""
        pairs = self._pairs if self._of is None else tuple(self._of(method))
        if not pairs:
            return args, kwargs
        if len(args) > PLACE:
            return (*args[:PLACE], _joined(args[PLACE], pairs), *args[PLACE + 1 :]), kwargs
        return args, {**kwargs, "metadata": _joined(kwargs.get("metadata"), pairs)}


def _joined(own: Any, pairs: tuple[tuple[str, str | bytes], ...]) -> tuple[tuple[str, str | bytes], ...]:
    if not own:
        return pairs
    brought = tuple(own)
    keys = {key for key, _ in brought}
    return (*brought, *(pair for pair in pairs if pair[0] not in keys))


def _checked(pair: Any) -> tuple[str, str | bytes]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError("metadata: must be pairs of a key and a value, such as [('x-tenant', 'blue')]")
    key, value = pair
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.startswith("grpc-"):
        raise ValueError(f"metadata: keys are of a-z, 0-9, '_', '.' and '-', and 'grpc-' is gRPC's own; got {key!r}")
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise ValueError(f"metadata: {key!r} ends with -bin, so its value must be bytes")
    elif not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ValueError(f"metadata: the value of {key!r} must be printable ASCII text; name it {key}-bin to send bytes")
    return key, value
