"""Which methods are guarded at all, and the handlers that were wrapped for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

DEFAULT_EXEMPT: Final = ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Services that are not guarded unless asked: who asks whether a server lives must hear that it does, under a flood above all."""

_MOST_WRAPPED: Final = 1_024
_SERVICE: Final = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_METHOD: Final = re.compile(r"/[^/\s]+/[^/\s]+")

Wrap = Callable[[str, Any], Any]
"""Makes the guarded handler of a method, by its full name and its handler."""


class Handlers:
    """The guarded handlers by method. Each is made once, as long as the server has the same handler for its method.

    A generic handler can serve any method that a client makes up: when the table is full, it begins anew.

    Args:
        wrap: makes the guarded handler of a method.
        exempt: services ("shop.v1.Orders") and methods ("/shop.v1.Orders/Get") whose handlers are left as they are.

    Raises:
        TypeError: `exempt` is one text, or holds something that is none.
        ValueError: a text in `exempt` names neither a service nor a method.
    """

    def __init__(self, wrap: Wrap, exempt: Iterable[str]) -> None:
        self._wrap = wrap
        self._exempt = _names(exempt)
        self._known: dict[str, tuple[Any, Any]] = {}

    def guarded(self, method: str, handler: Any) -> Any:
        """What the server is to call for `method`, such as "/shop.v1.Orders/Get", instead of `handler`."""
        known = self._known.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        is_exempt = method in self._exempt or service_of(method) in self._exempt
        wrapped = handler if is_exempt else self._wrap(method, handler)
        if len(self._known) >= _MOST_WRAPPED:
            self._known = {}
        self._known[method] = handler, wrapped
        return wrapped


def service_of(method: str) -> str:
    """The service in the full name of a method."""
    return method.removeprefix("/").rpartition("/")[0]


def _names(exempt: Iterable[str]) -> frozenset[str]:
    if isinstance(exempt, str):
        raise TypeError(f"exempt= must be several names, got the one text {exempt!r}; write ({exempt!r},)")
    names = tuple(exempt)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"exempt= must be names of services and methods, got {name!r}")
        if not (_SERVICE.fullmatch(name) or _METHOD.fullmatch(name)):
            raise ValueError(f'exempt=: {name!r} must be a service ("shop.v1.Orders") or a method ("/shop.v1.Orders/Get")')
    return frozenset(names)
