"""A refusal by an outgoing pipeline that leaves the handler: answered by the same table, and ignored by the guards around it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from resilience import CircuitOpen, DeadlineExceeded, Pipeline, RateLimited, RateLimiter, Rejected
from tests.integrations.wsgi.apps import TEXT, Bench, Parts, failing, listing
from tests.integrations.wsgi.conversation import Conversation

REFUSALS: list[tuple[Callable[[], Rejected], int]] = [
    (lambda: RateLimited("payments: over", policy="payments", retry_after_s=2.0), 429),
    (lambda: CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=2.0), 503),
    (lambda: DeadlineExceeded("payments: late", policy="payments", reason="expired_on_arrival"), 504),
    (lambda: Rejected("a guard of somebody else's", policy="payments"), 503),
]


def alone(error: Rejected) -> BaseException:
    """The refusal as it is."""
    return error


def grouped(error: Rejected) -> BaseException:
    """The same as a group of tasks raises it."""
    return ExceptionGroup("tasks", [ExceptionGroup("more", [error])])


def after_start_response(error: BaseException) -> Any:
    """An application that has begun a response of which nothing was sent."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("content-length", "5"), ("x-mine", "1")])
        raise error

    return app


def in_a_generator(error: BaseException) -> Any:
    """An application that is a generator."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        raise error
        yield b"never"

    return app


def in_the_body(error: BaseException) -> Any:
    """An application whose body raises before its first part."""
    return listing(body=Parts(error))


BEFORE = [failing, after_start_response, in_a_generator, in_the_body]


@pytest.mark.parametrize("make", BEFORE)
@pytest.mark.parametrize("wrap", [alone, grouped])
@pytest.mark.parametrize(("refuse", "status"), REFUSALS)
def test_it_is_answered_and_the_breaker_around_the_handler_ignores_it(
    make: Any, wrap: Any, refuse: Callable[[], Rejected], status: int
) -> None:
    bench = Bench(fields="always")
    bench.half_open()
    talk = Conversation(bench.guard(make(wrap(refuse())))).run()
    assert (talk.status, talk.starts) == (status, 1)
    assert [name for name, _ in (talk.head or ("", []))[1] if name.startswith(("x-", "ratelimit"))] == []
    assert talk.header("content-type") == "application/problem+json"
    assert talk.header("content-length") == str(len(talk.content))
    document = json.loads(talk.content)
    assert document["status"] == status
    assert "payments" not in talk.content.decode()  # what is behind this service is not the client's to know
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("make", BEFORE)
def test_a_head_request_gets_the_head_of_it(make: Any) -> None:
    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(make(CircuitOpen("out", policy="out"))), method="HEAD").run()
    assert (talk.status, talk.content) == (503, b"")
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("wrap", [alone, grouped])
@pytest.mark.parametrize(("refuse", "status"), REFUSALS)
def test_after_the_response_began_it_is_raised_again_and_nothing_leaks(wrap: Any, refuse: Any, status: int) -> None:
    bench = Bench()
    bench.half_open()
    error = wrap(refuse())
    body = Parts(b"half", error)
    talk = Conversation(bench.guard(listing(body=body)))
    with pytest.raises(type(error)) as caught:
        talk.run()
    assert caught.value is error
    assert (talk.status, talk.content, body.closed) == (200, b"half", 1)
    assert bench.outcome() == "ignored"


def test_after_a_write_it_is_raised_again() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)(b"half")
        raise CircuitOpen("out", policy="out")

    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(app))
    with pytest.raises(CircuitOpen):
        talk.run()
    assert (talk.status, talk.content, bench.outcome()) == (200, b"half", "ignored")


@pytest.mark.parametrize("make", BEFORE)
def test_a_group_that_holds_another_error_goes_on_to_the_server(make: Any) -> None:
    error = ExceptionGroup("tasks", [CircuitOpen("out"), ValueError("a fault of the handler's")])
    bench = Bench()
    bench.half_open()
    with pytest.raises(ExceptionGroup) as raised:
        Conversation(bench.guard(make(error))).run()
    assert raised.value is error
    assert bench.outcome() == "failed"


def test_a_deadline_that_ran_out_at_work_fails_the_breaker_around_the_handler() -> None:
    bench = Bench()
    bench.half_open()
    Conversation(bench.guard(failing(DeadlineExceeded("late", policy="payments", reason="expired")))).run()
    assert bench.outcome() == "failed"


def test_an_outgoing_limit_is_answered_as_reduced_capacity_without_fields_of_the_client_s_quota() -> None:
    bench = Bench()
    outgoing = Pipeline("payments", RateLimiter(0.1, 1, name="payments", clock=bench.clock))

    def app(environ: Any, start_response: Any) -> Any:
        charged = outgoing.call(lambda: b"charged")
        start_response("200 OK", TEXT)
        return [charged]

    assert Conversation(bench.guard(app)).run().content == b"charged"
    talk = Conversation(bench.guard(app)).run()
    assert talk.status == 429
    assert json.loads(talk.content)["type"].endswith("#temporary-reduced-capacity")
    assert (talk.header("ratelimit"), talk.header("ratelimit-policy")) == (None, None)
    assert 10 <= int(talk.header("retry-after") or 0) <= 12


def test_the_breaker_met_again_inside_lets_the_outgoing_call_pass_and_votes_once() -> None:
    bench = Bench()
    bench.half_open()
    outgoing = Pipeline("again", bench.breaker)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        yield outgoing.call(lambda: b"first")
        yield outgoing.call(lambda: b"second")

    assert Conversation(bench.guard(app)).run().content == b"firstsecond"
    assert bench.outcome() == "ok"
    assert bench.breaker.decisions()["probe"] == 1


@pytest.mark.parametrize(
    ("parts", "status", "content"), [((), 503, None), ((b"he",), 200, b"he")], ids=["before the first part", "after it"]
)
def test_a_head_that_tells_the_length_of_its_body_is_given_with_the_first_part_and_not_replaced_after_it(
    parts: tuple[bytes, ...], status: int, content: bytes | None
) -> None:
    error = CircuitOpen("out", policy="out")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("content-length", "5")])
        return Parts(*parts, error)

    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(app))
    if content is None:
        assert json.loads(talk.run().content)["status"] == 503
    else:
        with pytest.raises(CircuitOpen) as caught:
            talk.run()
        assert (caught.value, talk.content) == (error, content)
    assert (talk.status, talk.starts, bench.outcome()) == (status, 1, "ignored")
