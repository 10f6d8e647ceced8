"""The body of a request: a client that hangs up while it sends it is no failure of the application that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from resilience.integrations.wsgi.types import Environ

_INPUT: Final = "wsgi.input"
_MOST_DIGITS: Final = 18  # nobody sends more bytes; Python refuses to read a number of 5,000 digits


class Upload:
    """In the place of `wsgi.input`, with all that it has. Notes an error while reading, and an end before the promised length."""

    __slots__ = ("_has_failed", "_input", "_is_short", "_left")

    def __init__(self, wsgi_input: Any, length: int | None) -> None:
        self._input = wsgi_input
        self._left = length  # bytes that are still to come, where the client has told how many there are
        self._is_short = False
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._input, name)

    @property
    def is_cut_short(self) -> bool:
        """Whether the application read to where the client broke it off."""
        return self._has_failed or self._is_short

    def read(self, size: int | None = -1) -> bytes:
        """As the server's."""
        limit = _limit(size)
        data: bytes = self._reading(self._input.read, *limit)
        self._note(len(data), is_all=not limit or len(data) < limit[0])
        return data

    def readline(self, size: int | None = -1) -> bytes:
        """As the server's."""
        limit = _limit(size)
        line: bytes = self._reading(self._input.readline, *limit)
        self._note(len(line), is_all=not line.endswith(b"\n") and (not limit or len(line) < limit[0]))
        return line

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """As the server's."""
        limit = _limit(hint)
        lines: list[bytes] = self._reading(self._input.readlines, *limit)
        self._note(sum(map(len, lines)), is_all=not limit)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _reading(self, read: Any, *args: int) -> Any:
        try:
            return read(*args)
        except (AssertionError, TypeError, ValueError):  # the application asked for what cannot be read
            raise
        except Exception:
            self._has_failed = True
            raise

    def _note(self, count: int, *, is_all: bool) -> None:
        """So many bytes came, and there are no more for now: servers hand over less than was asked for at the end only."""
        if self._left is not None:
            self._left -= count
            self._is_short = is_all and self._left > 0


def _limit(size: int | None) -> tuple[int, ...]:
    """What is handed to the server of a limit: PEP 3333 knows no None."""
    return () if size is None or size < 0 else (size,)


def upload_of(environ: Environ) -> Upload | None:
    """Put an `Upload` in the place of the body, where the request has one."""
    length: str = environ.get("CONTENT_LENGTH") or ""
    if length in ("", "0") and "HTTP_TRANSFER_ENCODING" not in environ:
        return None
    is_told = len(length) <= _MOST_DIGITS and length.isascii() and length.isdigit() and "HTTP_TRANSFER_ENCODING" not in environ
    environ[_INPUT] = upload = Upload(environ.get(_INPUT), int(length) if is_told else None)
    return upload
