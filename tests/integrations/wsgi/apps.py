"""Small applications to be guarded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

from resilience.integrations.wsgi import ResilienceMiddleware
from tests.integrations.bench import Layers

TEXT = [("content-type", "text/plain")]
EVENTS = [("content-type", "text/event-stream")]


class Bench(Layers):
    """The layers, and an application behind them."""

    def guard(self, app: Any, *, validated: bool = True) -> Any:
        """The middleware around `app`, which `wsgiref.validate` watches: then its body is never a list."""
        return ResilienceMiddleware(validator(app) if validated else app, pipeline=self.pipeline)


def answering(status: str = "200 OK", body: Iterable[bytes] = (b"hello",)) -> Any:
    """An application that answers every request at once; its body is no list."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, TEXT)
        return iter(body)

    return app


def listing(status: str = "200 OK", body: Any = (b"hello",)) -> Any:
    """An application that hands over its whole body: `body` itself."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, TEXT)
        return body

    return app


def failing(error: BaseException) -> Any:
    """An application that raises before it answers."""

    def app(environ: Any, start_response: Any) -> Any:
        raise error

    return app


class Parts:
    """A body that does as it is told, and tells when it was closed. An exception among its parts is raised."""

    def __init__(self, *parts: bytes | BaseException, on_close: BaseException | None = None) -> None:
        self._parts = iter(parts)
        self._on_close = on_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part = next(self._parts)
        if isinstance(part, BaseException):
            raise part
        return part

    def close(self) -> None:
        self.closed += 1
        if self._on_close is not None:
            raise self._on_close
