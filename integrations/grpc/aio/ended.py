"""The call of a task that has ended by an error already."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NoReturn, Self

import grpc

_TOO_LATE = "the call has ended"


class EndedCall(grpc.aio.UnaryUnaryCall, grpc.aio.UnaryStreamCall, grpc.aio.StreamUnaryCall, grpc.aio.StreamStreamCall):  # type: ignore[misc]
    """It tells interceptors in front what it ended with, as gRPC's own calls do. Of an error they may not hear."""

    _done_writing_flag = True

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, NoReturn]:
        raise self._error
        yield  # what makes a generator of it

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> NoReturn:
        raise self._error

    async def read(self) -> NoReturn:
        """Raise the error."""
        raise self._error

    async def write(self, request: Any) -> NoReturn:
        """It is too late for that."""
        raise asyncio.InvalidStateError(_TOO_LATE)

    async def done_writing(self) -> None:
        """Nothing."""

    async def wait_for_connection(self) -> NoReturn:
        """Raise the error."""
        raise self._error

    async def initial_metadata(self) -> Any:
        """That of the error."""
        return self._error.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """That of the error."""
        return self._error.trailing_metadata()

    async def code(self) -> Any:
        """That of the error."""
        return self._error.code()

    async def details(self) -> Any:
        """Those of the error."""
        return self._error.details()

    async def debug_error_string(self) -> Any:
        """That of the error."""
        return self._error.debug_error_string()

    def cancel(self) -> bool:
        """It is too late for that."""
        return False

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return bool(self._error.code() is grpc.StatusCode.CANCELLED)

    def done(self) -> bool:
        """Yes."""
        return True

    def time_remaining(self) -> None:
        """There is none."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this, now."""
        callback(self)


async def call_of(begun: Awaitable[Any]) -> Any:
    """The call that `begun` returns, or the one that has ended with the error of gRPC that it raises."""
    try:
        return await begun
    except grpc.aio.AioRpcError as error:
        return EndedCall(error)
