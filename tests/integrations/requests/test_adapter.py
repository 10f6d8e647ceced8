"""What is requests' own: files as bodies, its forms of a timeout, `response.raw`, and who sends through the adapter by itself."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPDigestAuth
from urllib3 import Timeout

import resilience
from resilience import BreakerState, CircuitBreaker, CircuitOpen, ConfigError, Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.integrations.requests import ResilienceAdapter
from resilience.testing import ManualClock
from tests.integrations.outgoing.peer import TIMEOUT_S, Handler, Peer, breaks_off, hangs_up, says, stalls


def session(*layers: Any, adapter: BaseAdapter | None = None) -> requests.Session:
    """A session whose requests go through these layers."""
    found = requests.Session()
    found.trust_env = False
    found.mount("http://", ResilienceAdapter(adapter, pipeline=Pipeline("payments", *layers)))
    return found


class Local(BaseAdapter):
    """An adapter that answers in this process, and remembers how it was asked."""

    def __init__(self, answer: Callable[[PreparedRequest], Response]) -> None:
        super().__init__()
        self.answer = answer
        self.options: list[dict[str, Any]] = []
        self.is_closed = False

    def send(self, request: PreparedRequest, **options: Any) -> Response:  # type: ignore[override]
        self.options.append(options)
        response = self.answer(request)
        response.request = request
        response.url = request.url or ""
        return response

    def close(self) -> None:
        self.is_closed = True


def answered(status: int, raw: Any = None) -> Response:
    """A response that was never on a wire."""
    response = Response()
    response.status_code = status
    response.raw = raw
    return response


# --- bodies ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skipped", [0, 4])
def test_a_file_is_sent_again_from_where_it_stood(peer: Peer, clock: ManualClock, tmp_path: Path, skipped: int) -> None:
    path = tmp_path / "order"
    path.write_bytes(b"0123456789" * 1000)
    peer.will(says(503), hangs_up)
    with path.open("rb") as file, session(Retry(clock=clock)) as found:
        file.seek(skipped)
        assert found.put(peer.url, data=file).status_code == 200
    assert peer.bodies == [path.read_bytes()[skipped:]] * 3


@pytest.mark.parametrize("body", ["ten euros", b"10 EUR", {"amount": "10"}], ids=["text", "bytes", "form"])
def test_whole_bodies_are_sent_again(peer: Peer, clock: ManualClock, body: Any) -> None:
    peer.will(says(503))
    with session(Retry(clock=clock)) as found:
        found.put(peer.url, data=body)
    assert peer.bodies[0] == peer.bodies[1] != b""


def test_files_in_a_form_are_bytes_by_then(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503))
    with session(Retry(clock=clock)) as found:
        found.put(peer.url, files={"order": io.BytesIO(b"0123456789")})
    assert peer.bodies[0] == peer.bodies[1]
    assert b"0123456789" in peer.bodies[0]


class Pipe(io.RawIOBase):
    """A file that cannot be read again."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._data)


def test_a_file_that_cannot_be_sought_is_sent_once(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503), says(503))
    with session(Retry(clock=clock)) as found:
        assert found.put(peer.url, data=Pipe(b"once")).status_code == 503
    assert peer.bodies == [b"once"]


class Damaged(io.BytesIO):
    """A file on a disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("input/output error")


def test_a_file_that_cannot_be_read_is_not_tried_again_and_shows_nothing_of_the_peer(peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    with session(Retry(clock=clock), breaker) as found, pytest.raises(requests.ConnectionError, match="input/output error"):
        found.put(peer.url, data=Damaged(b"0123456789"))
    assert (breaker.state, clock.slept_s) == (BreakerState.CLOSED, [])


def test_a_file_of_text_is_sent_as_bytes(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503))
    with session(Retry(clock=clock)) as found:
        found.put(peer.url, data=io.StringIO("ten euros"))
    assert peer.bodies == [b"ten euros"] * 2


@pytest.mark.parametrize("body", [bytearray(b"10 EUR"), memoryview(b"10 EUR"), array("B", b"10 EUR")], ids=["array", "view", "B"])
def test_bytes_are_whole_whatever_holds_them(peer: Peer, clock: ManualClock, body: Any) -> None:
    peer.will(says(503))
    with session(Retry(clock=clock)) as found:
        assert found.put(peer.url, data=body).status_code == 200
    assert peer.bodies == [b"10 EUR"] * 2


def test_a_deadline_that_passes_while_the_peer_takes_the_body_counts(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    def take(request: PreparedRequest) -> Response:
        parts: Iterator[Any] = iter(request.body or ())  # type: ignore[arg-type]  # it was given a generator
        assert next(parts) == b"taken "
        clock.advance(5.0)
        next(parts)
        raise AssertionError("more is sent after the deadline")

    body = (part for part in (b"taken ", b"slowly"))
    deadline = Deadline(5.0, clock=clock)
    with session(deadline, breaker, adapter=Local(take)) as found, pytest.raises(DeadlineExceeded):
        found.put("http://payments.example", data=body)
    assert (breaker.state, deadline.state.expired) == (BreakerState.OPEN, 1)


# --- timeouts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "connect_s", "read_s", "total_s"),
    [
        (None, None, None, 5.0),
        (9.0, 9.0, 9.0, 5.0),
        (1.0, 1.0, 1.0, 5.0),
        ((1.0, 9.0), 1.0, 9.0, 5.0),
        ((None, 2.0), None, 2.0, 5.0),
        (Timeout(connect=1.0, read=2.0), 1.0, 2.0, 5.0),
        (Timeout(total=3.0), 3.0, None, 3.0),
        (Timeout(connect=1.0, total=9.0), 1.0, None, 5.0),
    ],
    ids=repr,
)
def test_connecting_and_reading_take_no_longer_than_what_is_left(
    clock: ManualClock, own: Any, connect_s: float | None, read_s: float | None, total_s: float
) -> None:
    local = Local(lambda request: answered(200))
    session(Deadline(5.0, clock=clock), adapter=local).get("http://payments.example", timeout=own)
    timeout = local.options[0]["timeout"]
    assert isinstance(timeout, Timeout)
    assert timeout.total == total_s
    assert timeout.connect_timeout == min(total_s, connect_s or total_s)
    timeout.start_connect()
    if read_s is not None:
        assert timeout.read_timeout == pytest.approx(min(read_s, total_s), abs=0.5)


@pytest.mark.parametrize("own", [None, 3.0, (1.0, 2.0)])
def test_without_a_deadline_the_timeout_is_the_sessions(clock: ManualClock, own: Any) -> None:
    local = Local(lambda request: answered(200))
    session(Retry(clock=clock), adapter=local).get("http://payments.example", timeout=own, verify=False, cert="c.pem")
    assert local.options == [{"timeout": own, "stream": False, "verify": False, "cert": "c.pem", "proxies": {}}]


@pytest.mark.parametrize("own", [None, (TIMEOUT_S, TIMEOUT_S), Timeout(total=TIMEOUT_S)], ids=["none", "two", "total"])
def test_a_stream_waits_as_long_as_the_session_does(peer: Peer, own: Any) -> None:
    """Its connection was made under a deadline, which ended with the head."""

    def events(handler: Handler) -> None:
        handler.head(200, {"content-type": "text/event-stream", "content-length": "8"})
        handler.wfile.write(b"one\n")
        handler.wfile.flush()
        handler.peer.over.wait(0.22)
        handler.wfile.write(b"two\n")

    peer.will(events)
    with session(Deadline(0.15)) as found:
        assert found.get(peer.url, timeout=own).content == b"one\ntwo\n"


# --- response.raw ---------------------------------------------------------------------------------------------------------------


def copied(response: Response) -> bytes:
    """By hand."""
    target = io.BytesIO()
    shutil.copyfileobj(response.raw, target)
    return target.getvalue()


def filled(response: Response) -> bytes:
    """Into a buffer."""
    buffer, whole = bytearray(4), b""
    while count := response.raw.readinto(buffer):
        whole += buffer[:count]
    return whole


READERS: dict[str, Callable[[Response], bytes]] = {
    "content": lambda response: response.content,
    "iter_content": lambda response: b"".join(response.iter_content(3)),
    "iter_lines": lambda response: b"\n".join(response.iter_lines()),
    "read": lambda response: bytes(response.raw.read()),
    "read1": lambda response: b"".join(iter(lambda: response.raw.read1(3), b"")),
    "stream": lambda response: b"".join(response.raw.stream(3)),
    "lines": lambda response: b"".join(response.raw),
    "copied": copied,
    "filled": filled,
    "buffered": lambda response: io.BufferedReader(response.raw).read(),
    "data": lambda response: bytes(response.raw.data),
    "data again": lambda response: bytes(response.raw.data and response.raw.data),
    "data after read": lambda response: response.raw.read(cache_content=True) and bytes(response.raw.data),
    "json": lambda response: str(response.raw.json()).zfill(10).encode(),
    "readline": lambda response: b"".join(iter(response.raw.readline, b"")),
    "readlines": lambda response: b"".join(response.raw.readlines(4) + response.raw.readlines(None)),
    "next": lambda response: b"".join(iter(lambda: next(response.raw, b""), b"")),
    "drained": lambda response: response.raw.read(8) + (response.raw.drain_conn() or b"89"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("has_deadline", [True, False], ids=["deadline", ""])
def test_however_it_is_read_its_end_settles_it(peer: Peer, clock: ManualClock, reader: str, has_deadline: bool) -> None:
    breaker = half_open(clock)
    layers = [Deadline(9.0, clock=clock), breaker] if has_deadline else [breaker]
    peer.will(says(200, b" 123456789" if reader == "json" else b"0123456789"))
    with session(*layers) as found:
        response = found.get(peer.url, stream=True)
        assert breaker.state is BreakerState.HALF_OPEN
        assert READERS[reader](response) == b"0123456789"
    assert str(breaker.state) == str(BreakerState.CLOSED)


def chunked(handler: Handler) -> None:
    """A body in chunks."""
    handler.head(200, {"transfer-encoding": "chunked"})
    handler.wfile.write(b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n")


@pytest.mark.parametrize("reader", ["content", "iter_content", "read", "read1", "stream"])
@pytest.mark.parametrize("has_deadline", [True, False], ids=["deadline", ""])
def test_so_does_the_end_of_a_body_in_chunks(peer: Peer, clock: ManualClock, reader: str, has_deadline: bool) -> None:
    breaker = half_open(clock)
    layers = [Deadline(9.0, clock=clock), breaker] if has_deadline else [breaker]
    peer.will(chunked, chunked)
    with session(*layers) as found:
        assert READERS[reader](found.get(peer.url, stream=True)) == b"0123456789"
        assert breaker.state is BreakerState.CLOSED
        assert b"".join(found.get(peer.url, stream=True).raw.read_chunked()) == b"0123456789"
        assert peer.connections == 1


def half_open(clock: ManualClock) -> CircuitBreaker:
    """A breaker that lets one probe through."""
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, open_for_s=1.0, clock=clock)
    with pytest.raises(ZeroDivisionError):
        Pipeline("broken", breaker).call(lambda: 1 / 0)
    clock.advance(1.0)
    return breaker


def drips(handler: Handler) -> None:
    """A body that never stops for long, and never ends."""
    handler.head(200, {"content-length": "1000000"})
    while not handler.peer.over.wait(0.02):
        handler.wfile.write(b".")
        handler.wfile.flush()


@pytest.mark.parametrize("reader", ["read", "read(n)", "copied", "filled", "data", "drained"])
def test_the_deadline_ends_every_way_of_reading_a_body_that_drips(peer: Peer, reader: str) -> None:
    read = {**READERS, "read(n)": lambda response: response.raw.read(1_000_000), "filled": _into_a_large_buffer}[reader]
    peer.will(drips)
    deadline, breaker = Deadline(0.08), CircuitBreaker(consecutive_failures=1)
    with session(deadline, breaker) as found:
        response = found.get(peer.url, stream=True)
        if reader == "drained":
            response.raw.drain_conn()  # which nothing gets in the way of
        else:
            with pytest.raises(DeadlineExceeded):
                read(response)
    assert (breaker.state, deadline.state.expired) == (BreakerState.OPEN, 1)


def _into_a_large_buffer(response: Response) -> bytes:
    buffer = bytearray(1_000_000)
    return bytes(response.raw.readinto(buffer))


@pytest.mark.parametrize("end", ["close", "with", "release_conn", "with raw"])
def test_whoever_has_enough_of_it_settles_it(peer: Peer, clock: ManualClock, end: str) -> None:
    breaker = half_open(clock)
    peer.will(stalls())
    with session(breaker) as found:
        response = found.get(peer.url, stream=True)
        if end == "close":
            response.close()
        elif end == "with":
            with response:
                pass
        elif end == "with raw":
            with response.raw:
                pass
        else:
            response.raw.release_conn()
        assert breaker.state is BreakerState.CLOSED
        response.close()


def test_what_else_raw_has_is_there(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(200, b"0123456789", x_shown="yes", set_cookie="a=1"))
    with session(Retry(clock=clock)) as found:
        response = found.get(peer.url, stream=True)
        assert (response.raw.status, response.raw.version, response.raw.headers["x-shown"]) == (200, 11, "yes")
        assert found.cookies["a"] == "1"
        assert response.raw.tell() == 0
        response.close()


def test_a_response_can_be_pickled(peer: Peer, clock: ManualClock) -> None:
    with session(Retry(clock=clock)) as found:
        assert pickle.loads(pickle.dumps(found.get(peer.url))).content == b"done"


def test_reading_on_after_the_deadline(peer: Peer, clock: ManualClock) -> None:
    peer.will(stalls(), stalls())
    deadline = Deadline(5.0, clock=clock)
    with session(deadline) as found:
        for count, name in enumerate(("read", "read1"), 1):
            read = getattr(found.get(peer.url, stream=True).raw, name)
            assert read(4) == b"part"
            clock.advance(5.0)
            with pytest.raises(DeadlineExceeded) as caught:
                read(4)
            assert (caught.value.__cause__, deadline.state.expired) == (None, count)


@pytest.mark.parametrize("reader", ["content", "iter_content", "read"])
def test_a_body_that_breaks_off(peer: Peer, clock: ManualClock, reader: str) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    peer.will(breaks_off)
    with session(Deadline(5.0, clock=clock), breaker) as found:
        response = found.get(peer.url, stream=True)
        with pytest.raises((requests.RequestException, urllib3.exceptions.HTTPError)):
            READERS[reader](response)
    assert breaker.state is BreakerState.OPEN


# --- who sends by itself --------------------------------------------------------------------------------------------------------


def test_authentication_that_sends_a_request_again_goes_through_the_pipeline(peer: Peer, clock: ManualClock) -> None:
    deadline = Deadline(5.0, clock=clock)
    challenge = 'Digest realm="r", nonce="n", qop="auth"'
    peer.will(says(401, b"who?", www_authenticate=challenge))
    with session(deadline) as found:
        assert found.get(peer.url, auth=HTTPDigestAuth("u", "p")).status_code == 200
    assert peer.values("x-envoy-expected-rq-timeout-ms") == ["5000", "5000"]
    assert deadline.state.admitted == 2


def test_a_redirect_is_a_request_by_itself(peer: Peer, clock: ManualClock) -> None:
    deadline = Deadline(5.0, clock=clock)
    peer.will(says(302, b"there", location="/there"))
    with session(deadline) as found:
        assert found.get(peer.url).text == "done"
    assert [seen.path for seen in peer.seen] == ["/", "/there"]
    assert (deadline.state.admitted, peer.connections) == (2, 1)


# --- other adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [None, io.BytesIO(b"whole")], ids=["none", "bytes"])
def test_a_response_that_was_made_in_this_process_is_settled_at_once(clock: ManualClock, raw: Any) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    found = session(breaker, adapter=Local(lambda request: answered(500, raw)))
    assert found.get("http://payments.example").content == (None if raw is None else b"whole")
    assert breaker.state is BreakerState.OPEN


def test_such_a_response_is_tried_again_too(clock: ManualClock) -> None:
    statuses = iter([503, 200])

    def answer(request: PreparedRequest) -> Response:
        response = answered(next(statuses))
        response.headers["Retry-After"] = "3"
        return response

    assert session(Retry(clock=clock), adapter=Local(answer)).get("http://payments.example").status_code == 200
    assert clock.slept_s == [3.0]


def test_a_shorter_wait_of_another_adapters_own_is_left_to_it(peer: Peer) -> None:
    class Impatient(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
            return super().send(request, **{**options, "timeout": 0.05})

    peer.will(stalls())
    with session(Deadline(TIMEOUT_S), adapter=Impatient()) as found, pytest.raises(requests.ConnectionError):
        found.get(peer.url)


def test_headers_of_bytes(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503))
    with session(Deadline(5.0, clock=clock), Retry(clock=clock)) as found:
        headers: Any = {"Idempotency-Key": b"7", "x-envoy-expected-rq-timeout-ms": b"300"}
        assert found.post(peer.url, headers=headers).status_code == 200
    assert peer.values("x-envoy-expected-rq-timeout-ms") == ["300", "300"]


@pytest.mark.parametrize(
    "error", [requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, requests.exceptions.MissingSchema]
)
def test_what_is_not_sent_for_reasons_of_our_own_is_neither_tried_again_nor_counted(
    clock: ManualClock, error: type[Exception]
) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    def fail(request: PreparedRequest) -> Response:
        raise error("of our own")

    with pytest.raises(error):
        session(Retry(clock=clock), breaker, adapter=Local(fail)).get("http://payments.example")
    assert (breaker.state, clock.slept_s) == (BreakerState.CLOSED, [])


@pytest.mark.parametrize(
    ("error", "tries"), [(requests.exceptions.TooManyRedirects, 1), (ConnectionResetError, 2), (ValueError, 1)]
)
def test_other_errors_count(clock: ManualClock, error: type[Exception], tries: int) -> None:
    breaker = CircuitBreaker(consecutive_failures=5, window_calls=10, min_calls=tries, clock=clock)
    local = Local(lambda request: _fail(error))
    with pytest.raises(error):
        session(Retry(2, clock=clock), breaker, adapter=local).get("http://payments.example")
    assert (len(local.options), breaker.state) == (tries, BreakerState.OPEN)


def _fail(error: type[Exception]) -> Response:
    raise error


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Payments.Example/", "payments.example"),
        ("http://payments.example:80/", "payments.example"),
        ("http://payments.example:8080/", "payments.example:8080"),
        ("http://user:secret@payments.example/", "payments.example"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("unix://%2Frun%2Fpayments.sock/", "%2frun%2fpayments.sock"),
        ("unix://payments:99999/", "payments"),
    ],
)
def test_the_host_of_a_request(url: str, host: str) -> None:
    hosts = []

    def choose(method: str, host: str) -> None:
        hosts.append((method, host))

    found = requests.Session()
    for scheme in ("http://", "unix://"):
        found.mount(scheme, ResilienceAdapter(Local(lambda request: answered(200)), pipeline=choose))
    found.get(url)
    assert hosts == [("GET", host)]


CONFIG = """\
version: 1
breakers: {out: {consecutive_failures: 1}}
pipelines: {out: [{breaker: out}]}
"""


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))], ids=["copy", "pickle"])
def test_a_session_can_be_copied_and_pickled(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied_by: Callable[[requests.Session], requests.Session]
) -> None:
    (tmp_path / "resilience.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with requests.Session() as found:
        found.mount("http://", ResilienceAdapter(config="resilience.yaml", pipeline="out"))
        monkeypatch.chdir("/")
        with copied_by(found) as other:
            peer.will(says(503))
            assert other.get(peer.url).status_code == 503
        with pytest.raises(CircuitOpen):  # of the one toolkit of the file, which the other has given up
            found.get(peer.url)


def test_a_copy_of_a_session_goes_through_the_same_pipeline(peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503))
    with session(CircuitBreaker(consecutive_failures=1, clock=clock)) as found, copy.deepcopy(found) as other:
        assert other.get(peer.url).status_code == 503
        with pytest.raises(CircuitOpen):
            found.get(peer.url)


def test_a_session_with_a_pipeline_of_this_process_says_why_it_cannot_be_pickled(tmp_path: Path) -> None:
    (tmp_path / "resilience.yaml").write_text(CONFIG, encoding="utf-8")
    with resilience.load(tmp_path / "resilience.yaml") as toolkit:
        for options in (
            {"pipeline": Pipeline("out")},
            {"pipeline": toolkit.pipeline("out")},
            {"config": toolkit, "pipeline": "out"},
        ):
            adapter = ResilienceAdapter(**options)
            with pytest.raises(TypeError, match="cannot be pickled: give config= a path and pipeline= a name"):
                pickle.dumps(adapter)


def test_a_session_closes_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text("version: 1\ndeadlines: {out: {default: 5s}}\npipelines: {out: [{deadline: out}]}\n", encoding="utf-8")
    local = Local(lambda request: answered(200))
    found = requests.Session()
    adapter = ResilienceAdapter(local, path, pipeline="out")
    found.mount("http://", adapter)
    found.mount("https://", adapter)
    with resilience.load(path) as toolkit:
        assert found.get("http://payments.example").status_code == 200
        found.close()
        toolkit.reload()
    assert local.is_closed
    with pytest.raises(ConfigError):
        toolkit.reload()
