"""Every way to make a call, behind one signature: in threads, as futures of threads, and in tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from resilience.integrations.grpc import ClientInterceptor
from resilience.integrations.grpc.aio import client_interceptors
from tests.integrations.grpc.client.peer import SERVICE


class Client:
    """Calls of a thread. They block."""

    def __init__(self, target: str, pipeline: Any, around: tuple[Any, ...] = (), **options: Any) -> None:
        interceptor = ClientInterceptor(pipeline=pipeline, target="peer", **options)
        self.channel = grpc.intercept_channel(grpc.insecure_channel(target), *around, interceptor)

    def method(self, kind: str) -> Any:
        """What makes calls of that kind."""
        return getattr(self.channel, kind)(f"/{SERVICE}/{kind}")

    async def call(self, kind: str, requests: Any = (b"a",), **options: Any) -> list[bytes]:
        """One call: all of its responses."""
        request = requests if kind.startswith("stream") else next(iter(requests))
        response = self.method(kind)(request, **options)
        return list(response) if kind.endswith("stream") else [response]

    def begin(self, kind: str, requests: Any = (b"a",), **options: Any) -> Any:
        """Begin a call: its future, or its stream."""
        request = requests if kind.startswith("stream") else next(iter(requests))
        method = self.method(kind)
        return method(request, **options) if kind.endswith("stream") else method.future(request, **options)

    async def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class FutureClient(Client):
    """Calls with one response as futures."""

    async def call(self, kind: str, requests: Any = (b"a",), **options: Any) -> list[bytes]:
        begun = self.begin(kind, requests, **options)
        if kind.endswith("stream"):
            return list(begun)
        return [await asyncio.to_thread(begun.result, 10)]


class AioClient(Client):
    """Calls of a task."""

    def __init__(self, target: str, pipeline: Any, around: tuple[Any, ...] = (), **options: Any) -> None:
        interceptors = client_interceptors(pipeline=pipeline, target="peer", **options)
        self.channel = grpc.aio.insecure_channel(target, interceptors=[*around, *interceptors])

    async def call(self, kind: str, requests: Any = (b"a",), **options: Any) -> list[bytes]:
        begun = self.begin(kind, requests, **options)
        return [message async for message in begun] if kind.endswith("stream") else [await begun]

    def begin(self, kind: str, requests: Any = (b"a",), **options: Any) -> Any:
        request = requests if kind.startswith("stream") else next(iter(requests))
        return self.method(kind)(request, **options)

    async def close(self) -> None:
        await self.channel.close()


CLIENTS: dict[str, type[Client]] = {"threads": Client, "futures": FutureClient, "tasks": AioClient}


class Driven:
    """Runs one test's coroutine with a client of one kind."""

    def __init__(self, kind: type[Client], target: str) -> None:
        self.kind = kind
        self.target = target

    def __call__(self, pipeline: Any, steps: Callable[[Client], Any], **options: Any) -> Any:
        async def run() -> Any:
            async with opened(self.kind(self.target, pipeline, **options)) as client:
                return await steps(client)

        return asyncio.run(run())


@asynccontextmanager
async def opened(client: Client) -> AsyncIterator[Client]:
    """A client that is closed in the end."""
    try:
        yield client
    finally:
        await client.close()


def iterator(*requests: bytes) -> Iterator[bytes]:
    """Requests that can be taken once."""
    yield from requests
