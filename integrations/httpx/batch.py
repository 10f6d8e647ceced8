"""httpx, and httpx2, as a back end of batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from resilience import Pipeline, PipelineHandle
from resilience.batch import Backend, Kind, kind_of, limit_as_deadline
from resilience.integrations.httpx.library import CONNECTION_ERRORS, LIBRARIES, OWN_FAULTS, TIMEOUTS, WHOLE_BODIES, AsyncByteStream
from resilience.integrations.httpx.transport import AsyncRequest, SyncRequest

__all__ = ["HttpxBackend"]

_REPEATABLE: Final = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
_ASYNC_CLIENTS: Final = tuple(library.AsyncClient for library in LIBRARIES)
_CLIENTS: Final = (*_ASYNC_CLIENTS, *(library.Client for library in LIBRARIES))
_REQUESTS: Final = tuple(library.Request for library in LIBRARIES)


class _Through:
    """A client where a transport is asked for: a try goes through its redirects, its authentication and its own transport."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def handle_request(self, request: Any) -> Any:
        with limit_as_deadline():
            return self._client.send(request, stream=True)

    async def handle_async_request(self, request: Any) -> Any:
        with limit_as_deadline():
            response = await self._client.send(request, stream=True)
        response.stream = _Parts(response.stream)
        return response


class _Parts(AsyncByteStream):
    """The body of a response, for which the time limit of the batch is a deadline too."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with limit_as_deadline():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class HttpxBackend(Backend[Any, Any]):
    """Sends requests through an `httpx.AsyncClient`, or in threads through an `httpx.Client`. A value is a response, read whole.

    A request is a URL, which is got, or a pair of method and URL, or what `client.build_request` makes. It goes through `pipeline`
    as through a `ResilienceTransport`: with what is left of its time in a header, retries by HTTP's rules, and votes by status.

    Errors: 4xx are BUSINESS, 429 REFUSED, 408 and 504 TIMEOUT, other 5xx TRANSPORT; a 503 by which a guard speaks is REFUSED; no
    connection, or one that breaks off, is TRANSPORT. `error.response` of the `HTTPStatusError` is the answer.

    Args:
        client: stays its maker's, who closes it. One whose transport is guarded already needs no `pipeline` here.
        pipeline: what requests go through; default no guard.
        name: for spans and errors.
        raise_for_status: whether an answer from 400 up is a failure; else every answer is a value.

    Raises:
        TypeError: `client` is no client of httpx or httpx2.
    """

    def __init__(
        self,
        client: Any,
        pipeline: Pipeline | PipelineHandle | None = None,
        *,
        name: str = "http",
        raise_for_status: bool = True,
    ) -> None:
        if not isinstance(client, _CLIENTS):
            raise TypeError(f"back end {name!r}: client must be an httpx.AsyncClient or an httpx.Client, got {client!r}")
        super().__init__(name, pipeline, is_async=isinstance(client, _ASYNC_CLIENTS))
        self._client = client
        self._through = _Through(client)
        self._raises = raise_for_status
        self._unguarded = Pipeline(name)

    def prepare(self, request: Any) -> Any:
        """Make the request. Raises what httpx raises for a malformed one."""
        if isinstance(request, _REQUESTS):
            return request
        method, url = ("GET", request) if isinstance(request, str) or not isinstance(request, tuple) else request
        return self._client.build_request(method, url)

    def send(self, prepared: Any) -> Any:
        """Send it."""
        return self._asend(prepared) if self.is_async else self._send(prepared)

    def _guard(self) -> Pipeline:
        pipeline = self.pipeline
        if pipeline is None:
            return self._unguarded
        return pipeline.current if isinstance(pipeline, PipelineHandle) else pipeline

    def _send(self, request: Any) -> Any:
        response = SyncRequest(self._guard(), request, self._through).run()
        try:
            response.read()
        finally:
            response.close()
        return self._checked(response, request)

    async def _asend(self, request: Any) -> Any:
        response = await AsyncRequest(self._guard(), request, self._through).run()
        try:
            await response.aread()
        finally:
            await response.aclose()
        return self._checked(response, request)

    def _checked(self, response: Any, request: Any) -> Any:
        response.request = request  # and not the copy that a try was sent with
        if self._raises and response.status_code >= 400:
            response.raise_for_status()
        return response

    def kind_of(self, error: BaseException) -> Kind:
        """As the class says."""
        if isinstance(error, OWN_FAULTS):
            return Kind.TIMEOUT if isinstance(error, TIMEOUTS) else Kind.BUSINESS
        if isinstance(error, TIMEOUTS):
            return Kind.TIMEOUT
        kind = kind_of(error)
        return Kind.TRANSPORT if kind is Kind.BUSINESS and isinstance(error, CONNECTION_ERRORS) else kind

    def may_hedge(self, request: Any) -> bool:
        """Idempotent methods, or with an `Idempotency-Key`, and a body that can be sent again."""
        if isinstance(request, _REQUESTS):
            has_key = any(value.strip() for value in request.headers.get_list("idempotency-key"))
            return isinstance(request.stream, WHOLE_BODIES) and (has_key or request.method in _REPEATABLE)
        return not isinstance(request, tuple) or str(request[0]).upper() in _REPEATABLE
