"""The body of one response, on its way from the application to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Token
from typing import Protocol, TypeVar

from resilience.edges import CURRENT, Call, abandon

T = TypeVar("T")


class Exchange(Protocol):
    """What a body tells of its way."""

    settled: bool
    trace: object | None
    within: Call | None

    def leave(self, mark: Token[Call | None]) -> None:
        """The application is done with a step."""

    def as_current(self, step: Callable[[], T]) -> T:
        """Do one step of the application's work as the current call."""

    def hands_over(self, part: bytes) -> None:
        """The server is about to get a part."""

    def begins(self) -> int | None:
        """The response begins, with a part or without. Returns the present, where that was looked up."""

    def ended(self, now_us: int | None = None) -> None:
        """All parts were handed over. `now_us` is the present, where that is known."""

    def broke_off(self, error: BaseException) -> list[bytes] | None:
        """The application raised; returns what to send instead, if that can be done."""

    def closed(self) -> None:
        """The server is done with it."""


class Body:
    """Passes on what the application returned.

    A class rather than a generator alone: one that is never started runs no `finally`. While a generator runs it refers to this, so
    that a body of which the server keeps nothing but the iterator is not taken for one that was dropped.
    """

    __slots__ = ("_body", "_exchange", "_is_replaced", "_parts")

    def __init__(self, exchange: Exchange, body: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._body = body
        self._parts: Iterator[bytes] | None = None
        self._is_replaced = False

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        while not self._is_replaced:
            try:
                if exchange.settled or exchange.trace is not None:
                    part = exchange.as_current(self._next)
                else:  # the same, written out
                    mark = CURRENT.set(exchange.within or exchange)
                    try:
                        if self._parts is None:
                            self._parts = iter(self._body)
                        part = next(self._parts)
                    finally:
                        exchange.leave(mark)
                exchange.hands_over(part)
            except StopIteration:
                self._end()
                return
            except BaseException as error:
                instead = exchange.broke_off(error)
                if instead is None:
                    raise
                self._is_replaced = True
                part = b"".join(instead)
            yield part
            if exchange.settled and self._parts is not None and not self._is_replaced:  # the rest is the application's affair
                for part in self._parts:
                    yield part
                return

    def _next(self) -> bytes:
        if self._parts is None:
            self._parts = iter(self._body)
        return next(self._parts)

    def _end(self) -> None:
        exchange = self._exchange
        if exchange.settled:
            return
        try:
            exchange.begins()
        except BaseException as error:
            exchange.broke_off(error)
            raise
        exchange.ended()

    def close(self) -> None:
        """The server is done with the response, sent or not."""
        exchange = self._exchange
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                if exchange.settled:
                    close()
                else:
                    exchange.as_current(close)
        finally:
            if not exchange.settled:
                exchange.closed()

    def __del__(self) -> None:
        """Whoever had it has dropped it without closing it, against PEP 3333."""
        if not self._exchange.settled:
            abandon(self._exchange.closed)
