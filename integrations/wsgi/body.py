"""The body of one response, on its way from the application to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from resilience.edges import abandon
from resilience.integrations.wsgi.current import set_current

if TYPE_CHECKING:
    from resilience.integrations.wsgi.exchange import HttpExchange


class WholeBody(chain[bytes]):
    """A body whose first part is all that its head promises: the call is settled, and the rest is the application's affair.

    It runs no code of ours, neither while the server goes through it nor at its end, and has a `close` only where the body has one.
    """

    __slots__ = ("close",)
    close: Callable[[], object]


class Body:
    """Passes on what the application returned.

    A class rather than a generator alone: one that is never started runs no `finally`. While a generator runs it refers to this, so
    that a body of which the server keeps nothing but the iterator is not taken for one that was dropped.
    """

    __slots__ = ("_body", "_exchange", "_parts")

    def __init__(self, exchange: HttpExchange, body: Iterable[bytes], parts: Iterator[bytes] | None = None) -> None:
        self._exchange = exchange
        self._body = body
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        while True:
            try:
                if exchange.settled or exchange.trace is not None:
                    part = exchange.as_current(self._next)
                else:  # the same, written out
                    mark = set_current(exchange.innermost)
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
                self._parts = iter(())  # nothing follows
                part = b"".join(instead)
            yield part
            if exchange.settled and self._parts is not None:  # the rest is the application's affair
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
        if exchange.settled:
            if close is not None:
                close()
            return
        try:
            if close is not None:
                exchange.as_current(close)
        finally:
            if not exchange.settled:
                exchange.closed()

    def __del__(self) -> None:
        """Whoever had it has dropped it without closing it, against PEP 3333."""
        if not self._exchange.settled:
            abandon(self._exchange.closed)
