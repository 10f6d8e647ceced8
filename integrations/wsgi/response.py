"""What can be read off a response, and off what ended it."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from resilience.integrations.wsgi.types import Environ, Headers

_CONTENT_TYPE: Final = "content-type"
_CONTENT_LENGTH: Final = "content-length"
_TYPE_SIZE: Final = len(_CONTENT_TYPE)
_LENGTH_SIZE: Final = len(_CONTENT_LENGTH)
_EVENT_STREAM: Final = "text/event-stream"
_WITHOUT_BODY: Final = (204, 304)


@lru_cache(maxsize=256)
def status_number(status: str) -> int:
    """The number in "200 OK". Whatever else an application says is the server's to refuse."""
    number = status[:3]
    return int(number) if len(number) == 3 and number.isascii() and number.isdigit() else 500


def looked_through(headers: Headers) -> tuple[bool, int | None]:
    """Whether the response is an event stream (HTML, "Server-sent events"), and how many bytes its body has, if that is told."""
    is_event_stream, length = False, None
    for name, value in headers:
        size = len(name)
        if size == _TYPE_SIZE and name.lower() == _CONTENT_TYPE:
            is_event_stream = value.lower().startswith(_EVENT_STREAM)
        elif size == _LENGTH_SIZE and name.lower() == _CONTENT_LENGTH and value.isascii() and value.isdigit():
            length = int(value)
    return is_event_stream, length


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
