"""The application that real servers serve in these tests, in processes of their own. SERVED_CONFIG names its configuration file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.util import FileWrapper

import resilience
from resilience import CircuitBreaker, CircuitOpen, Pipeline, Retry, current_deadline
from resilience.edges import CURRENT, refusal_answer
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.wsgi.served_config import FILE

TEXT: Final = [("content-type", "text/plain")]
PART: Final = b"x" * 16_384

toolkit = resilience.load(os.environ["SERVED_CONFIG"])
# Made where the server imports this: before it forks, if it is told to.
breaker = CircuitBreaker(min_calls=1, open_for_s=10_000.0)
retry_clock = ManualClock()
retrying = Pipeline("retrying", Retry(4, backoff_s=(1.0, 1_000.0), jitter="full", clock=retry_clock))
_sent_by_the_system = 0


def hello(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("x-pid", str(os.getpid()))])
    return [b"hello"]


def nothing(environ: Any, start_response: Any) -> Any:
    start_response("204 No Content", [])
    return []


def file(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return environ.get("wsgi.file_wrapper", FileWrapper)(FILE.open("rb"))


def write(environ: Any, start_response: Any) -> Any:
    writes = start_response("200 OK", TEXT)
    writes(b"a")
    writes(b"b")
    return [b"c"]


def fail(environ: Any, start_response: Any) -> Any:
    raise ValueError("a bug")


def refused_in_its_body(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("content-length", "5")])
    raise CircuitOpen("payments: open", policy="payments", reason="open", retry_after_s=3.0)
    yield b"never"


def replaced(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [*TEXT, ("content-length", "500")])
    try:
        raise ValueError("a bug")
    except ValueError:
        start_response("500 Internal Server Error", TEXT, sys.exc_info())
    yield b"error"


def deadline(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    left = current_deadline()
    yield repr(None if left is None else left.remaining_s()).encode()


def current(environ: Any, start_response: Any) -> Any:
    """The pipeline of the current call in each step of the body."""
    start_response("200 OK", TEXT)
    for _ in range(3):
        call = CURRENT.get()
        time.sleep(0)  # with greenlets, others run meanwhile
        assert call is not None
        assert call.pipeline is not None
        yield call.pipeline.name.encode()


def stream(environ: Any, start_response: Any) -> Any:
    """Goes on until the client has gone."""
    start_response("200 OK", TEXT)
    while True:
        yield PART
        time.sleep(0.001)


def held(environ: Any, start_response: Any) -> Any:
    """Says who is at work, then waits for the body of the request. Says whether it came."""
    start_response("200 OK", TEXT)
    yield f"worker {os.getpid()}.".encode()
    yield environ["wsgi.input"].read(1)


def draws(environ: Any, start_response: Any) -> Any:
    """Says who is at work, then what this process draws for its breaker, its retries and its clients."""
    yield from held(environ, start_response)
    with contextlib.suppress(OSError):
        Pipeline("direct", breaker).call(_fails)
    with contextlib.suppress(OSError):
        retrying.call(_fails)
    refusal = CircuitOpen("", policy="", retry_after_s=1_000_000.0)
    drawn = {
        "breaker": breaker.status()["opens_for_s"],
        "retry": retry_clock.slept_s,
        "client": [dict(refusal_answer(refusal, own=True).headers)["retry-after"] for _ in range(3)],
    }
    yield json.dumps({"pid": os.getpid(), "drawn": drawn}).encode()


def _fails() -> None:
    raise OSError("the dependency is down")


def status(environ: Any, start_response: Any) -> Any:
    seen = {"pid": os.getpid(), "sendfiles": _sent_by_the_system, "has_current": CURRENT.get() is not None}
    return _json(seen | {"orders": toolkit.status()["breakers"]["orders"]}, start_response)


def _json(document: object, start_response: Any) -> Any:
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(document).encode()]


HANDLERS: Final[dict[str, Callable[[Any, Any], Iterable[bytes]]]] = {
    "/hello": hello,
    "/bücher": hello,
    "/nothing": nothing,
    "/file": file,
    "/write": write,
    "/fail": fail,
    "/refused-in-its-body": refused_in_its_body,
    "/replaced": replaced,
    "/deadline": deadline,
    "/current": current,
    "/orders/hello": hello,
    "/orders/fail": fail,
    "/orders/stream": stream,
    "/orders/held": held,
    "/draws": draws,
    "/status": status,
}


def route(environ: Any, start_response: Any) -> Any:
    """The application."""
    handler = HANDLERS.get(environ["PATH_INFO"].encode("latin-1").decode())
    if handler is None:
        start_response("404 Not Found", TEXT)
        return [b"no such page"]
    return handler(environ, start_response)


def _count_sendfile(response: Any) -> None:
    """Note how often gunicorn lets the system send a file."""
    sendfile = response.sendfile

    def counted(self: Any, wrapped: Any) -> Any:
        global _sent_by_the_system  # noqa: PLW0603  # of this process
        was_sent = sendfile(self, wrapped)
        _sent_by_the_system += was_sent
        return was_sent

    response.sendfile = counted


if "gunicorn" in sys.modules:
    from gunicorn.http.wsgi import Response

    _count_sendfile(Response)
app = ResilienceMiddleware(route, config=os.environ["SERVED_CONFIG"])
