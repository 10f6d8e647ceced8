"""Transports that send each request of an httpx client through a pipeline."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any, Self

from resilience import Toolkit
from resilience.edges import Choose, Chosen, OutgoingPipelines, adrive, drive
from resilience.integrations.httpx.bodies import AsyncBody, Body, adrain, drain
from resilience.integrations.httpx.library import AsyncBaseTransport, BaseTransport, library_of
from resilience.integrations.httpx.request import HttpxRequest, host_of

Config = str | os.PathLike[str] | Toolkit | None


class SyncRequest(HttpxRequest):
    """One request of a thread."""

    def run(self) -> Any:
        """Send it, as often as it is worth it. Returns the response, whose body settles the call."""
        response = drive(self.plan(), self.pipeline.clock, self._send)
        if self.is_unread(response):
            response.stream = Body(response, self)
        return response

    def _send(self) -> Any:
        request = self.as_sent()
        try:
            return self.inner.handle_request(request)
        except Exception as error:
            ended_by = self.ended_by(error)
            if ended_by is error:
                raise
            raise ended_by from error

    def discard(self, result: Any) -> None:
        self.ended()
        drain(result.stream, self)


class AsyncRequest(HttpxRequest):
    """One request of a task."""

    async def run(self) -> Any:
        """Send it, as often as it is worth it. Returns the response, whose body settles the call."""
        response = await adrive(self.plan(), self.pipeline.clock, self._send)
        if self.is_unread(response):
            response.stream = AsyncBody(response.stream, self)
        return response

    async def _send(self) -> Any:
        request = self.as_sent()
        try:
            return await self.inner.handle_async_request(request)
        except Exception as error:
            ended_by = self.ended_by(error)
            if ended_by is error:
                raise
            raise ended_by from error

    async def discard(self, result: Any) -> None:
        self.ended()
        await adrain(result.stream, self)


class _Ways:
    """The way of requests through a transport: which pipeline, and which transport sends them in the end."""

    def __init__(self, kind: str, transport: Any, config: Config, pipeline: Chosen | Choose) -> None:
        self._pipelines = OutgoingPipelines(config, pipeline)
        self._kind = kind
        self._lock = threading.Lock()
        self.inner = transport

    def of(self, request: Any) -> tuple[Any, Any]:
        """The transport that sends `request`, and the pipeline that guards it, if one does."""
        if self.inner is None:  # which library's it must be is known only now
            with self._lock:
                if self.inner is None:
                    self.inner = getattr(library_of(request), self._kind)()
        return self.inner, self._pipelines.find(request.method, host_of(request))

    def close(self) -> None:
        """Give up the configuration file."""
        self._pipelines.close()


class ResilienceTransport(BaseTransport):
    """Sends each request of an `httpx.Client` through a pipeline: `httpx.Client(transport=ResilienceTransport(pipeline=payments))`.

    A request passes the layers before the pipeline's `Retry` once, and those after it for each try. What is left of its deadline
    travels in a header and bounds the client's own timeouts. Only what can be repeated is tried again: idempotent methods, or with
    an `Idempotency-Key`, and a body of bytes. A last answer is returned as it is, also a 503; a refusal is raised as `Rejected`.

    Args:
        transport: sends what the pipeline lets through, and is closed with this one; default `HTTPTransport()` of the client's
            library. What a client is given for its own transport (`verify`, `http2`, `limits`, `proxy`) must be given to this.
        config: the path of a configuration file, or a `Toolkit`; needed where `pipeline` is a name.
        pipeline: a pipeline made in code, or `toolkit.pipeline(name)`, or a name, or a function of method and host (such as
            "GET" and "payments.example:8443") that returns one of these, or None for no guard.

    Raises:
        ConfigError: the file cannot be used, or has no such pipeline.
        TypeError: `pipeline` is none of these.
    """

    def __init__(self, transport: Any = None, config: Config = None, *, pipeline: Chosen | Choose) -> None:
        self._ways = _Ways("HTTPTransport", transport, config, pipeline)

    def handle_request(self, request: Any) -> Any:
        """Send one request.

        Raises:
            Rejected: a layer refused, or the deadline passed. Errors of the client are raised as themselves.
        """
        inner, pipeline = self._ways.of(request)
        return inner.handle_request(request) if pipeline is None else SyncRequest(pipeline, request, inner).run()

    def close(self) -> None:
        """Close the transport within, and give up the configuration file."""
        try:
            if self._ways.inner is not None:
                self._ways.inner.close()
        finally:
            self._ways.close()

    def __enter__(self) -> Self:
        if self._ways.inner is not None:
            self._ways.inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            if self._ways.inner is not None:
                self._ways.inner.__exit__(exc_type, exc_value, traceback)
        finally:
            self._ways.close()


class AsyncResilienceTransport(AsyncBaseTransport):
    """The same for an `httpx.AsyncClient` under asyncio. A request is cancelled when its deadline passes.

    Args and what is raised: as for `ResilienceTransport`.
    """

    def __init__(self, transport: Any = None, config: Config = None, *, pipeline: Chosen | Choose) -> None:
        self._ways = _Ways("AsyncHTTPTransport", transport, config, pipeline)

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request.

        Raises:
            Rejected: a layer refused, or the deadline passed. Errors of the client are raised as themselves.
        """
        inner, pipeline = self._ways.of(request)
        return await (inner.handle_async_request(request) if pipeline is None else AsyncRequest(pipeline, request, inner).run())

    async def aclose(self) -> None:
        """Close the transport within, and give up the configuration file."""
        try:
            if self._ways.inner is not None:
                await self._ways.inner.aclose()
        finally:
            self._ways.close()

    async def __aenter__(self) -> Self:
        if self._ways.inner is not None:
            await self._ways.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            if self._ways.inner is not None:
                await self._ways.inner.__aexit__(exc_type, exc_value, traceback)
        finally:
            self._ways.close()
