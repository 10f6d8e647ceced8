"""WSGI by hand: one request to an application, step by step, with the checks of `wsgiref.validate` around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


class Conversation:
    """One request, and the server's side of it: `begin` it, take its `next_part`s, `close` it. `run` does all of that.

    Head and body are sent as PEP 3333 has it: the head with the first part that is not empty.

    gone: what `write` raises once the client has gone.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        client: str | None = "127.0.0.1",
        validated: bool = True,
        environ: Mapping[str, Any] | None = None,
    ) -> None:
        self.app = validator(app) if validated else app
        self.environ: dict[str, Any] = {
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "REQUEST_METHOD": method,
            "QUERY_STRING": "",
            **(environ or {}),
        }
        setup_testing_defaults(self.environ)
        if client is not None:
            self.environ["REMOTE_ADDR"] = client
        for name, value in headers:
            key = f"HTTP_{name.upper().replace('-', '_')}"
            self.environ[key] = f"{self.environ[key]}, {value}" if key in self.environ else value
        self.gone: BaseException | None = None
        self.starts = 0
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.head_sent = False
        self.parts: list[bytes] = []
        self.body: Any = None
        self._next: Callable[[], bytes] | None = None
        self.closed = False

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The server's side of `start_response`."""
        try:
            if exc_info and self.head_sent:
                raise exc_info[1].with_traceback(exc_info[2])
            assert exc_info or self.head is None, "the response was begun twice"
        finally:
            exc_info = None
        self.starts += 1
        self.head = status, [*headers]
        return self.write

    def write(self, data: bytes) -> None:
        """The server's side of `write`, and of each part of the body."""
        if self.gone is not None:
            raise self.gone
        assert self.head is not None, "a body without a head"
        self.head_sent = True
        self.parts.append(data)

    def begin(self) -> Conversation:
        """Call the application."""
        self.body = self.app(self.environ, self.start_response)
        return self

    def next_part(self) -> bytes | None:
        """Take one part of the body and send it; None when there is none left."""
        if self._next is None:
            self._next = iter(self.body).__next__
        try:
            part = self._next()
        except StopIteration:
            if not self.head_sent:
                self.write(b"")
            return None
        if part:
            self.write(part)
        return part

    def close(self) -> None:
        """The server is done with it."""
        self.closed = True
        if hasattr(self.body, "close"):
            self.body.close()

    def run(self) -> Conversation:
        """From the request to `close`, which is called whatever happens."""
        self.begin()
        try:
            while self.next_part() is not None:
                pass
        finally:
            self.close()
        return self

    @property
    def status(self) -> int | None:
        """The status of the response, or None where none was begun."""
        return None if self.head is None else int(self.head[0][:3])

    def header(self, name: str) -> str | None:
        """The value of one header of the response; it must not be there twice."""
        assert self.head is not None
        values = [value for key, value in self.head[1] if key.lower() == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def content(self) -> bytes:
        """The body as far as it was sent."""
        return b"".join(self.parts)


@contextlib.contextmanager
def left_open(talk: Conversation) -> Iterator[Conversation]:
    """A request whose client goes away somewhere in the block: only `close` is left to be called."""
    talk.begin()
    try:
        yield talk
    finally:
        talk.close()
