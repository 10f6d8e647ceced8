"""The bodies of responses: reading them ends with the deadline, and their end settles the call."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from resilience import DeadlineExceeded
from resilience.edges import within
from resilience.integrations.httpx.library import AsyncByteStream, SyncByteStream
from resilience.integrations.httpx.request import HttpxRequest

_WORTH_READING: Final = 65_536
_WORTH_WAITING_US: Final = 100_000


class BoundReads:
    """Lets each wait for bytes of one body end with the deadline.

    httpcore asks for its timeout once a body, and waits that long for each part: a peer could take twice the time that was left.
    Over HTTP/1 a connection serves one response at a time, so its `read` is covered until the body is closed, which is when the
    next request may have it.
    """

    def __init__(self, response: Any, request: HttpxRequest) -> None:
        self._connection: Any = None
        connection = response.extensions.get("network_stream")
        is_alone = response.extensions.get("http_version", b"").startswith(b"HTTP/1")
        if connection is None or not is_alone or request.left_s() is None:
            return
        read: Callable[..., bytes] = connection.read

        def bound_read(max_bytes: int, timeout: float | None = None) -> bytes:
            return read(max_bytes, request.timeouts.get("read", timeout))

        with contextlib.suppress(AttributeError):  # one of another transport, which has no place for it
            connection.read = bound_read
            self._connection = connection

    def end(self) -> None:
        """Uncover it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            del connection.read


class Body(SyncByteStream):
    """A body that is read in a thread. Between two parts the deadline is looked at; each wait ends with it."""

    def __init__(self, response: Any, request: HttpxRequest) -> None:
        self._stream = response.stream
        self._request = request
        self._reads = BoundReads(response, request)

    def __iter__(self) -> Iterator[bytes]:
        parts = iter(self._stream)
        while (part := self._next(parts)) is not None:
            yield part
        self._request.ended()

    def _next(self, parts: Iterator[bytes]) -> bytes | None:
        request = self._request
        try:
            if request.is_over:
                raise request.expired()
            return next(parts, None)
        except BaseException as error:
            ended_by = request.ended_by(error)
            request.broke_off(ended_by)
            if isinstance(ended_by, DeadlineExceeded):
                self._stream.close()
            if ended_by is error:
                raise
            raise ended_by from error

    def close(self) -> None:
        self._reads.end()
        try:
            self._stream.close()
        finally:
            self._request.ended()

    def __del__(self) -> None:
        self._request.dropped()


class AsyncBody(AsyncByteStream):
    """A body that is read in a task, which is cancelled while it waits for a part after the deadline."""

    def __init__(self, stream: Any, request: HttpxRequest) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        while (part := await self._next(parts)) is not None:
            yield part
        self._request.ended()

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        request = self._request
        try:
            if request.is_over:
                raise request.expired()
            return await within(request.attempt, request.timeout, request.pipeline.clock, lambda: anext(parts, None))
        except BaseException as error:
            ended_by = request.ended_by(error)
            request.broke_off(ended_by)
            if isinstance(ended_by, DeadlineExceeded):
                await self._stream.aclose()
            if ended_by is error:
                raise
            raise ended_by from error

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._request.ended()

    def __del__(self) -> None:
        self._request.dropped()


class _Patience:
    """How much of a body that nobody wants is read, and for how long, rather than lose its connection."""

    def __init__(self, request: HttpxRequest) -> None:
        self._clock = request.pipeline.clock
        self._until_us = self._clock.now_us() + _WORTH_WAITING_US
        self._left = _WORTH_READING
        request.timeouts.most_s = _WORTH_WAITING_US / 1e6

    def is_over(self, part: bytes) -> bool:
        """Whether `part` was the last that is worth it."""
        self._left -= len(part)
        return self._left <= 0 or self._clock.now_us() >= self._until_us


def drain(stream: Any, request: HttpxRequest) -> None:
    """Read the rest of a body that nobody wants, so that its connection can be used again. A long or slow one is closed."""
    patience = _Patience(request)
    try:
        with contextlib.suppress(Exception):
            for part in stream:
                if patience.is_over(part):
                    break
    finally:
        with contextlib.suppress(Exception):
            stream.close()


async def adrain(stream: Any, request: HttpxRequest) -> None:
    """The same in a task."""
    patience = _Patience(request)
    try:
        with contextlib.suppress(Exception):
            async for part in stream:
                if patience.is_over(part):
                    break
    finally:
        with contextlib.suppress(Exception):
            await stream.aclose()
