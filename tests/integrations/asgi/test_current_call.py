"""What a handler can ask of the call it serves, wherever Starlette and FastAPI run it: tasks, threads, bodies, dependencies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from resilience import Deadline, Pipeline, current_call, current_deadline
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import Bench
from tests.integrations.asgi.conversation import Conversation, run

Told = dict[str, Any]


def told(bench: Bench) -> Told:
    """What the current call says of itself."""
    call, deadline = current_call(), current_deadline(bench.clock)
    assert call is not None
    assert call.deadline is not None
    assert deadline is not None
    assert call.deadline.deadline_us == deadline.deadline_us
    return {"left_s": deadline.remaining_s(), "factor": call.health_factor, "pipeline": call.pipeline, "attempt": call.attempt}


def starlette(bench: Bench, seen: list[Told]) -> Any:
    """Handlers in tasks and in threads, and bodies that are made in either."""

    async def in_a_task(request: Request) -> JSONResponse:
        seen.append(told(bench))
        return JSONResponse({})

    def in_a_thread(request: Request) -> JSONResponse:
        seen.append(told(bench))
        return JSONResponse({})

    async def parts() -> AsyncIterator[bytes]:
        seen.append(told(bench))
        yield b"part"

    def parts_in_a_thread() -> Iterator[bytes]:
        seen.append(told(bench))
        yield b"part"

    async def streamed(request: Request) -> StreamingResponse:
        return StreamingResponse(parts())

    async def streamed_in_a_thread(request: Request) -> StreamingResponse:
        return StreamingResponse(parts_in_a_thread())

    handlers: list[Any] = [in_a_task, in_a_thread, streamed, streamed_in_a_thread]
    return Starlette(routes=[Route(f"/{handler.__name__}", handler) for handler in handlers])


def fastapi(bench: Bench, seen: list[Told]) -> Any:
    """Handlers, and what they depend on."""
    app = FastAPI()

    def extra() -> None:
        seen.append(told(bench))

    @app.get("/dependency", dependencies=[Depends(extra)])
    async def dependency() -> None:
        pass

    @app.get("/handler")
    def handler() -> None:
        seen.append(told(bench))

    return app


CASES = [
    *[(starlette, f"/{name}") for name in ("in_a_task", "in_a_thread", "streamed", "streamed_in_a_thread")],
    *[(fastapi, f"/{name}") for name in ("dependency", "handler")],
]


@pytest.mark.parametrize(("make", "path"), CASES)
def test_time_and_health_can_be_asked_for(make: Any, path: str) -> None:
    bench, seen = Bench(), list[Told]()
    app = bench.guard(make(bench, seen))
    run(Conversation(app, path, headers=[("grpc-timeout", "2S"), ("x-retry-attempt", "1")]).run())
    bench.half_open()
    run(Conversation(app, path).run())
    assert seen == [
        {"left_s": 2.0, "factor": 1.0, "pipeline": "api", "attempt": 1},
        {"left_s": 5.0, "factor": 0.3, "pipeline": "api", "attempt": 0},
    ]


def test_within_a_call_that_goes_out_it_is_that_one_and_then_the_request_again() -> None:
    bench, seen = Bench(), list[tuple[str, float]]()
    payments = Pipeline("payments", Deadline(1.0, clock=bench.clock))

    async def ask() -> None:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        seen.append((call.pipeline, call.deadline.remaining_s()))

    async def order(request: Request) -> JSONResponse:
        await payments.acall(ask)
        await ask()
        return JSONResponse({})

    run(Conversation(bench.guard(Starlette(routes=[Route("/", order)]))).run())
    assert seen == [("payments", 1.0), ("api", 5.0)]


def test_once_the_response_is_complete_there_is_none() -> None:
    """A task that goes on behind it has all the time it likes."""
    bench, seen = Bench(), list[object]()

    async def clean_up() -> None:
        seen.extend([current_call(), current_deadline(bench.clock)])

    async def order(request: Request) -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(clean_up))

    app = Starlette(routes=[Route("/", order)])
    app.add_middleware(ResilienceMiddleware, pipeline=bench.pipeline)
    run(Conversation(app).run())
    assert seen == [None, None]
