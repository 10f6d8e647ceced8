"""The body of a response: reading it ends with the deadline, and its end settles the call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from resilience import Clock, DeadlineExceeded

if TYPE_CHECKING:
    from urllib3 import HTTPResponse

    from resilience.integrations.requests.request import Request

T = TypeVar("T")
_WORTH_READING: Final = 65_536
_WORTH_WAITING_US: Final = 100_000
_PART: Final = 65_536


class Body:
    """In the place of `response.raw`, with all that it has. Between two parts the deadline is looked at; each wait ends with it."""

    def __init__(self, raw: HTTPResponse, request: Request) -> None:
        self._raw = raw
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def read(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
        """As urllib3's."""
        return self._step(lambda: self._raw.read(amt, *args, **kwargs))

    def read1(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
        """As urllib3's."""
        return self._step(lambda: self._raw.read1(amt, *args, **kwargs))

    def readinto(self, b: bytearray) -> int:
        """As urllib3's."""
        return self._step(lambda: self._raw.readinto(b))

    def stream(self, amt: int | None = _PART, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's. With a deadline it hands out what has come rather than wait for the whole of `amt`."""
        read1: Callable[..., bytes] | None = getattr(self._raw, "read1", None)
        if self._request.left_s() is None or read1 is None or amt == 0:
            return self._parts(self._raw.stream(amt, decode_content))
        return self._parts(iter(lambda: read1(amt, decode_content), b""))

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        return self._parts(self._raw.read_chunked(amt, decode_content))

    def __iter__(self) -> Iterator[bytes]:
        return self._parts(iter(self._raw))

    def _parts(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        while (part := self._step(lambda: next(parts, None))) is not None:
            yield part
        self._request.ended()

    def _step(self, read: Callable[[], T]) -> T:
        request = self._request
        try:
            if request.is_over:
                raise request.expired()
            wait_at_most(self._raw, request.left_s())
            result = read()
        except BaseException as error:
            ended_by = request.ended_by(error)
            request.broke_off(ended_by)
            if isinstance(ended_by, DeadlineExceeded):
                _give_up(self._raw)
            if ended_by is error:
                raise
            raise ended_by from error
        if self._raw.closed:
            request.ended()
        return result

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """As urllib3's."""
        try:
            self._raw.close()
        finally:
            self._request.ended()

    def release_conn(self) -> None:
        """As urllib3's."""
        try:
            self._raw.release_conn()
        finally:
            self._request.ended()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._request.dropped()


def wait_at_most(raw: HTTPResponse, timeout_s: float | None) -> None:
    """Let no wait for bytes of a body last longer than this, in seconds. One that has its connection for itself keeps its wait."""
    sock = _socket(raw)
    if sock is None or timeout_s is None:
        return
    now_s = sock.gettimeout()
    if now_s is None or timeout_s < now_s:
        sock.settimeout(timeout_s)


def lift_bound(raw: HTTPResponse, timeout_s: float | None) -> None:
    """Let each wait for bytes of a body last this long, in seconds, or as long as it likes."""
    sock = _socket(raw)
    if sock is not None:
        sock.settimeout(timeout_s)


def _socket(raw: HTTPResponse) -> Any:
    return getattr(getattr(raw, "connection", None), "sock", None)


def drain(raw: HTTPResponse, clock: Clock) -> None:
    """Read the rest of a body that nobody wants, so that its connection can be used again. A long or slow one is closed."""
    until_us = clock.now_us() + _WORTH_WAITING_US
    left = _WORTH_READING
    with contextlib.suppress(Exception):
        wait_at_most(raw, _WORTH_WAITING_US / 1e6)
        while left > 0 and clock.now_us() < until_us:
            part = raw.read1(left, decode_content=False)
            if not part:
                return
            left -= len(part)
    _give_up(raw)


def _give_up(raw: HTTPResponse) -> None:
    with contextlib.suppress(Exception):
        raw.close()
    with contextlib.suppress(Exception):
        raw.release_conn()
