"""One httpx request through a pipeline: how httpx speaks of it, and what each try of it is sent with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from resilience import Pipeline
from resilience.edges import OutgoingRequest, host_key
from resilience.integrations.httpx.library import CONNECTION_ERRORS, OWN_FAULTS, TIMEOUTS, WHOLE_BODIES, library_of
from resilience.integrations.httpx.upload import Upload

if TYPE_CHECKING:
    from resilience.integrations.httpx.library import Request

_TIMEOUT: Final = "timeout"


class Timeouts(dict[str, float | None]):
    """The timeouts of one try, each shortened to what is left of its time when the client asks for it: connection, write, read."""

    def __init__(self, own: dict[str, float | None], left_s: Callable[[], float | None]) -> None:
        super().__init__(own)
        self._left_s = left_s
        self.most_s: float | None = None
        """No timeout is longer than this either, where it is set."""
        self.is_deadline = False
        """Whether the last one asked for ends with the deadline."""

    def get(self, name: str, default: Any = None) -> Any:
        left_s, own_s = self._left_s(), super().get(name, default)
        bounds = [bound for bound in (left_s, own_s, self.most_s) if bound is not None]
        shortest = min(bounds, default=None)
        self.is_deadline = left_s is not None and shortest == left_s
        return shortest

    def __getitem__(self, name: str) -> float | None:
        shortened: float | None = self.get(name, super().__getitem__(name))
        return shortened


class HttpxRequest(OutgoingRequest):
    """What the request of a thread and that of a task have in common."""

    def __init__(self, pipeline: Pipeline, request: Request, inner: Any) -> None:
        can_repeat_body = isinstance(request.stream, WHOLE_BODIES)
        super().__init__(pipeline, request.method, host_of(request), request.headers.get_list, can_repeat_body=can_repeat_body)
        self.inner = inner
        self.timeouts = Timeouts({}, lambda: None)
        self._request = request

    def as_sent(self) -> Any:
        """The request as this try sends it: a copy, since the caller's own must not know of our headers and timeouts.

        Raises:
            DeadlineExceeded: nothing is left of its time.
        """
        request = self._request
        headers: Any = request.headers.copy()
        headers.update(self.begin_try())
        self.timeouts = Timeouts(request.extensions.get(_TIMEOUT, {}), self.left_s)
        extensions = {**request.extensions, _TIMEOUT: self.timeouts}
        is_whole = isinstance(request.stream, WHOLE_BODIES)
        stream = request.stream if is_whole else Upload(request.stream, self)
        copy = library_of(request).Request(request.method, request.url, headers=headers, stream=stream, extensions=extensions)
        if is_whole:
            copy.read()  # so that whoever looks at its content, such as a transport that signs requests, finds it
        return copy

    def is_unread(self, response: Any) -> bool:
        """Whether the body is still to be read. One that was read on the way is never closed by the client: the call ends here."""
        if response.is_closed:
            self.ended()
        return not response.is_closed

    def ended_by(self, error: BaseException) -> BaseException:
        """What ended a try or the reading of a body: a timeout of the client that is ours is the deadline."""
        if isinstance(error, TIMEOUTS) and self.timeouts.is_deadline:
            return self.expired()
        return error

    # --- how the library speaks -------------------------------------------------------------------------------------------------

    def status_of(self, response: Any) -> int:
        status: int = response.status_code
        return status

    def values_of(self, response: Any, name: str) -> list[str]:
        values: list[str] = response.headers.get_list(name)
        return values

    def is_connection_error(self, error: BaseException) -> bool:
        return isinstance(error, CONNECTION_ERRORS) and not self.is_own_fault(error)

    def is_own_fault(self, error: BaseException) -> bool:
        return isinstance(error, OWN_FAULTS)


def host_of(request: Request) -> str:
    """The host that a request goes to."""
    url = request.url
    return host_key(url.raw_host.decode("ascii"), url.port, url.scheme)
