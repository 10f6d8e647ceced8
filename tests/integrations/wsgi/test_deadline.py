"""The time that a request asks for, and what becomes of a handler that takes longer: it cannot be stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilience import current_deadline
from resilience.integrations.wsgi import flask_refusal
from tests.integrations.wsgi.apps import TEXT, Bench, Parts, answering, failing, listing
from tests.integrations.wsgi.conversation import Conversation, left_open


def after(bench: Bench, wait_s: float, app: Any) -> Any:
    """An application that takes so long before it does what `app` does."""

    def takes_time(environ: Any, start_response: Any) -> Any:
        bench.clock.advance(wait_s)
        return app(environ, start_response)

    return takes_time


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ([], 5.0),
        ([("grpc-timeout", "2S")], 2.0),
        ([("connect-timeout-ms", "700")], 0.7),
        ([("x-envoy-expected-rq-timeout-ms", "800")], 0.8),
        ([("grpc-timeout", "3S"), ("connect-timeout-ms", "700"), ("x-envoy-expected-rq-timeout-ms", "800")], 0.7),
        ([("connect-timeout-ms", "900"), ("connect-timeout-ms", "600")], 0.6),  # joined by a comma
        ([("connect-timeout-ms", "900,600"), ("connect-timeout-ms", "\t650 ")], 0.6),
        ([("grpc-timeout", "99999999H")], 60.0),
    ],
)
def test_the_earliest_header_decides_and_none_goes_above_the_maximum(headers: Any, expected_s: float) -> None:
    bench, seen = Bench(), []

    def app(environ: Any, start_response: Any) -> Any:
        deadline = current_deadline(bench.clock)
        assert deadline is not None
        seen.append(deadline.remaining_s())
        return answering()(environ, start_response)

    Conversation(bench.guard(app), headers=headers).run()
    assert seen == [pytest.approx(expected_s, abs=1e-6)]
    assert bench.deadline.state.malformed == 0


@pytest.mark.parametrize(
    ("name", "value", "malformed"),
    [
        ("grpc-timeout", "", 1),
        ("grpc-timeout", "5", 1),
        ("grpc-timeout", "-1S", 1),
        ("grpc-timeout", "\xb2S", 1),
        ("grpc-timeout", "\x00", 1),
        ("grpc-timeout", ",,", 3),
        ("connect-timeout-ms", "1.5", 1),
        ("connect-timeout-ms", "12345678901", 1),
        ("x-envoy-expected-rq-timeout-ms", "soon, later", 2),
    ],
)
def test_a_malformed_header_is_as_good_as_none_and_is_counted(name: str, value: str, malformed: int) -> None:
    bench = Bench()
    bench.half_open()
    assert Conversation(bench.guard(answering()), headers=[(name, value)]).run().status == 200
    assert bench.outcome() == "ok"
    assert bench.deadline.state.malformed == malformed


def test_a_malformed_value_beside_a_good_one_leaves_the_good_one() -> None:
    bench = Bench()
    assert Conversation(bench.guard(answering()), headers=[("grpc-timeout", "soon, 0S")]).run().status == 504
    assert bench.deadline.state.malformed == 1


@pytest.mark.parametrize("make", [answering, listing])
@pytest.mark.parametrize(("wait_s", "expired", "expected"), [(4.999, 0, "ok"), (5.0, 0, "ok"), (5.001, 1, "failed")])
def test_a_response_that_comes_too_late_passes_and_is_counted(make: Any, wait_s: float, expired: int, expected: str) -> None:
    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(after(bench, wait_s, make()), validated=False)).run()
    assert (talk.status, talk.content) == (200, b"hello")
    assert bench.deadline.decisions()["expired"] == expired
    assert bench.outcome() == expected


def test_the_first_part_that_comes_too_late_is_a_response_that_does() -> None:
    bench = Bench()
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        bench.clock.advance(6.0)
        yield b"late"

    assert Conversation(bench.guard(app)).run().content == b"late"
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


def test_a_response_that_began_in_time_may_take_longer() -> None:
    bench = Bench()
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        yield b"in time"
        bench.clock.advance(10.0)  # a client that reads slowly, say
        yield b", all of it"

    assert Conversation(bench.guard(app)).run().content == b"in time, all of it"
    assert bench.deadline.decisions()["expired"] == 0
    assert bench.outcome() == "ok"


def test_a_late_response_whose_client_has_gone_meanwhile_is_as_late() -> None:
    bench = Bench()
    bench.half_open()
    with left_open(Conversation(bench.guard(after(bench, 6.0, listing(body=Parts(b"a", b"b")))))) as talk:
        talk.next_part()
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


@pytest.mark.parametrize(("timeout_ms", "expected"), [(2_499, "ignored"), (2_500, "failed")])
def test_a_caller_who_came_with_less_than_half_the_usual_time_is_no_evidence(timeout_ms: int, expected: str) -> None:
    bench = Bench()  # 5 s by default
    bench.half_open()
    app = after(bench, timeout_ms / 1000 + 0.001, answering())
    Conversation(bench.guard(app), headers=[("connect-timeout-ms", str(timeout_ms))]).run()
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == expected


def test_check_gives_up_in_a_handler_that_cannot_be_stopped() -> None:
    bench, steps = Bench(), []
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        for step in range(100):
            steps.append(step)
            bench.clock.advance(1.0)
            deadline = current_deadline(bench.clock)
            assert deadline is not None
            deadline.check()
        return answering()(environ, start_response)

    talk = Conversation(bench.guard(app)).run()
    assert len(steps) == 5
    assert (talk.status, json.loads(talk.content)["reason"]) == (504, "expired")
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


def test_check_gives_up_also_where_the_framework_s_handler_answers_it() -> None:
    bench = Bench()
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        bench.clock.advance(6.0)
        deadline = current_deadline(bench.clock)
        assert deadline is not None
        try:
            deadline.check()
        except TimeoutError as error:
            body, status, headers = flask_refusal(error)
            start_response(f"{status} Gateway Timeout", list(headers.items()))
        return [body]

    assert Conversation(bench.guard(app)).run().status == 504
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


def test_an_error_after_the_deadline_is_a_deadline_that_ran_out() -> None:
    bench = Bench()
    bench.half_open()
    with pytest.raises(ValueError, match="a bug"):
        Conversation(bench.guard(after(bench, 5.0, failing(ValueError("a bug"))))).run()
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


def test_a_client_that_has_gone_by_the_deadline_leaves_a_call_that_ran_out_of_time() -> None:
    bench = Bench()
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        bench.clock.advance(6.0)
        write = start_response("200 OK", TEXT)
        talk.gone = BrokenPipeError()
        write(b"late")
        return []

    talk = Conversation(bench.guard(app))
    with pytest.raises(BrokenPipeError):
        talk.begin()
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


def test_a_settled_request_has_no_deadline_while_its_body_is_closed() -> None:
    bench, seen = Bench(), []

    class Body(Parts):
        def close(self) -> None:
            seen.append(current_deadline(bench.clock))
            super().close()

    Conversation(bench.guard(listing(body=Body(b"a")))).run()
    assert seen == [None]


def test_without_a_header_or_a_default_there_is_no_deadline() -> None:
    bench, seen = Bench(default_s=None), []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(current_deadline(bench.clock))
        bench.clock.advance(1_000.0)
        return answering()(environ, start_response)

    assert Conversation(bench.guard(app)).run().status == 200
    assert seen == [None]
    assert bench.deadline.decisions()["expired"] == 0
