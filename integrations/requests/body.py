"""The body of a response: reading it ends with the deadline, and its end settles the call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, TypeVar

from urllib3.exceptions import HTTPError

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
        self._data: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def read(self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False) -> bytes:
        """As urllib3's. With a deadline it looks at it whenever something has come."""
        read1 = self._read1()
        if read1 is None:
            return self._step(lambda: self._raw.read(amt, decode_content, cache_content))
        parts, missing = [], None if amt is None or amt < 0 else amt
        while missing is None or missing > 0:
            size = _PART if missing is None else min(missing, _PART)
            part = self._step(partial(read1, size, decode_content))
            if not part:
                break
            parts.append(part)
            missing = None if missing is None else missing - len(part)
        whole = b"".join(parts)
        if cache_content and amt is None:
            self._data = whole
        return whole

    def read1(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
        """As urllib3's."""
        return self._step(lambda: self._raw.read1(amt, *args, **kwargs))

    def readinto(self, b: bytearray) -> int:
        """As urllib3's."""
        part = self.read(len(b))
        b[: len(part)] = part
        return len(part)

    def readline(self, size: int | None = -1) -> bytes:
        """As urllib3's."""
        return self._step(lambda: self._raw.readline(-1 if size is None else size))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """As urllib3's."""
        lines, length, most = [], 0, -1 if hint is None else hint
        while line := self.readline():
            lines.append(line)
            length += len(line)
            if 0 < most <= length:
                break
        return lines

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    @property
    def data(self) -> bytes:
        """As urllib3's: the whole body, once read."""
        if self._data is None:
            self._data = self.read() if self._read1() is not None else self._step(lambda: self._raw.data)
        return self._data

    def json(self) -> Any:
        """As urllib3's."""
        return json.loads(self.data)

    def drain_conn(self) -> None:
        """As urllib3's: read the rest, and let nothing get in the way."""
        with contextlib.suppress(HTTPError, HTTPException, OSError):
            while self.read(_PART):
                pass

    def _read1(self) -> Callable[..., bytes] | None:
        """What hands out as much as has come, for a body whose deadline is to be looked at in between."""
        read1: Callable[..., bytes] | None = getattr(self._raw, "read1", None)
        return None if self._request.left_s() is None else read1

    def stream(self, amt: int | None = _PART, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's. With a deadline it hands out what has come rather than wait for the whole of `amt`."""
        read1 = self._read1()
        if read1 is None or amt == 0:
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
