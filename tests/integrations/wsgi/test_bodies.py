"""Bodies of every kind that PEP 3333 knows, `write` and `exc_info`: each reaches the server as it would without the middleware."""

from __future__ import annotations

import io
import sys
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from resilience import CircuitOpen
from tests.integrations.wsgi.apps import EVENTS, TEXT, Bench, Parts, answering, listing
from tests.integrations.wsgi.conversation import Conversation, left_open


def bench_at_probe(**options: Any) -> Bench:
    """What the next request counts as can be seen."""
    bench = Bench(**options)
    bench.half_open()
    return bench


@pytest.mark.parametrize("body", [[b"hello"], (b"hel", b"lo"), [], ()])
@pytest.mark.parametrize("fields", ["refused", "always"])
def test_a_list_or_a_tuple_is_handed_through_as_it_is(body: Any, fields: str) -> None:
    bench = bench_at_probe(fields=fields)
    talk = Conversation(bench.guard(listing(body=body), validated=False), validated=False).begin()
    assert talk.body is body
    assert talk.starts == 1  # the head is there before the server looks at the body
    assert (talk.header("ratelimit") is not None) == (fields == "always")
    assert bench.outcome() == "ok"


def test_a_list_of_another_class_is_closed_like_any_body() -> None:
    class Lines(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    bench, body = bench_at_probe(), Lines([b"a", b"b"])
    talk = Conversation(bench.guard(listing(body=body), validated=False)).run()
    assert (talk.content, body.closed, bench.outcome()) == (b"ab", 1, "ok")


def test_a_file_is_handed_through_so_that_the_server_can_send_it_by_itself() -> None:
    bench = bench_at_probe()
    file = FileWrapper(io.BytesIO(b"contents"))
    app = bench.guard(listing(body=file), validated=False)
    talk = Conversation(app, validated=False, environ={"wsgi.file_wrapper": FileWrapper}).begin()
    assert talk.body is file
    assert (talk.starts, bench.outcome()) == (1, "ok")
    talk.close()


@pytest.mark.parametrize("wrapper", [None, lambda file, size=8192: FileWrapper(file, size)])
def test_a_file_that_the_server_would_not_know_as_its_own_is_a_body_like_any(wrapper: Any) -> None:
    bench = bench_at_probe()
    file = io.BytesIO(b"contents")
    app = bench.guard(listing(body=FileWrapper(file)), validated=False)
    with left_open(Conversation(app, environ={} if wrapper is None else {"wsgi.file_wrapper": wrapper})) as talk:
        assert talk.next_part() == b"contents"
        assert bench.outcome() == "held"
        assert talk.next_part() is None
    assert file.closed
    assert bench.outcome() == "ok"


def test_write_sends_at_once_and_its_parts_come_before_those_of_the_body() -> None:
    bench, seen = bench_at_probe(fields="always"), []

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", TEXT)
        write(b"a")
        seen.append((talk.content, talk.header("ratelimit") is not None, bench.outcome()))
        write(b"b")
        yield b"c"

    talk = Conversation(bench.guard(app))
    talk.run()
    assert seen == [(b"a", True, "held")]
    assert (talk.content, talk.starts, bench.outcome()) == (b"abc", 1, "ok")


def test_an_application_that_only_writes() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("500 Internal Server Error", TEXT)
        write(b"broken")
        return []

    talk = Conversation(bench.guard(app)).run()
    assert (talk.status, talk.content, bench.outcome()) == (500, b"broken", "failed")


def test_an_application_that_writes_all_that_its_head_promises_and_returns_nothing_more() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("content-length", "5")])(b"hello")
        return []

    talk = Conversation(bench.guard(app)).run()
    assert (talk.status, talk.content, talk.starts, bench.outcome()) == (200, b"hello", 1, "ok")


@pytest.mark.parametrize(("written", "expected"), [([b"hel", b"lo"], "ok"), ([b"hel"], "ignored")])
def test_what_is_written_counts_for_the_length_that_the_head_promises(written: list[bytes], expected: str) -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [*TEXT, ("content-length", "5")])
        for part in written:
            write(part)
        return Parts(b"")

    with left_open(Conversation(bench.guard(app))) as talk:
        assert talk.content == b"".join(written)
    assert bench.outcome() == expected


class ClientDisconnected(Exception):
    """How a server (waitress) says that it cannot write any more."""


@pytest.mark.parametrize("gone", [BrokenPipeError(), ConnectionResetError(), ClientDisconnected()])
def test_a_write_that_fails_says_that_the_client_has_gone(gone: Exception) -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", TEXT)
        write(b"a")
        talk.gone = gone
        write(b"b")
        return []

    talk = Conversation(bench.guard(app))
    with pytest.raises(type(gone)):
        talk.begin()
    assert (talk.content, bench.outcome()) == (b"a", "ignored")


def test_a_write_of_what_cannot_be_written_is_a_failure_of_the_application() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)("no bytes")
        return []

    with pytest.raises(AssertionError):
        Conversation(bench.guard(app, validated=False)).begin()
    assert bench.outcome() == "failed"


def _second_answer(environ: Any, start_response: Any, first_part: bytes | None) -> Any:
    start_response("200 OK", [*TEXT, ("content-length", "5"), ("x-first", "1")])
    if first_part is not None:
        yield first_part
    try:
        raise ValueError("a bug")
    except ValueError:
        start_response("500 Internal Server Error", [*TEXT, ("x-second", "1")], sys.exc_info())
    yield b"error"


@pytest.mark.parametrize("first_part", [None, b""])
@pytest.mark.parametrize("fields", ["refused", "always"])
def test_exc_info_replaces_a_response_of_which_nothing_was_sent(first_part: bytes | None, fields: str) -> None:
    bench = bench_at_probe(fields=fields)
    talk = Conversation(bench.guard(lambda environ, start: _second_answer(environ, start, first_part))).run()
    assert (talk.status, talk.content) == (500, b"error")
    assert (talk.header("x-first"), talk.header("x-second"), talk.header("content-length")) == (None, "1", None)
    assert (talk.header("ratelimit") is not None) == (fields == "always")
    assert talk.starts == (1 if first_part is None else 2)
    assert bench.outcome() == "failed"


def test_exc_info_is_raised_again_once_something_was_sent() -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(lambda environ, start: _second_answer(environ, start, b"half")))
    with pytest.raises(ValueError, match="a bug"):
        talk.run()
    assert (talk.status, talk.content, talk.starts) == (200, b"half", 1)
    assert bench.outcome() == "failed"


def test_exc_info_may_come_with_the_first_start_response() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        try:
            raise ValueError("a bug")
        except ValueError:
            start_response("500 Internal Server Error", TEXT, sys.exc_info())
        return [b"error"]

    bench = bench_at_probe()
    talk = Conversation(bench.guard(app)).run()
    assert (talk.status, talk.content, talk.starts, bench.outcome()) == (500, b"error", 1, "failed")


@pytest.mark.parametrize("first_part", [None, b""])
def test_start_response_twice_without_exc_info_is_an_error(first_part: bytes | None) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        if first_part is not None:
            yield first_part
        start_response("200 OK", TEXT)
        yield b"never"

    bench = bench_at_probe()
    with pytest.raises(AssertionError, match="PEP 3333"):
        Conversation(bench.guard(app, validated=False)).run()
    assert bench.outcome() == "failed"


def test_the_headers_are_the_application_s_and_stay_as_they_were() -> None:
    bench, headers = Bench(fields="always"), [*TEXT]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return iter([b"hello"])

    for _ in range(3):
        assert Conversation(bench.guard(app)).run().header("ratelimit") is not None
    assert headers == TEXT


def test_headers_that_the_application_changes_afterwards_are_sent_as_they_were() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        headers = [*TEXT]
        start_response("200 OK", headers)
        headers.clear()
        yield b"hello"

    assert Conversation(Bench().guard(app)).run().header("content-type") == "text/plain"


def test_a_head_that_the_server_refuses_is_a_failure_of_the_application() -> None:
    def refusing(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise ValueError("no such header")

    for app in (listing(body=[b"a"]), answering(), listing(body=Parts()), listing(body=Parts(b"")), _of_length("1", b"a")):
        bench = bench_at_probe()
        talk = Conversation(bench.guard(app, validated=False), validated=False)
        talk.start_response = refusing  # type: ignore[method-assign]  # a server that takes no head
        with pytest.raises(ValueError, match="no such header"):
            talk.run()
        assert bench.outcome() == "failed"


def test_a_body_that_the_server_never_gets_is_closed() -> None:
    def refusing(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise ValueError("no such header")

    file, parts = io.BytesIO(b"contents"), Parts(b"a")
    for body, headers in ((FileWrapper(file), TEXT), (parts, [*TEXT, ("content-length", "1")])):
        app = Bench().guard(_with_headers(headers, body), validated=False)
        talk = Conversation(app, validated=False, environ={"wsgi.file_wrapper": FileWrapper})
        talk.start_response = refusing  # type: ignore[method-assign]  # a server that takes no head
        with pytest.raises(ValueError, match="no such header"):
            talk.begin()
    assert (file.closed, parts.closed) == (True, 1)


def _with_headers(headers: Any, body: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return body

    return app


def test_an_empty_part_brings_the_head_and_can_still_be_replaced() -> None:
    bench = bench_at_probe()
    body = Parts(b"", b"", CircuitOpen("payments: open", policy="payments", reason="open"))
    talk = Conversation(bench.guard(listing(body=body)))
    with left_open(talk):
        assert talk.next_part() == b""
        assert (talk.status, talk.head_sent) == (200, False)
        assert talk.next_part() == b""
        assert talk.next_part() != b""
        assert (talk.status, talk.header("content-type")) == (503, "application/problem+json")
        assert talk.next_part() is None
    assert body.closed == 1
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("body", [Parts(), Parts(b""), Parts(b"", b"")])
def test_a_body_without_a_byte_has_a_head(body: Parts) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(listing(body=body))).run()
    assert (talk.status, talk.content, talk.starts, bench.outcome()) == (200, b"", 1, "ok")


def _without_a_body(status: str) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return Parts()

    return app


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("is_read", [True, False])
def test_a_response_that_has_no_body_is_whole_also_where_the_server_does_not_ask_for_one(status: str, is_read: bool) -> None:
    bench = bench_at_probe()
    with left_open(Conversation(bench.guard(_without_a_body(status)))) as talk:
        if is_read:
            assert talk.next_part() is None
            assert talk.status == int(status[:3])
    assert bench.outcome() == "ok"


@pytest.mark.parametrize(("status", "expected"), [("200 OK", "ok"), ("500 Internal Server Error", "failed")])
@pytest.mark.parametrize("parts_taken", [0, 1, 2])
def test_head_is_judged_by_its_status_however_much_of_the_body_the_server_reads(
    status: str, expected: str, parts_taken: int
) -> None:
    bench = bench_at_probe()
    with left_open(Conversation(bench.guard(answering(status)), method="HEAD")) as talk:
        for _ in range(parts_taken):
            talk.next_part()
    assert bench.outcome() == expected


def test_an_event_stream_of_a_head_request_ends_like_any() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", EVENTS)
        return Parts()

    assert Conversation(bench.guard(app), method="HEAD").run().status == 200
    assert bench.outcome() == "ok"


def test_a_server_whose_start_response_returns_nothing_gets_one_head() -> None:
    bench, heads = bench_at_probe(), []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        heads.append(status)

    body = bench.guard(answering(body=(b"a", b"b", b"c")), validated=False)(Conversation(None).environ, start_response)
    assert list(body) == [b"a", b"b", b"c"]
    body.close()
    assert heads == ["200 OK"]


@pytest.mark.parametrize(("headers", "starts"), [(TEXT, 0), ([*TEXT, ("content-length", "1")], 1)])
def test_a_head_that_does_not_tell_the_length_of_its_body_waits_for_the_first_part(headers: Any, starts: int) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return Parts(b"a")

    with left_open(Conversation(Bench().guard(app))) as talk:
        assert talk.starts == starts
        assert talk.next_part() == b"a"
        assert talk.starts == 1


def _of_length(length: str, *parts: bytes | BaseException) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("Content-Length", length)])
        return Parts(*parts)

    return app


def test_with_the_last_byte_that_the_head_promises_the_call_is_settled_and_the_application_goes_on() -> None:
    bench = bench_at_probe()
    with left_open(Conversation(bench.guard(_of_length("5", b"hel", b"lo", b"", b" and more")))) as talk:
        assert talk.next_part() == b"hel"
        assert bench.outcome() == "held"
        assert talk.next_part() == b"lo"
        assert bench.outcome() == "ok"
        assert (talk.next_part(), talk.next_part(), talk.next_part()) == (b"", b" and more", None)
    assert bench.outcome() == "ok"


def test_an_error_after_the_last_byte_is_the_server_s_to_hear_and_counts_no_more() -> None:
    for error in (ValueError("while tidying up"), CircuitOpen("payments: open", policy="payments")):
        bench = bench_at_probe()
        talk = Conversation(bench.guard(_of_length("5", b"hello", error)))
        with pytest.raises(type(error)):
            talk.run()
        assert (talk.status, talk.content, bench.outcome()) == (200, b"hello", "ok")


@pytest.mark.parametrize("length", ["", "-1", "5.0", "\xb2", "many"])
def test_a_length_that_is_none_promises_nothing(length: str) -> None:
    bench = bench_at_probe()
    with left_open(Conversation(bench.guard(_of_length(length, b"hello")), validated=False)) as talk:
        assert talk.next_part() == b"hello"
        assert bench.outcome() == "held"
        assert talk.next_part() is None
    assert bench.outcome() == "ok"


@pytest.mark.parametrize(
    ("lengths", "promised"),
    [(("2", "5"), 5), (("5", "many"), 5), (("many", "5"), 5), (("5", "-1", ""), 5), (("-1", "many"), None)],
)
def test_of_several_lengths_the_last_one_that_is_a_number_counts(lengths: tuple[str, ...], promised: int | None) -> None:
    bench = bench_at_probe()
    app = _with_headers([*TEXT, *(("CONTENT-length", length) for length in lengths)], Parts(b"hel", b"lo"))
    with left_open(Conversation(bench.guard(app, validated=False), validated=False)) as talk:
        assert talk.next_part() == b"hel"
        assert bench.outcome() == "held"
        assert talk.next_part() == b"lo"
        assert bench.outcome() == ("held" if promised is None else "ok")


@pytest.mark.parametrize("parts", [(), (b"",)])
def test_a_length_of_nothing_is_met_with_the_head(parts: tuple[bytes, ...]) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(_of_length("0", *parts))).run()
    assert (talk.status, talk.content, bench.outcome()) == (200, b"", "ok")


@pytest.mark.parametrize("at", ["before its parts", "with its first part"])
def test_what_was_written_before_the_last_part_counts_for_the_length_too(at: str) -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [*TEXT, ("content-length", "5")])
        if at == "before its parts":
            write(b"hel")
            return Parts(b"lo")
        return ((write(b"hel"), part)[1] for part in [b"lo"])

    with left_open(Conversation(bench.guard(app, validated=False), validated=False)) as talk:
        assert talk.next_part() == b"lo"
        assert (talk.content, bench.outcome()) == (b"hello", "ok")


@pytest.mark.parametrize(("method", "length"), [("GET", "0"), ("HEAD", "5")])
def test_a_body_that_has_ended_is_not_asked_again(method: str, length: str) -> None:
    bench = bench_at_probe()

    class Queue:
        """Asked again it would wait for ever."""

        def __init__(self) -> None:
            self.asked = 0

        def __iter__(self) -> Queue:
            return self

        def __next__(self) -> bytes:
            self.asked += 1
            raise StopIteration

    body = Queue()
    app = _with_headers([*TEXT, ("content-length", length)], body)
    talk = Conversation(bench.guard(app, validated=False), method=method, validated=False).run()
    assert (talk.status, body.asked, bench.outcome()) == (200, 1, "ok")


def test_a_first_part_that_replaces_the_head_is_not_taken_for_the_whole_of_what_that_promised() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("content-length", "5")])

        def parts() -> Any:
            try:
                raise ValueError("late")
            except ValueError:
                start_response("404 Not Found", [*TEXT, ("content-length", "11")], sys.exc_info())
            yield b"sorry"
            yield b", none"

        return parts()

    with left_open(Conversation(bench.guard(app))) as talk:
        assert (talk.next_part(), talk.status, bench.outcome()) == (b"sorry", 404, "held")
        assert (talk.next_part(), bench.outcome()) == (b", none", "ok")
