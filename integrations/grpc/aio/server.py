"""The server interceptor for asyncio: wraps each handler once; what guards its method is looked up for each RPC."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import CoroutineType
from typing import Any

import grpc.aio

from resilience import Pipeline, Rejected, Toolkit
from resilience.edges import CURRENT, CancelTimer, RouteSource, at_work, open_source, resumed
from resilience.integrations.grpc.aio.exchange import StreamExchange, TaskExchange
from resilience.integrations.grpc.aio.threads import ThreadHandler
from resilience.integrations.grpc.methods import DEFAULT_EXEMPT, Handlers
from resilience.integrations.grpc.server import behavior_of, wrapped


class ServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Guards the RPCs of an asyncio server: `grpc.aio.server(interceptors=[ServerInterceptor("resilience.yaml")])`.

    It stands after interceptors that trace, so that its spans are theirs. A handler is cancelled when its deadline passes. One that
    is a plain function runs in a thread of the server and cannot be: its late response goes out all the same and is counted as
    `expired`.

    Args:
        config: the path of a configuration file, or a `Toolkit`. Its `grpc` routes say which pipeline guards which method.
        pipeline: one pipeline made in code that guards every method instead.
        exempt: services ("shop.v1.Orders") and methods ("/shop.v1.Orders/Get") that are not guarded, whatever the routes say;
            default health checks and reflection.

    Raises:
        ConfigError: the file cannot be used: the service does not start.
        TypeError: neither or both of `config` and `pipeline` are given, or `exempt` is one text.
        ValueError: a text in `exempt` names neither a service nor a method.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Toolkit | None = None,
        *,
        pipeline: Pipeline | None = None,
        exempt: Iterable[str] = DEFAULT_EXEMPT,
    ) -> None:
        self._handlers = Handlers(self._wrap, exempt)
        self._source, close = open_source(config, pipeline)
        self._close: Callable[[], None] | None = close

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler. Admission waits until the server runs it, within the interceptors that stand before this one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        guarded = self._handlers.guarded(handler_call_details.method, handler)
        return guarded.bound_to(asyncio.current_task()) if type(guarded) is ThreadHandler else guarded

    def _wrap(self, method: str, handler: Any) -> Any:
        behavior = behavior_of(handler)
        if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
            return ThreadHandler(self._source, method, handler)
        return wrapped(handler, lambda behavior, streams: _guarded(self._source, method, behavior, streams=streams))

    def close(self) -> None:
        """Give up the configuration file, once. For servers that are taken down while the process lives on."""
        if self._close is not None:
            self._close()
            self._close = None


def _guarded(source: RouteSource, method: str, behavior: Any, *, streams: bool) -> Any:
    if inspect.isasyncgenfunction(behavior):
        return _generator(source, method, behavior)
    return _writer(source, method, behavior) if streams else _unary(source, method, behavior)


def _unary(source: RouteSource, method: str, behavior: Any) -> Any:  # noqa: C901  # see below
    find = source.find_grpc

    async def guarded_unary(request: Any, context: Any) -> Any:  # noqa: C901  # one coroutine: it is made for every RPC
        guarded = find(method)
        if guarded is None:
            return await behavior(request, context)
        exchange = TaskExchange(guarded, method, context)
        del context  # if it is aborted, the server keeps the error, whose traceback would refer back to it
        try:
            permit = exchange if exchange.begun_by(guarded.pipeline.enter) else await exchange.admitted_by_steps()
        except Rejected as refusal:
            return await exchange.abort(exchange.refused(refusal))
        trace = exchange.trace
        if trace is not None:
            trace.enter()
        mark = CURRENT.set(exchange)
        timer: CancelTimer | None = None
        try:
            handling = behavior(request, exchange.context)
            if type(handling) is not CoroutineType or not exchange.needs_timer():
                timer = exchange.timer()
                response = await handling
            else:
                begun = at_work()
                try:
                    awaited = handling.send(None)  # nothing can cancel it before it waits: until then it needs no timer
                except StopIteration as done:
                    response = done.value
                else:
                    rest = resumed(handling, awaited)
                    del awaited  # it may have a result, which is the handler's alone
                    timer = exchange.timer(begun)
                    response = await rest
            if timer is not None:
                timer.disarm()
                timer = None
            exchange.settle_returned(permit)
        except BaseException as error:
            answer = exchange.interrupted(permit, timer, error)
            if answer is None:
                raise
            return await exchange.abort(answer)
        finally:
            CURRENT.reset(mark)
            if trace is not None:
                trace.exit()
                exchange.end_span()
        return response

    return guarded_unary


def _writer(source: RouteSource, method: str, behavior: Any) -> Any:
    find = source.find_grpc

    async def guarded_writer(request: Any, context: Any) -> None:
        guarded = find(method)
        if guarded is None:
            await behavior(request, context)
            return
        exchange = StreamExchange(guarded, method, context)
        del context  # see above
        await exchange.start()
        try:
            await exchange.write_all(behavior, request)
        except BaseException as error:
            answer = exchange.broke_off(error)
            if answer is None:
                raise
            await exchange.abort(answer)
        exchange.ended()

    return guarded_writer


def _generator(source: RouteSource, method: str, behavior: Any) -> Any:
    find = source.find_grpc

    async def guarded_generator(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        guarded = find(method)
        if guarded is None:
            async for message in behavior(request, context):
                yield message
            return
        exchange = StreamExchange(guarded, method, context)
        del context  # see above
        await exchange.start()
        responses = behavior(request, exchange.context)
        step = responses.__anext__
        try:
            while True:
                message = await (exchange.draw(step) if exchange.is_timed else step())
                if not exchange.has_begun:
                    exchange.first()
                yield message
        except StopAsyncIteration:
            exchange.ended()
        except BaseException as error:
            answer = exchange.broke_off(error)
            if answer is None:
                raise
            await exchange.abort(answer)
        finally:
            await responses.aclose()

    return guarded_generator
