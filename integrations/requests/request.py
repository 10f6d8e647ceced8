"""One request of a session through a pipeline: how requests speaks of it, and what each try of it is sent with."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from urllib.parse import urlsplit

from requests import PreparedRequest, exceptions
from urllib3 import HTTPResponse, Timeout
from urllib3.exceptions import HTTPError, TimeoutStateError

from resilience import Pipeline, Rejected
from resilience.edges import OutgoingRequest, drive, host_key
from resilience.integrations.requests.body import Body, drain, lift_bound
from resilience.integrations.requests.upload import upload

_CONNECTION_ERRORS: Final = (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError, HTTPError)
_OWN_FAULTS: Final = (
    exceptions.InvalidHeader,
    exceptions.InvalidSchema,
    exceptions.InvalidURL,
    exceptions.MissingSchema,
    exceptions.UnrewindableBodyError,
    exceptions.URLRequired,
)
"""Errors for which nothing was sent, for reasons on this side."""


class Request(OutgoingRequest):
    """One request of a session. `options` are what its adapter is given beside it."""

    def __init__(self, pipeline: Pipeline, request: PreparedRequest, adapter: Any, options: dict[str, Any]) -> None:
        self._request = request
        self._adapter = adapter
        self._options = options
        self._is_whole = _is_whole(request.body)
        self._position = None if self._is_whole else _position(request.body)
        self._sent = False
        self._is_bounded = False
        method = (request.method or "").upper()
        can_repeat_body = self._is_whole or self._position is not None
        super().__init__(pipeline, method, host_of(request), self._values, can_repeat_body=can_repeat_body)

    def run(self) -> Any:
        """Send it, as often as it is worth it. Returns the response, whose body settles the call."""
        response = drive(self.plan(), self.pipeline.clock, self._send)
        response.request = self._request
        if isinstance(response.raw, HTTPResponse):
            if self._is_bounded and self.left_s() is None:  # a stream: its waits are the session's own again
                lift_bound(response.raw, own_read_s(self._options["timeout"]))
            response.raw = Body(response.raw, self)
        else:  # made in this process: whole, and never closed
            self.ended()
        return response

    def _send(self) -> Any:
        request = self._request.copy()
        request.headers.update(self.begin_try())
        if self._sent and self._position is not None:
            self._request.body.seek(self._position)  # type: ignore[union-attr]  # what has a position can be sought
        if not self._is_whole:
            request.body = upload(self._request.body, self)
        self._sent = True
        left_s = self.left_s()
        self._is_bounded = left_s is not None
        options = {**self._options, "timeout": bounded(self._options["timeout"], left_s)}
        try:
            return self._adapter.send(request, **options)
        except Exception as error:
            ended_by = self.ended_by(error)
            if ended_by is error:
                raise
            raise ended_by from error

    def ended_by(self, error: BaseException) -> BaseException:
        """What ended a try or the reading of a body: where the deadline has passed, a timeout is the deadline's."""
        if isinstance(error, Rejected) or not (self.is_over and self.is_connection_error(error)):
            return error
        return self.expired()

    def discard(self, result: Any) -> None:
        self.ended()
        if isinstance(result.raw, HTTPResponse):
            drain(result.raw, self.pipeline.clock)
        with contextlib.suppress(Exception):
            result.close()

    # --- how the library speaks -------------------------------------------------------------------------------------------------

    def status_of(self, response: Any) -> int:
        status: int = response.status_code
        return status

    def values_of(self, response: Any, name: str) -> list[str]:
        if isinstance(response.raw, HTTPResponse):
            return response.raw.headers.getlist(name)
        value = response.headers.get(name)
        return [] if value is None else [value]

    def is_connection_error(self, error: BaseException) -> bool:
        if isinstance(error, exceptions.RequestException):
            return isinstance(error, _CONNECTION_ERRORS) and not self.is_own_fault(error)
        return isinstance(error, (HTTPError, OSError))

    def is_own_fault(self, error: BaseException) -> bool:
        return isinstance(error, _OWN_FAULTS)

    def _values(self, name: str) -> list[str]:
        value: str | bytes | None = self._request.headers.get(name)
        if value is None:
            return []
        return [value.decode("latin-1") if isinstance(value, bytes) else value]


def host_of(request: PreparedRequest) -> str:
    """The host that a request goes to; empty where its address has none, which its adapter will complain of."""
    parts = urlsplit(request.url or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    return host_key(parts.hostname or "", port, parts.scheme)


def bounded(own: Any, left_s: float | None) -> Any:
    """The timeout that a session asks for, connecting and reading together no longer than what is left."""
    if left_s is None:
        return own
    if isinstance(own, Timeout):
        timeout = own.clone()
        timeout.total = left_s if not isinstance(own.total, (int, float)) else min(own.total, left_s)
        return timeout
    connect_s, read_s = own if isinstance(own, tuple) else (own, own)
    return Timeout(connect=connect_s, read=read_s, total=left_s)


def own_read_s(own: Any) -> float | None:
    """How long a session waits for a part of a body by itself."""
    if isinstance(own, Timeout):
        try:
            own = own.read_timeout
        except TimeoutStateError:  # only its total is set
            own = own.total
    elif isinstance(own, tuple):
        own = own[1]
    return own if isinstance(own, (int, float)) else None


def _is_whole(body: object) -> bool:
    """Whether a body is all there: text, or bytes in whatever holds them."""
    if body is None or isinstance(body, str):
        return True
    try:
        memoryview(body).release()  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return False
    return True


def _position(body: Any) -> int | None:
    """Where a body that is a file begins; None where it is none, or cannot be read again from there."""
    try:
        position: int = body.tell()
        return position if body.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None
