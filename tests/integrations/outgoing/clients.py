"""Every client that has a room, behind one signature: httpx and httpx2, in threads and in tasks, and requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import httpx2
import requests
from requests.adapters import HTTPAdapter

from resilience.integrations.httpx import AsyncResilienceTransport, ResilienceTransport
from resilience.integrations.requests import ResilienceAdapter
from tests.integrations.outgoing.peer import TIMEOUT_S

T = TypeVar("T")
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For transports that speak no TLS here: to load certificates takes longer than most tests."""


class Opened:
    """A response whose body is still to be read."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self._parts = response.iter_raw()

    async def part(self) -> bytes | None:
        """The next part of the body; None: it has ended."""
        return next(self._parts, None)

    async def close(self) -> None:
        """Have enough of it."""
        self.response.close()


class AsyncOpened(Opened):
    """The same in a task."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self._parts = response.aiter_raw()

    async def part(self) -> bytes | None:
        return await anext(self._parts, None)

    async def close(self) -> None:
        await self.response.aclose()


class RequestsOpened(Opened):
    """The same with requests."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self._parts = response.raw.stream(4)


class Session:
    """A client whose requests go through a pipeline. Blocking ones block."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def send(self, method: str, url: str, *, body: Any = None, timeout: Any = TIMEOUT_S, **options: Any) -> Any:
        """One request: its response, read to its end."""
        return self.client.request(method, url, content=body, timeout=timeout, **options)

    async def open(self, method: str, url: str, *, timeout: Any = TIMEOUT_S) -> Opened:
        """One request: its response, unread."""
        return Opened(self.client.send(self.client.build_request(method, url, timeout=timeout), stream=True))

    async def close(self) -> None:
        """Close the client."""
        self.client.close()


class AsyncSession(Session):
    """The same in a task."""

    async def send(self, method: str, url: str, *, body: Any = None, timeout: Any = TIMEOUT_S, **options: Any) -> Any:
        return await self.client.request(method, url, content=body, timeout=timeout, **options)

    async def open(self, method: str, url: str, *, timeout: Any = TIMEOUT_S) -> Opened:
        request = self.client.build_request(method, url, timeout=timeout)
        return AsyncOpened(await self.client.send(request, stream=True))

    async def close(self) -> None:
        await self.client.aclose()


class RequestsSession(Session):
    """The same with requests."""

    async def send(self, method: str, url: str, *, body: Any = None, timeout: Any = TIMEOUT_S, **options: Any) -> Any:
        return self.client.request(method, url, data=body, timeout=timeout, **options)

    async def open(self, method: str, url: str, *, timeout: Any = TIMEOUT_S) -> Opened:
        return RequestsOpened(self.client.request(method, url, stream=True, timeout=timeout))


class Flavour:
    """One client library, in threads or in tasks."""

    is_async = False

    def __init__(self, name: str, library: Any) -> None:
        self.name = name
        self.library = library

    def __str__(self) -> str:
        return self.name

    def session(self, *, places: int | None = None, **options: Any) -> Session:
        """A session through `pipeline=`; `places` is how many connections it may have at once."""
        inner = self.library.HTTPTransport(verify=PLAIN, limits=self.library.Limits(max_connections=places))
        transport = ResilienceTransport(inner, **options)
        return Session(self.library.Client(transport=transport, trust_env=False))

    def generator(self, *parts: bytes) -> Any:
        """A body that can be read once."""
        return (part for part in parts)

    @property
    def timeouts(self) -> tuple[type[Exception], ...]:
        """What the client raises when it has waited long enough."""
        return (self.library.TimeoutException,)

    @property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What it raises when a connection cannot be made, or breaks."""
        return (self.library.NetworkError, self.library.RemoteProtocolError)

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Session]:
        """A session for a block."""
        session = self.session(**options)
        try:
            yield session
        finally:
            await session.close()

    def run(self, scenario: Callable[[Session], Awaitable[T]], **options: Any) -> T:
        """Run `scenario` with a session."""

        async def main() -> T:
            async with self.open(**options) as session:
                return await scenario(session)

        return asyncio.run(main())

    def send(self, pipeline: Any, method: str, url: str, **options: Any) -> Any:
        """One request with a session of its own."""
        return self.run(lambda session: session.send(method, url, **options), pipeline=pipeline)

    def send_all(self, pipeline: Any, method: str, *urls: str, **options: Any) -> list[Any]:
        """Requests one after the other in one session: the status of each, or the class of what it raised."""

        async def scenario(session: Session) -> list[Any]:
            return [await how(session.send(method, url, **options)) for url in urls]

        return self.run(scenario, pipeline=pipeline)


class AsyncFlavour(Flavour):
    """One client library, in tasks."""

    is_async = True

    def session(self, *, places: int | None = None, **options: Any) -> Session:
        inner = self.library.AsyncHTTPTransport(verify=PLAIN, limits=self.library.Limits(max_connections=places))
        transport = AsyncResilienceTransport(inner, **options)
        return AsyncSession(self.library.AsyncClient(transport=transport, trust_env=False))

    def generator(self, *parts: bytes) -> Any:
        async def one_after_the_other() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return one_after_the_other()


class RequestsFlavour(Flavour):
    """requests."""

    def session(self, *, places: int | None = None, **options: Any) -> Session:
        inner = None if places is None else HTTPAdapter(pool_maxsize=places, pool_block=True)
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", ResilienceAdapter(inner, **options))
        return RequestsSession(session)

    @property
    def timeouts(self) -> tuple[type[Exception], ...]:
        return (requests.Timeout,)

    @property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        return (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


async def how(request: Awaitable[Any]) -> Any:
    """How a request ended: its status, or the class of what it raised."""
    try:
        return (await request).status_code
    except Exception as error:
        return type(error)


def parts_of(body: bytes, size: int) -> Iterator[bytes]:
    """A body in parts."""
    return (body[at : at + size] for at in range(0, len(body), size))


FLAVOURS = [Flavour("httpx", httpx), AsyncFlavour("httpx2-async", httpx2), RequestsFlavour("requests", requests)]
"""Each room, each library, threads and tasks."""
OTHERS = [AsyncFlavour("httpx-async", httpx), Flavour("httpx2", httpx2)]
"""What is left of all that can be had, for the tests of one room."""
