"""A refusal by an outgoing pipeline that leaves the handler: answered by the same table, and ignored by the guards around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from resilience import CircuitBreaker, CircuitOpen, Deadline, DeadlineExceeded, Pipeline, RateLimited, RateLimiter, Rejected
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import Bench, failing
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.server import received, serving

TYPES = "https://iana.org/assignments/http-problem-types#"


async def charge() -> str:
    """The outgoing call, were it let through."""
    return "charged"


def starlette_app(inbound: Pipeline, outgoing: Pipeline) -> Starlette:
    """A service whose handler makes one outgoing call."""

    async def handler(request: Request) -> Response:
        return PlainTextResponse(await outgoing.acall(charge))

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=inbound)
    return app


def test_an_outgoing_limit_is_answered_as_reduced_capacity_without_fields_of_the_client_s_quota() -> None:
    clock = ManualClock()
    inbound = Pipeline("api", RateLimiter(100.0, name="api", clock=clock))
    outgoing = Pipeline("payments", RateLimiter(0.1, 1, name="payments", clock=clock))
    with serving(starlette_app(inbound, outgoing)) as server:
        assert server.get("/").text == "charged"
        response = server.get("/")
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"{TYPES}temporary-reduced-capacity"
    assert "violated-policies" not in response.json()
    assert "ratelimit" not in response.headers
    assert "ratelimit-policy" not in response.headers
    assert 10 <= int(response.headers["retry-after"]) <= 12


def test_an_outgoing_breaker_is_answered_503() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(min_calls=1, open_for_s=30.0, name="payments", clock=clock, uniform=lambda: 0.0)
    breaker.force("open")
    inbound = Pipeline("api", RateLimiter(100.0, name="api", clock=clock))
    with serving(starlette_app(inbound, Pipeline("payments", breaker))) as server:
        response = server.get("/")
        assert (response.status_code, response.json()["reason"]) == (503, "forced")
        assert "retry-after" not in response.headers
        breaker.force(None)
        assert server.get("/").text == "charged"


def test_an_outgoing_deadline_is_answered_504() -> None:
    clock = ManualClock()

    async def handler(request: Request) -> Response:
        async def late() -> None:
            raise DeadlineExceeded("payments: the time ran out", policy="payments", reason="expired")

        await Pipeline("payments", Deadline(1.0, clock=clock)).acall(late)
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=Pipeline("api", RateLimiter(100.0, clock=clock)))
    with serving(app) as server:
        response = server.get("/")
    assert (response.status_code, response.headers["content-type"]) == (504, "application/problem+json")


REFUSALS: list[Callable[[], Rejected]] = [
    lambda: RateLimited("payments: over", policy="payments", retry_after_s=2.0),
    lambda: CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=2.0),
    lambda: DeadlineExceeded("payments: late", policy="payments", reason="expired_on_arrival"),
    lambda: Rejected("a guard of somebody else's", policy="payments"),
]


@pytest.mark.parametrize("refuse", REFUSALS)
def test_the_breaker_around_the_handler_ignores_it(refuse: Callable[[], Rejected]) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        talk = await Conversation(bench.guard(failing(refuse()))).run()
        assert talk.status in (429, 503, 504)
        assert talk.is_complete

    run(scenario())
    assert bench.outcome() == "ignored"
    assert bench.clock.pending_timers == 0


@pytest.mark.parametrize("refuse", REFUSALS)
def test_one_out_of_a_task_group_is_answered_like_one_alone(refuse: Callable[[], Rejected]) -> None:
    async def statuses() -> list[int | None]:
        errors = refuse(), ExceptionGroup("tasks", [ExceptionGroup("more", [refuse(), refuse()])])
        return [(await Conversation(Bench().guard(failing(error))).run()).status for error in errors]

    alone, grouped = run(statuses())
    assert alone == grouped


def test_a_group_that_holds_another_error_goes_on_to_the_server() -> None:
    error = ExceptionGroup("tasks", [CircuitOpen("out"), ValueError("a fault of the handler's")])
    with pytest.raises(ExceptionGroup) as raised:
        run(Conversation(Bench().guard(failing(error))).run())
    assert raised.value is error


def test_a_deadline_that_ran_out_at_work_fails_the_breaker_around_the_handler() -> None:
    bench = Bench()
    bench.half_open()
    run(Conversation(bench.guard(failing(DeadlineExceeded("late", policy="payments", reason="expired")))).run())
    assert bench.outcome() == "failed"


def test_the_breaker_met_again_inside_lets_the_outgoing_call_pass_and_votes_once() -> None:
    bench = Bench()
    bench.half_open()
    outgoing = Pipeline("again", bench.breaker)

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        assert await outgoing.acall(charge) == "charged"
        assert bench.breaker.state.value == "half_open"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def scenario() -> None:
        assert (await Conversation(bench.guard(handler)).run()).status == 200

    run(scenario())
    assert bench.outcome() == "ok"
    assert bench.breaker.decisions()["probe"] == 1


@pytest.mark.parametrize("refuse", REFUSALS)
def test_after_the_response_started_it_is_raised_again_and_nothing_leaks(refuse: Callable[[], Rejected]) -> None:
    bench = Bench()
    bench.half_open()
    refusal = refuse()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise refusal

    async def scenario() -> None:
        talk = Conversation(bench.guard(handler))
        with pytest.raises(type(refusal)) as caught:
            await talk.run()
        assert caught.value is refusal
        assert (talk.status, talk.body, talk.is_complete) == (200, b"half", False)

    run(scenario())
    assert bench.outcome() == "ignored"
    assert bench.clock.pending_timers == 0


def test_after_the_response_started_the_connection_is_cut() -> None:
    clock = ManualClock()

    async def handler(request: Request) -> Response:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=2.0)

        return _Bare(app)

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(ResilienceMiddleware, pipeline=Pipeline("api", RateLimiter(100.0, clock=clock)))
    with serving(app) as server, server.socket("GET / HTTP/1.1\nhost: x\n") as connection:
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"half")


class _Bare(Response):
    """A response that sends what `app` sends."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)
