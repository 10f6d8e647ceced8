"""A request's objects are gone with it: none waits for the collector, whose pauses grow with what it has to look at."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from resilience import CircuitOpen, Deadline, Pipeline
from resilience.integrations.wsgi.body import Body
from resilience.integrations.wsgi.exchange import HttpExchange
from resilience.integrations.wsgi.handlers import flask_refusal
from tests.integrations.wsgi.apps import EVENTS, TEXT, Bench, answering, listing
from tests.integrations.wsgi.conversation import Conversation


def empty_bucket(bench: Bench) -> None:
    """The limiter has nothing left."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())


def as_it_is(bench: Bench) -> None:
    """Nothing is in the way."""


def hold_open(bench: Bench) -> None:
    """The breaker is open."""
    bench.breaker.force("open")


def _has_a_bug(environ: Any, start_response: Any) -> Any:
    raise ValueError("a bug")


def _breaks_off(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b"a"
    raise ValueError("a bug")


def _is_refused(environ: Any, start_response: Any) -> Any:
    raise CircuitOpen("payments: open", policy="payments")


def _is_refused_in_its_body(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    raise CircuitOpen("payments: open", policy="payments")
    yield b""


def _is_answered_by_a_framework(environ: Any, start_response: Any) -> Any:
    try:
        raise CircuitOpen("payments: open", policy="payments")
    except CircuitOpen as error:
        body, status, headers = flask_refusal(error)
    start_response(f"{status} Service Unavailable", list(headers.items()))
    return [body]


def _replaces_its_answer(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b""
    try:
        raise ValueError("a bug")
    except ValueError:
        start_response("500 Internal Server Error", TEXT, sys.exc_info())
    yield b"error"


def _replaces_its_answer_too_late(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b"half"
    try:
        raise ValueError("a bug")
    except ValueError:
        start_response("500 Internal Server Error", TEXT, sys.exc_info())


def _writes(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)(b"hello")
    return []


def _streams_events(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", EVENTS)
    yield b"data: 1\n\n"


def _guards_a_part(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    with Pipeline("inner", Deadline(1.0)).guard():
        yield b"a"
        yield b"b"


@pytest.mark.parametrize(
    ("app", "before", "headers"),
    [
        pytest.param(answering(), as_it_is, [], id="admitted"),
        pytest.param(listing(body=[b"hello"]), as_it_is, [], id="list"),
        pytest.param(answering("500 Internal Server Error"), as_it_is, [], id="failed"),
        pytest.param(answering(), empty_bucket, [], id="over the limit"),
        pytest.param(answering(), hold_open, [], id="breaker open"),
        pytest.param(answering(), as_it_is, [("grpc-timeout", "0S")], id="expired"),
        pytest.param(_has_a_bug, as_it_is, [], id="raised"),
        pytest.param(_is_refused, as_it_is, [], id="refused further on"),
        pytest.param(_is_refused_in_its_body, as_it_is, [], id="refused in its body"),
        pytest.param(_is_answered_by_a_framework, as_it_is, [], id="answered by a framework"),
        pytest.param(_replaces_its_answer, as_it_is, [], id="replaced"),
        pytest.param(_replaces_its_answer_too_late, as_it_is, [], id="replaced too late"),
        pytest.param(_writes, as_it_is, [], id="written"),
        pytest.param(_streams_events, as_it_is, [], id="event stream"),
        pytest.param(_guards_a_part, as_it_is, [], id="guard in its body"),
        pytest.param(_breaks_off, as_it_is, [], id="broke off"),
    ],
)
def test_no_request_leaves_anything_for_the_collector(
    app: Any, before: Callable[[Bench], None], headers: list[tuple[str, str]]
) -> None:
    bench = Bench(min_calls=100)
    before(bench)
    guarded = bench.guard(app, validated=False)

    def serve() -> None:
        for parts_taken in (0, 1, 2, 99) * 3:
            talk = Conversation(guarded, headers=headers, validated=False)
            with contextlib.suppress(ValueError):
                talk.begin()
                for _ in range(parts_taken):
                    if talk.next_part() is None:
                        break
            with contextlib.suppress(ValueError):
                talk.close()
            talk.body = talk._next = talk.app = None  # a server that keeps the response keeps the body

    gc.disable()
    try:
        others = _ids()
        serve()
        left = _ids() - others
    finally:
        gc.enable()
    assert left == set()


def _ids() -> set[int]:
    """Of what is alive. Errors that other tests raise again and again may hold some of theirs."""
    return {id(found) for found in gc.get_objects() if type(found) in (HttpExchange, Body)}
