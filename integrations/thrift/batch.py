"""A method of a Thrift service as a back end of batches."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from thriftpy2.protocol.exc import TProtocolException
from thriftpy2.thrift import TApplicationException, TException
from thriftpy2.transport import TTransportException

from resilience import DeadlineExceeded, Pipeline, PipelineHandle, current_deadline
from resilience.batch import Backend, Kind, kind_of
from resilience.integrations.thrift.clients import Clients, bound

_SHORTEST_S: Final = 0.001
_FAILED: Final = (TApplicationException.UNKNOWN, TApplicationException.INTERNAL_ERROR)
"""By which a server says that its handler failed in a way that the interface knows nothing of."""
_BROKEN: Final = (TTransportException, TProtocolException, OSError, EOFError)


class _Said(NamedTuple):
    """An error by which the service has answered: that shows that it lives."""

    error: Exception


class ThriftBackend(Backend[Any, Any]):
    """Calls one method of a Thrift service in threads. A value is what the method returns.

    A request is the tuple of the method's arguments, or its only argument. What is left of its time bounds each wait for bytes; a
    connection whose call did not end whole is closed, any other serves the next call.

    Errors: exceptions that the interface declares are BUSINESS, and no failure to a breaker; so are those by which the library says
    that it knows no such method. A connection that cannot be had or breaks off, and an internal error of the server, are TRANSPORT.
    No call is hedged, unless it is told that the method is `repeatable`.

    Args:
        connect: opens a client, such as `lambda: make_client(stock_thrift.Stock, "127.0.0.1", 9090)`.
        method: the name of the method.
        pipeline: what calls go through; default no guard.
        name: for spans and errors; default the name of the method.
        most_idle: connections that are kept open without a call; default 32.
        repeatable: whether a second try may be sent while the first is under way.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        method: str,
        pipeline: Pipeline | PipelineHandle | None = None,
        *,
        name: str | None = None,
        most_idle: int = 32,
        repeatable: bool = False,
    ) -> None:
        super().__init__(method if name is None else name, pipeline, is_async=False)
        self._method = method
        self._clients = Clients(connect, most_idle)
        self._repeatable = repeatable

    def send(self, prepared: Any) -> Any:
        """Call the method."""
        value = self._exchange(prepared) if self.pipeline is None else self.pipeline.call(self._exchange, prepared)
        if isinstance(value, _Said):
            raise value.error
        return value

    def _exchange(self, request: Any) -> Any:
        """One try, on a connection of its own."""
        client = self._clients.take()
        is_whole = False
        try:
            deadline = current_deadline()
            bound(client, None if deadline is None else max(_SHORTEST_S, deadline.remaining_s()))
            arguments = request if isinstance(request, tuple) else (request,)
            value = getattr(client, self._method)(*arguments)
            is_whole = True
        except TException as error:
            if isinstance(error, _BROKEN) or (isinstance(error, TApplicationException) and error.type in _FAILED):
                raise
            is_whole = True
            return _Said(error)
        except TimeoutError as error:
            deadline = current_deadline()
            if deadline is None or deadline.remaining_s() > 0:
                raise
            raise DeadlineExceeded(f"{self.name}: the time for the call ran out", policy=self.name, reason="expired") from error
        finally:
            if is_whole:
                self._clients.give_back(client)
            else:
                self._clients.drop(client)
        return value

    def kind_of(self, error: BaseException) -> Kind:
        """As the class says."""
        if isinstance(error, TTransportException):
            return Kind.TIMEOUT if error.type == TTransportException.TIMED_OUT else Kind.TRANSPORT
        if isinstance(error, TProtocolException) or (isinstance(error, TApplicationException) and error.type in _FAILED):
            return Kind.TRANSPORT
        return kind_of(error)

    def may_hedge(self, request: Any) -> bool:
        """As told."""
        return self._repeatable

    def close(self) -> None:
        """Close its connections."""
        self._clients.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
