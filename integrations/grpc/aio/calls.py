"""Calls that a task makes, tried again until a response, or the first of a stream of them, has come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Self

import grpc

from resilience import Rejected
from resilience.edges import CURRENT, DetachedTry, Effect, SteppedPlan
from resilience.integrations.grpc.errors import CancelledRpc
from resilience.integrations.grpc.outgoing import OK, RpcExchange, raise_as_seen

Send = Callable[[], Coroutine[Any, Any, Any]]


async def aunary(exchange: RpcExchange, send: Send) -> Any:
    """A call with one request and one response. Returns the call of the last try, which has succeeded."""
    run = Run(exchange, send)
    if not exchange.begin():
        return await run.over(exchange.go_by_steps)
    first = admitted(exchange)
    if first.refusal is not None:
        return await run.over(exchange.go_by_steps, first.rest())
    mark = CURRENT.set(first.attempt)
    try:
        call = await send()
        await call
    except BaseException as error:  # noqa: BLE001  # the plan raises it again, unless there is another try
        ended = error
    else:
        first.succeeded(call, OK)
        return call
    finally:
        CURRENT.reset(mark)
    exchange.go_by_steps(first.rest())  # up to this try
    try:
        return await run.over(exchange.steps.raised, exchange.as_known(ended))
    finally:
        del ended  # its traceback refers to this frame


def admitted(exchange: RpcExchange) -> DetachedTry:
    """The first try of a call that has begun.

    Raises:
        Rejected: a layer refused.
    """
    try:
        return exchange.first_try()
    except Rejected as refusal:
        raise_as_seen(refusal)


class Run:
    """The tries of one call, made by whichever task waits for what comes of them."""

    def __init__(self, exchange: RpcExchange, send: Send) -> None:
        self.exchange = exchange
        self._send = send
        self.call: Any = None

    @property
    def steps(self) -> SteppedPlan:
        """What takes the steps of the call."""
        return self.exchange.steps

    async def begin(self) -> None:
        """Send the first try."""
        self.exchange.begin()
        await self.next_try(self.exchange.go_by_steps)

    async def over(self, step: Callable[..., Effect | None], *args: Any) -> Any:
        """Take a step of the plan, and make tries until one has got its response. Returns its call."""
        await self.next_try(step, *args)
        call = await self.response()
        self.exchange.ended()
        return call

    async def response(self) -> Any:
        """Wait for the response to the try that is on its way, and make others if it fails."""
        while self.steps.is_pending:
            try:
                await self.call
            except BaseException as error:  # noqa: BLE001  # the plan raises it again, unless there is another try
                await self.failed(error)
            else:
                self.steps.returned(self.call)
        return self.call

    async def failed(self, error: BaseException) -> None:
        """The try that is on its way has ended with `error`: make another, or raise."""
        await self.next_try(self.steps.raised, self.exchange.as_known(error))

    async def next_try(self, step: Callable[..., Effect | None], *args: Any) -> None:
        """Take a step of the plan, and send the try that it asks for."""
        try:
            effect = step(*args)
            steps = self.steps
            while await steps.auntil_attempt(effect) is not None:
                try:
                    self.call = await asyncio.create_task(self._send(), context=steps.context)
                except BaseException as error:  # noqa: BLE001  # it goes on inside the plan
                    effect = steps.raised(error)
                else:
                    return
        except BaseException as error:  # noqa: BLE001  # raised again
            raise_as_seen(error)


class _Face:
    """What all calls have in common: they speak for the last try, which a task finds out as soon as somebody asks for that.

    One task, whoever asks: a try that has failed is made again once, and who only looks on takes nothing from who reads.
    """

    def __init__(self, exchange: RpcExchange, send: Send) -> None:
        self._exchange = exchange
        self._run = Run(exchange, send)
        self._tries: asyncio.Task[Any] | None = None

    async def begin(self) -> Self:
        """Send the first try. Returns this call.

        Raises:
            Rejected: a layer refused.
        """
        await self._run.begin()
        return self

    # --- its tries --------------------------------------------------------------------------------------------------------------

    async def _until_last(self) -> Any:
        """Make tries until one is the last. Returns what it began with. In a task of its own."""
        raise NotImplementedError

    def _last(self) -> asyncio.Task[Any]:
        if self._tries is None:
            self._tries = asyncio.create_task(self._until_last())
            self._tries.add_done_callback(_looked_at)
        return self._tries

    async def _until_known(self) -> grpc.aio.AioRpcError | None:
        """Wait until the last try is known. Returns the error that says what it ended with; None: it says so itself."""
        tries = self._last()
        await asyncio.wait((tries,))
        if tries.cancelled():
            return None if self._run.call.cancelled() else CancelledRpc("cancelled between two tries")
        error = tries.exception()
        return error if isinstance(error, grpc.aio.AioRpcError) else None

    async def _begun(self) -> Any:
        """What the last try began with. As with gRPC's own calls, who stops waiting for it cancels the call."""
        tries = self._last()
        try:
            return await asyncio.shield(tries)
        except asyncio.CancelledError:
            self.cancel()
            raise

    # --- what a call is ---------------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel it, and all further tries."""
        self._exchange.is_cancelled = True
        if self._tries is None:
            self._exchange.dropped()  # there may be nobody who asks any more
        cancelled: bool = self._run.call.cancel()
        if self._tries is not None and not self._tries.done() and not cancelled:
            return self._tries.cancel()  # it waits for the next try
        return cancelled

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        cancelled: bool = self._run.call.cancelled()
        return cancelled or (self._tries is not None and self._tries.cancelled())

    def done(self) -> bool:
        """Whether it has ended."""
        done: bool = self._run.call.done()
        return done and (self._tries is None or self._tries.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this when it has ended. gRPC's channels ask for that, too: it begins nothing."""

        def known(tries: asyncio.Task[Any]) -> None:
            if tries.cancelled() or tries.exception() is not None:
                callback(self)
            else:
                self._run.call.add_done_callback(lambda _: callback(self))

        def ended(_: object) -> None:
            if self._tries is None:  # nobody waits for another try
                callback(self)
            else:
                self._tries.add_done_callback(known)

        self._run.call.add_done_callback(ended)

    def time_remaining(self) -> float | None:
        """Seconds that the present try may still take."""
        remaining_s: float | None = self._run.call.time_remaining()
        return remaining_s

    async def initial_metadata(self) -> Any:
        """That of the present try."""
        return await self._run.call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """That of the last try."""
        error = await self._until_known()
        return await self._run.call.trailing_metadata() if error is None else error.trailing_metadata()

    async def code(self) -> Any:
        """The status code of the last try."""
        error = await self._until_known()
        return await self._run.call.code() if error is None else error.code()

    async def details(self) -> Any:
        """The details of the last try."""
        error = await self._until_known()
        return await self._run.call.details() if error is None else error.details()

    async def debug_error_string(self) -> Any:
        """What gRPC says of the end of the last try."""
        error = await self._until_known()
        return await self._run.call.debug_error_string() if error is None else error.debug_error_string()

    async def wait_for_connection(self) -> None:
        """Wait until the present try has a connection."""
        await self._run.call.wait_for_connection()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it never began
            self._exchange.dropped()


def _looked_at(tries: asyncio.Task[Any]) -> None:
    """Whoever asks for what it began with gets its error. Nobody need ask."""
    if not tries.cancelled():
        tries.exception()


class _OneResponse(_Face):
    async def _until_last(self) -> Any:
        call = await self._run.response()
        self._exchange.ended()
        return call

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        return await (await self._begun())


class _ManyResponses(_Face):
    _messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._all()
        return self._messages

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF`."""
        try:
            return await anext(self.__aiter__())
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def _until_last(self) -> tuple[list[Any], AsyncIterator[Any]]:
        run = self._run
        first: list[Any] = []
        messages = aiter(run.call)
        while run.steps.is_pending:
            try:
                first = [await anext(messages)]
            except StopAsyncIteration:
                run.steps.returned(run.call)
            except BaseException as error:  # noqa: BLE001  # the plan raises it again, unless there is another try
                await run.failed(error)
                messages = aiter(run.call)
            else:
                run.steps.returned(run.call)
        return first, messages

    async def _all(self) -> AsyncIterator[Any]:
        exchange = self._exchange
        first, messages = await self._begun()
        try:
            for message in first:
                yield message
            async for message in messages:
                yield message
        except BaseException as error:
            exchange.broke_off(error)
            raise
        exchange.ended()


class _ManyRequests(_Face):
    async def write(self, request: Any) -> None:
        """Send one more request."""
        await self._run.call.write(request)

    async def done_writing(self) -> None:
        """Say that there are no more requests."""
        await self._run.call.done_writing()

    @property
    def _done_writing_flag(self) -> bool:
        """What gRPC's own intercepted calls ask before they write."""
        return bool(self._run.call._done_writing_flag)  # noqa: SLF001  # grpc asks this of calls that interceptors return


class UnaryStreamCall(_ManyResponses, grpc.aio.UnaryStreamCall):  # type: ignore[misc]  # grpc ships no types
    """A call with one request and a stream of responses."""


class StreamUnaryCall(_OneResponse, _ManyRequests, grpc.aio.StreamUnaryCall):  # type: ignore[misc]  # grpc ships no types
    """A call with a stream of requests and one response."""


class StreamStreamCall(_ManyResponses, _ManyRequests, grpc.aio.StreamStreamCall):  # type: ignore[misc]  # grpc ships no types
    """A call with streams both ways."""
