"""The body of a request that is made while it is sent: what goes wrong in the making says nothing of the peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from resilience.integrations.httpx.library import AsyncByteStream, SyncByteStream

if TYPE_CHECKING:
    from resilience.integrations.httpx.request import HttpxRequest


class Upload(SyncByteStream, AsyncByteStream):
    """In the place of a request's stream. In a thread the deadline is looked at before and after each part."""

    def __init__(self, stream: Any, request: HttpxRequest) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        request = self._request
        with request.making_body():
            parts = iter(self._stream)
        while True:
            if request.is_over:  # while the peer took what was sent before
                raise request.expired()
            with request.making_body():
                part = next(parts, None)
                if request.is_over:
                    raise request.expired()
            if part is None:
                return
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        request = self._request
        with request.making_body():
            parts = aiter(self._stream)
        try:
            while True:
                with request.making_body():
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
        finally:
            aclose = getattr(parts, "aclose", None)
            if aclose is not None:
                await aclose()
