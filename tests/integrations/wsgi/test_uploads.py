"""Bodies of requests: a client that hangs up while it sends one is no failure of the application that reads it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from resilience.integrations.wsgi.upload import Upload, upload_of
from tests.integrations.wsgi.apps import TEXT, Bench, Parts, listing
from tests.integrations.wsgi.conversation import Conversation


class Cut(io.BytesIO):
    """A body that breaks off, as gunicorn tells of it, and gevent, and uWSGI."""

    error: Exception = ConnectionResetError("the client has gone")

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data and size != 0:
            raise self.error
        return data

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line:
            raise self.error
        return line

    def readlines(self, hint: int | None = None) -> list[bytes]:
        raise self.error


READERS: dict[str, Callable[[Any], Any]] = {
    "read": lambda body: body.read(),
    "read(None)": lambda body: body.read(None),
    "read(n)": lambda body: b"".join(iter(lambda: body.read(4), b"")),
    "readline": lambda body: b"".join(iter(body.readline, b"")),
    "readline(n)": lambda body: b"".join(iter(lambda: body.readline(4), b"")),
    "readlines": lambda body: b"".join(body.readlines()),
    "iter": b"".join,
}
every_reader = pytest.mark.parametrize("reader", READERS)


def served(body: Any, reader: str, length: str | None = "20", *, catches: bool = False) -> tuple[str, Any]:
    """How a POST counts whose body is read so by an application that answers 500 for what it cannot use; and what was read."""
    bench, seen = Bench(), []
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        try:
            seen.append(READERS[reader](environ["wsgi.input"]))
        except OSError:
            if not catches:
                raise
        is_whole = seen == [b"a\n" * 10]
        start_response("200 OK" if is_whole else "500 Internal Server Error", TEXT)
        return [b"done"]

    headers = {"CONTENT_LENGTH": length} if length is not None else {"HTTP_TRANSFER_ENCODING": "chunked"}
    talk = Conversation(bench.guard(app, validated=False), method="POST", environ={"wsgi.input": body, **headers}, validated=False)
    try:
        talk.run()
    except OSError:
        assert not catches
    return bench.outcome(), seen


@every_reader
@pytest.mark.parametrize("length", ["20", None], ids=["length", "chunked"])
def test_a_body_that_came_whole_changes_nothing(reader: str, length: str | None) -> None:
    assert served(io.BytesIO(b"a\n" * 10), reader, length) == ("ok", [b"a\n" * 10])


@every_reader
@pytest.mark.parametrize("part", [b"a\n" * 7, b"a\n" * 6 + b"a", b""], ids=["7 lines", "6 lines and a half", "nothing"])
def test_a_body_that_ends_before_the_promised_length_is_of_a_client_that_has_gone(reader: str, part: bytes) -> None:
    assert served(io.BytesIO(part), reader) == ("ignored", [part])


@every_reader
@pytest.mark.parametrize("length", ["20", None], ids=["length", "chunked"])
@pytest.mark.parametrize("catches", [True, False], ids=["answered", "raised"])
def test_so_is_one_that_breaks_off(reader: str, length: str | None, catches: bool) -> None:
    assert served(Cut(b"") if reader.startswith("read(") or reader == "read" else Cut(b"a\n"), reader, length, catches=catches) == (
        "ignored",
        [],
    )


@pytest.mark.parametrize("error", [AssertionError, TypeError, ValueError])
def test_what_cannot_be_read_is_a_failure_of_the_application(error: type[Exception]) -> None:
    class Strict(Cut):
        pass

    Strict.error = error("what was asked for is no number of bytes")
    upload = Upload(Strict(), 20)
    with pytest.raises(error):
        upload.read()
    assert not upload.is_cut_short


def test_an_application_that_reads_no_further_than_it_must_has_not_lost_its_client() -> None:
    upload = Upload(io.BytesIO(b"a\nb"), 20)
    for read in (lambda: upload.read(1), lambda: upload.readline(1), lambda: upload.read(0), lambda: upload.readlines(0)):
        read()
        assert not upload.is_cut_short


def test_a_server_that_hands_over_less_in_between_is_believed_at_the_end() -> None:
    upload = Upload(io.BytesIO(b"0123456789"), 10)
    upload.read(4)
    raw, upload._input = upload._input, io.BytesIO(b"45")
    assert upload.read(4) == b"45"
    assert upload.is_cut_short
    upload._input = raw
    assert upload.read(4) == b"4567"
    assert not upload.is_cut_short


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({"CONTENT_LENGTH": "7"}, 7),
        ({"CONTENT_LENGTH": "7", "HTTP_TRANSFER_ENCODING": "chunked"}, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, None),
        ({"CONTENT_LENGTH": "\xb2"}, None),
        ({"CONTENT_LENGTH": "-1"}, None),
        ({"CONTENT_LENGTH": "many"}, None),
        ({"CONTENT_LENGTH": "9" * 5_000}, None),
    ],
)
def test_where_a_request_has_a_body(environ: dict[str, Any], length: int | None) -> None:
    body = io.BytesIO(b"a")
    upload = upload_of(environ | {"wsgi.input": body})
    assert upload is not None
    assert (upload._left, upload._input) == (length, body)


def test_a_length_that_is_no_sensible_number_is_the_server_s_and_the_application_s_to_refuse() -> None:
    bench = Bench()
    bench.half_open()
    app = bench.guard(listing(), validated=False)
    talk = Conversation(app, method="POST", environ={"CONTENT_LENGTH": "9" * 5_000}, validated=False).run()
    assert (talk.status, bench.outcome()) == (200, "ok")


@pytest.mark.parametrize("environ", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}])
def test_where_it_has_none_the_server_s_stays(environ: dict[str, Any]) -> None:
    environ["wsgi.input"] = body = io.BytesIO()
    assert upload_of(environ) is None
    assert environ["wsgi.input"] is body


def test_what_else_a_server_s_has_is_there() -> None:
    body = io.BytesIO(b"0123456789")
    assert Upload(body, 10).getvalue() == b"0123456789"


@pytest.mark.parametrize("has_upload", [False, True])
def test_the_first_part_of_an_answer_of_known_length_is_there_before_its_head(has_upload: bool) -> None:
    bench, body = Bench(), Parts(ValueError("no first part"))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("Content-Length", "4")])
        return body

    upload = {"wsgi.input": io.BytesIO(b"a"), "CONTENT_LENGTH": "1"} if has_upload else {}
    talk = Conversation(bench.guard(app, validated=False), method="POST", environ=upload, validated=False)
    with pytest.raises(ValueError, match="no first part"):
        talk.begin()
    assert (talk.starts, body.closed) == (0, 1)
