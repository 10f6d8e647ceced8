"""httpx, and httpx2, which has the same interface: what this room uses of whichever is installed, or of both."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import httpx
    import httpx2

    class BaseTransport(httpx.BaseTransport, httpx2.BaseTransport):
        """What both take for a transport."""

        def handle_request(self, request: Any) -> Any: ...

    class AsyncBaseTransport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        """The same, for tasks."""

        async def handle_async_request(self, request: Any) -> Any: ...

    class SyncByteStream(httpx.SyncByteStream, httpx2.SyncByteStream):
        """What both take for a body."""

    class AsyncByteStream(httpx.AsyncByteStream, httpx2.AsyncByteStream):
        """The same, for tasks."""

    Request = httpx.Request | httpx2.Request
    Response = httpx.Response | httpx2.Response


def _installed() -> tuple[ModuleType, ...]:
    found: dict[ModuleType, None] = {}  # one module can have both names
    for name in ("httpx", "httpx2"):
        try:
            found[importlib.import_module(name)] = None
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    if not found:
        raise ImportError(
            "resilience.integrations.httpx needs httpx or httpx2: pip install 'resilience-middleware[httpx]'", name="httpx"
        )
    return tuple(found)


LIBRARIES: Final = _installed()


def _each(name: str) -> tuple[Any, ...]:
    return tuple(getattr(library, name) for library in LIBRARIES)


if not TYPE_CHECKING:
    BaseTransport = type("BaseTransport", _each("BaseTransport"), {})
    AsyncBaseTransport = type("AsyncBaseTransport", _each("AsyncBaseTransport"), {})
    SyncByteStream = type("SyncByteStream", _each("SyncByteStream"), {})
    AsyncByteStream = type("AsyncByteStream", _each("AsyncByteStream"), {})

WHOLE_BODIES: Final = _each("ByteStream")
"""Bodies that are bytes, and can be sent any number of times."""
RESPONSES: Final = _each("Response")
STATUS_ERRORS: Final = _each("HTTPStatusError")
"""What `raise_for_status` raises."""
TIMEOUTS: Final = _each("TimeoutException")
CONNECTION_ERRORS: Final = (*_each("TransportError"), OSError)
OWN_FAULTS: Final = (*_each("PoolTimeout"), *_each("UnsupportedProtocol"), *_each("LocalProtocolError"))
"""Errors for which nothing was sent, for reasons on this side: no free connection, no such scheme, a malformed request."""


def library_of(request: Request) -> Any:
    """The library whose request this is; the first one for something that only looks like a request."""
    return next((library for library in LIBRARIES if isinstance(request, library.Request)), LIBRARIES[0])
