"""Bodies that are made while they are sent: event streams, and what is the current call in between."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from resilience import CircuitOpen, Deadline, Pipeline, current_deadline
from resilience.current import current_call
from resilience.edges import CURRENT
from resilience.integrations.wsgi import ResilienceMiddleware
from tests.integrations.wsgi.apps import EVENTS, TEXT, Bench, Parts
from tests.integrations.wsgi.conversation import Conversation, left_open


def events(*parts: bytes | BaseException, status: str = "200 OK", content_type: str = "text/event-stream") -> Any:
    """An application that begins an event stream, of which nothing may come for long."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("x-one", "1"), ("Content-Type", content_type)])
        return Parts(*parts)

    return app


@pytest.mark.parametrize(("status", "expected"), [("200 OK", "ok"), ("503 Service Unavailable", "failed")])
@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
def test_an_event_stream_votes_at_its_start_and_has_no_deadline(status: str, expected: str, content_type: str) -> None:
    bench = Bench()
    bench.half_open()
    app = events(b"data: 1\n\n", b"data: 2\n\n", status=status, content_type=content_type)
    with left_open(Conversation(bench.guard(app))) as talk:
        assert bench.outcome() == expected  # before its first event, which may be long in coming
        bench.clock.advance(1_000.0)
        assert talk.next_part() == b"data: 1\n\n"
        bench.clock.advance(1_000.0)
        assert talk.next_part() == b"data: 2\n\n"
        assert talk.next_part() is None
    assert bench.deadline.decisions()["expired"] == 0
    assert bench.outcome() in (expected, "untouched")


def test_an_event_stream_that_is_given_up_or_breaks_off_does_not_vote_again() -> None:
    for parts, error in (((b"data: 1\n\n", b"data: 2\n\n"), None), ((b"data: 1\n\n", ValueError("later")), ValueError)):
        bench = Bench()
        bench.half_open()
        with left_open(Conversation(bench.guard(events(*parts)))) as talk:
            talk.next_part()
            if error is not None:
                with pytest.raises(error):
                    talk.next_part()
        assert bench.outcome() == "ok"


def test_an_event_stream_that_begins_too_late_is_counted_and_passes() -> None:
    bench = Bench()
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        bench.clock.advance(6.0)
        start_response("200 OK", EVENTS)
        yield b"data: 1\n\n"

    assert Conversation(bench.guard(app)).run().content == b"data: 1\n\n"
    assert bench.deadline.decisions()["expired"] == 1
    assert bench.outcome() == "failed"


@pytest.mark.parametrize("way", ["writes", "returns parts", "returns a list"])
def test_an_event_stream_has_begun_with_its_head_however_long_the_application_then_takes(way: str) -> None:
    bench = Bench(slow_call_s=1.0)
    bench.half_open()
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", EVENTS)
        seen.append((bench.outcome(), current_deadline(bench.clock)))
        bench.clock.advance(6.0)  # until there is an event
        if way == "writes":
            write(b"data: 1\n\n")
            return []
        return Parts(b"data: 1\n\n") if way == "returns parts" else [b"data: 1\n\n"]

    talk = Conversation(bench.guard(app, validated=False)).run()
    assert (talk.content, seen) == (b"data: 1\n\n", [("ok", None)])
    assert (bench.outcome(), bench.deadline.decisions()["expired"]) == ("ok", 0)


def test_an_event_stream_keeps_its_deadline_where_that_was_asked_for() -> None:
    for streams, seen in ((True, [True, True]), (False, [True, False])):
        bench, found = Bench(streams=streams), list[bool]()

        def app(environ: Any, start_response: Any, bench: Bench = bench, found: list[bool] = found) -> Any:
            found.append(current_deadline(bench.clock) is not None)
            start_response("200 OK", EVENTS)
            found.append(current_deadline(bench.clock) is not None)
            yield b"data: 1\n\n"

        Conversation(bench.guard(app)).run()
        assert found == seen


def test_a_refusal_before_the_first_event_is_answered() -> None:
    bench = Bench()
    bench.half_open()
    talk = Conversation(bench.guard(events(CircuitOpen("payments: open", policy="payments")))).run()
    assert (talk.status, talk.header("content-type")) == (503, "application/problem+json")
    assert bench.outcome() == "ok"  # it had voted


def test_the_request_is_the_current_call_while_its_body_is_made_and_not_in_between() -> None:
    bench, seen = Bench(), []

    class Body(Parts):
        def __next__(self) -> bytes:
            seen.append(CURRENT.get())
            return super().__next__()

        def close(self) -> None:
            seen.append(CURRENT.get())
            super().close()

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(CURRENT.get())
        start_response("200 OK", TEXT)
        return Body(b"a", b"b", b"never asked for")

    with left_open(Conversation(bench.guard(app))) as talk:
        assert CURRENT.get() is None
        for _ in range(2):
            talk.next_part()
            assert CURRENT.get() is None
    assert CURRENT.get() is None
    assert len(seen) == 4
    assert len(set(map(id, seen))) == 1
    assert seen[0] is not None
    assert seen[0].name == "the request"


def test_a_guard_that_holds_over_several_parts_stays_the_current_call_between_them() -> None:
    bench = Bench()
    seen: list[tuple[int, str, float | None]] = []
    inner = Pipeline("report", Deadline(2.0, clock=bench.clock))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        for number in range(2):
            with inner.guard("report"):
                for _ in range(2):
                    call = current_call()
                    assert call is not None
                    assert call.deadline is not None
                    seen.append((number, call.pipeline, call.deadline.remaining_s()))
                    yield b"part"
        call = current_call()
        assert call is not None
        seen.append((2, call.pipeline, None))

    with left_open(Conversation(bench.guard(app))) as talk:
        while talk.next_part():
            assert CURRENT.get() is None
    assert seen == [(0, "report", 2.0)] * 2 + [(1, "report", 2.0)] * 2 + [(2, "api", None)]


def test_a_body_may_be_read_by_another_thread_than_the_application_ran_in() -> None:
    bench, seen = Bench(), []
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        for _ in range(3):
            call = current_call()
            seen.append(None if call is None else call.pipeline)
            yield b"part"

    talk = Conversation(bench.guard(app)).begin()
    for step in (talk.next_part, talk.next_part, talk.next_part, talk.next_part, talk.close):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert seen == ["api"] * 3
    assert bench.outcome() == "ok"


def test_many_bodies_that_are_read_by_turns_in_one_thread_do_not_mix() -> None:
    seen: dict[str, set[str]] = {}

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        for _ in range(3):
            call = current_call()
            assert call is not None
            seen.setdefault(environ["PATH_INFO"], set()).add(call.pipeline)
            yield b"part"

    talks = []
    for number in range(4):
        middleware = ResilienceMiddleware(app, pipeline=Pipeline(f"pipeline {number}"))
        talks.append(Conversation(middleware, f"/{number}").begin())
    for _ in range(4):
        for talk in talks:
            talk.next_part()
    for talk in talks:
        talk.close()
    assert seen == {f"/{number}": {f"pipeline {number}"} for number in range(4)}
