"""What can be read off a response, and off what ended it."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from resilience.edges import Outcome, judge_status
from resilience.integrations.wsgi.types import Environ, Headers

CONTENT_TYPE: Final = "content-type"
CONTENT_LENGTH: Final = "content-length"
TYPE_SIZE: Final = len(CONTENT_TYPE)
_LENGTH_SIZE: Final = len(CONTENT_LENGTH)
EVENT_STREAM: Final = "text/event-stream"
"""A response whose type begins so is an event stream (HTML, "Server-sent events")."""
_WITHOUT_BODY: Final = (204, 304)
_MOST_KNOWN: Final = 256


@lru_cache(maxsize=_MOST_KNOWN)
def status_number(status: str) -> int:
    """The number in "200 OK". Whatever else an application says is the server's to refuse."""
    number = status[:3]
    return int(number) if len(number) == 3 and number.isascii() and number.isdigit() else 500


_verdicts: Final[dict[str, tuple[int, Outcome]]] = {}
known_verdict: Final = _verdicts.get
"""What a status line shows that was judged of late; None of another. Each response asks this first, and `judged` only then."""
_plain_types: Final[dict[str | None, bool]] = {}
is_known_plain: Final = _plain_types.get
"""Whether a body's type was seen of late that is no event stream's. Each response asks this first, `is_event_stream` only then."""


def judged(status: str) -> tuple[int, Outcome]:
    """The number in "200 OK", and what it shows."""
    verdict = _verdicts.get(status)
    if verdict is None:
        number = status_number(status)
        verdict = number, judge_status(number)
        if len(_verdicts) >= _MOST_KNOWN:
            _verdicts.clear()
        _verdicts[status] = verdict
    return verdict


def length_told(headers: Headers) -> str | None:
    """What the last header says that tells how long the body is, a number or not; None where there is none."""
    return next((value for name, value in reversed(headers) if len(name) == _LENGTH_SIZE and name.lower() == CONTENT_LENGTH), None)


def body_length(headers: Headers) -> int | None:
    """How many bytes the body has, by the last header that says so in a number; None where none does."""
    length = None
    for name, value in headers:
        if len(name) == _LENGTH_SIZE and name.lower() == CONTENT_LENGTH and value.isdecimal():  # of Latin-1 that is 0 to 9 only
            length = int(value)
    return length


def is_event_stream(headers: Headers) -> bool:
    """Whether the type of the body says so: the one in the usual spelling of its header, or else the last one in any."""
    usual = dict(headers).get("Content-Type")
    if usual is None:
        others = (value for name, value in reversed(headers) if len(name) == TYPE_SIZE and name.lower() == CONTENT_TYPE)
        return next(others, "").lower().startswith(EVENT_STREAM)
    if usual.lower().startswith(EVENT_STREAM):
        return True
    if len(_plain_types) >= _MOST_KNOWN:
        _plain_types.clear()
    _plain_types[usual] = True
    return False


def has_no_body(environ: Environ, status: str) -> bool:
    """Whether the response is whole without a body (RFC 9110, 6.4.1): a server need not ask for one."""
    return environ["REQUEST_METHOD"] == "HEAD" or status_number(status) in _WITHOUT_BODY


def is_file(body: object, environ: Environ) -> bool:
    """Whether the server sends the file by itself, with `sendfile` where it can; a wrapped one it would not know."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def is_killed(error: BaseException) -> bool:
    """Whether gevent has killed the greenlet: a cancellation, by an exception that only greenlets know."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and isinstance(error, greenlet.GreenletExit)
