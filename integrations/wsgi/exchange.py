"""One WSGI request on its way through a pipeline and the application: a slotted object that is also its call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import Token
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

from resilience import Rejected
from resilience.edges import (
    ABANDONED,
    NS_PER_US,
    Answer,
    Call,
    Guarded,
    Permit,
    clocks,
    drive,
    judge_error,
    judge_relayed,
    ratelimit_fields,
    read_inbound,
    relayed_in,
    settle_abandoned,
)
from resilience.integrations.wsgi.body import Body, WholeBody
from resilience.integrations.wsgi.current import get_current, reset_current, set_current
from resilience.integrations.wsgi.ending import Ending, Particulars
from resilience.integrations.wsgi.request import inbound_headers
from resilience.integrations.wsgi.response import (
    body_length,
    is_event_stream,
    is_file,
    is_known_plain,
    judged,
    known_verdict,
    length_told,
)
from resilience.integrations.wsgi.types import App, Environ, Headers, StartResponse, Write
from resilience.integrations.wsgi.upload import upload_of

T = TypeVar("T")
_AT_FIRST: Final = (True, False, *(None,) * 7)  # to unpack takes two thirds of the steps of one assignment after the other
_END: Final[Any] = ()  # stands for the part that there is not: empty too, and no bytes
_HANDED_OVER_AT_ONCE: Final = frozenset((list, tuple))


class HttpExchange(Ending):
    """Admits the request, runs the application, settles when its response ends, answers refusals.

    The head is kept until the first part of the body is there. Until then another can take its place, with a server too that would
    add the headers of the second to those of the first (gunicorn does). Where the head tells how long the body is, the first part
    is drawn at once: of most it is all.

    The call is the current one only while code of the application runs: a server that forgets `close()` leaves nothing behind in
    its thread.

    Where nobody records it and no layer needs a driver it is its own permit. One thread at a time has it: the server's.

    Every request pays for what the usual one passes through, and pays the more the more steps and places that is: what a framework
    does between two of them leaves the processor none of ours. So `run` says in one place what the usual request and response
    need, and leaves all others to the methods that say it once.
    """

    __slots__ = ("_fields", "_start_response", "_write")
    _fields: dict[str, str]  # of the head, by their names as the application spells them
    _write: Write  # the server's, once it has the head

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__  # `run` writes all there is: CPython comes to an `__init__` of Python's by a detour

    def run(  # noqa: C901, PLR0912, PLR0915  # written out: every request goes through here
        self, guarded: Guarded, environ: Environ, start_response: StartResponse, app: App
    ) -> Iterable[bytes]:
        """Serve the request: returns the body of its response."""
        if ABANDONED:
            settle_abandoned()
        # What `Call` writes, but for what `enter` writes anyway, and what is known of a response that there is not.
        (
            self.deadline_counts,
            self.settled,
            self.timeout_s,
            self.deadline_us,
            self.response_us,
            self.parent,
            self.status,
            self._headers,
            self._particulars,
        ) = _AT_FIRST
        self.environ = environ
        self._guarded = guarded
        self._start_response = start_response
        if not environ.keys().isdisjoint(guarded.telling_environ):
            self._read_more(environ)
        try:
            try:
                peer = environ["REMOTE_ADDR"]
            except KeyError:
                peer = ""
            if not guarded.pipeline.enter(self, peer):
                self.particulars.permit = self.as_recorded(self._drive)
        except Rejected as refusal:
            self.end_span()
            return self._give(self.answers.to(refusal, own=True))
        except BaseException:
            self.end_span()
            raise
        body: Iterable[bytes] | None = None
        whole: Iterable[bytes] | None
        parts: Iterator[bytes] | None
        try:
            mark = set_current(self)
            try:
                if self.trace is None:
                    body = app(environ, self.start_response)
                else:
                    body = self.as_recorded(partial(app, environ, self.start_response))
                whole = parts = None
                if type(body) in _HANDED_OVER_AT_ONCE or ("wsgi.file_wrapper" in environ and is_file(body, environ)):
                    whole = body  # the server may look at its length, or send the file by itself
                elif (headers := self._headers) is not None and (self._particulars is None or not self._has_given_head()):
                    length = self._fields.get("Content-Length") or length_told(headers)
                    if length is not None:
                        if self.trace is None:
                            parts = iter(body)
                            first = next(parts, _END)
                        else:
                            parts = self.as_recorded(partial(iter, body))
                            first = self.as_recorded(partial(next, parts, _END))
                        if first and length == str(len(first)) and self._headers is headers:  # it may have put another in its place
                            whole = WholeBody((first,), parts)
                            try:  # noqa: SIM105  # every response goes through here
                                whole.close = body.close  # asked for, since it may have none
                            except AttributeError:
                                pass
                        else:
                            parts = iter(()) if first is _END else chain((first,), parts)  # what has ended may not be asked again
                if whole is None:
                    self._note_within()
            finally:
                reset_current(mark)
            if whole is None:
                return self._in_parts(body, parts)
            headers = self._headers
            if headers is None or self._particulars is not None:  # `write` leaves some too, and an error that a handler answers
                self._hands_over_whole()
                return whole
            # The same for the usual response: `begins`, `ended`, `judge_head` and `settle`, written out.
            line = self._status_line
            self._write = start_response(line, self._with_fields(headers) if guarded.quota_limiters else headers)
            now_us = clocks.monotonic_ns() // NS_PER_US if guarded.is_by_system_clock else guarded.pipeline.clock.now_us()
            deadline_us = self.deadline_us
            if deadline_us is not None and now_us > deadline_us:
                self.response_us = now_us
                self._hands_over_whole()
                return whole
            if guarded.times_start:
                self.response_us = now_us
            self.status, outcome = known_verdict(line) or judged(line)
            self.settled = True
            held = self.held
            while held:
                layer, token = held.pop()
                layer.settle(token, outcome, self, now_us)
            return whole
        except BaseException as error:
            instead = self.broke_off(error)
            if body is not None and hasattr(body, "close"):
                body.close()  # no server will
            if instead is None:
                raise
            return instead

    def _read_more(self, environ: Environ) -> None:
        """Read what the request says of its call, and take its body in hand, where it has one."""
        guarded = self._guarded
        if not environ.keys().isdisjoint(guarded.inbound_environ):
            read_inbound(guarded, self, inbound_headers(environ, guarded.inbound_environ))
        upload = upload_of(environ)
        if upload is not None:
            self.particulars.upload = upload

    def _drive(self) -> Permit:
        pipeline = self._guarded.pipeline
        outer = pipeline.outer
        return drive(outer.steps(self), pipeline.clock) if outer.has_effects else outer.admit(self)

    def _in_parts(self, body: Iterable[bytes], parts: Iterator[bytes] | None) -> Body:
        """What comes by and by. Where its length is known, the response begins with its first part, which is there: in `parts`."""
        own = self.particulars
        if not own.is_in_parts:  # with `write` the body has begun, and what that has sent is counted
            self._look_into_head(own)
        if parts is not None and own.left is not None:
            self._give_head()
        return Body(self, body, parts)

    def as_current(self, step: Callable[[], T]) -> T:
        """Do one step of the application's work as the current call, or within the one that an earlier step has begun."""
        if self.settled:
            return step()
        mark = set_current(self.innermost)
        try:
            return step() if self.trace is None else self.as_recorded(step)
        finally:
            self.leave(mark)

    def leave(self, mark: Token[Call | None]) -> None:
        """The application is done with a step."""
        self._note_within()
        reset_current(mark)

    def _note_within(self) -> None:
        """What the application left as the current call after one step is so in its next one too."""
        within = get_current()
        if within is not self:
            self.particulars.within = within
        elif self._particulars is not None:
            self._particulars.within = None

    # --- the response -------------------------------------------------------------------------------------------------------

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        """The application's `start_response`."""
        if self._headers is not None:
            try:
                if not exc_info:
                    raise AssertionError("start_response was called before, and only an error may replace what it began (PEP 3333)")
                if self._has_given_head():  # whether it is too late is for the server to say
                    self._write = self._start_response(status, self._with_fields(headers), exc_info)
            finally:
                exc_info = None  # its traceback may refer to this frame
        own_copy = [*headers]
        self._fields = fields = dict(own_copy)
        self._status_line = status
        self._headers = own_copy
        if self._particulars is not None and self._particulars.is_in_parts:
            self._look_into_head(self._particulars)
        if not is_known_plain(fields.get("Content-Type")) and is_event_stream(own_copy):
            self._release_stream()
        return self

    def _look_into_head(self, own: Particulars) -> None:
        """How long a body is that comes by and by: that matters only then."""
        own.is_in_parts = True
        own.left = None if self._headers is None else body_length(self._headers)

    def _has_given_head(self) -> bool:
        return hasattr(self, "_write")

    def __call__(self, data: bytes) -> object:
        """The `write` that `start_response` returns, for applications that cannot return an iterable."""
        own = self.particulars
        if not own.is_in_parts:
            self._look_into_head(own)
        if own.left is not None:
            self._give_head()
        self.begins()
        if not self._has_given_head():
            raise AssertionError("write was called before start_response (PEP 3333)")
        try:
            written = self._write(data)
        except (AssertionError, TypeError, ValueError):  # what was to be written is nothing that can be
            raise
        except Exception:
            own.client_gone = True
            raise
        if own.left is not None and not self.settled:
            own.left -= len(data)
            if own.left <= 0:
                self.ended()
        return written

    def hands_over(self, part: bytes) -> None:
        """The server is about to get a part of the body. With the last one that its head promises the call is settled."""
        began_us: int | None = None
        own = self.particulars
        if not part:
            self._give_head()
        elif not own.has_begun:
            began_us = self.begins()
        if own.left is not None and not self.settled:
            own.left -= len(part)
            if own.left <= 0:
                self.ended(began_us)

    def _hands_over_whole(self) -> None:
        """The server gets all of the body at once: the response begins, and that was the call."""
        now_us = self.begins()
        if not self.settled:  # `write` may have sent it all
            self.ended(now_us)

    def _give_head(self) -> None:
        """Give the server the head. Where the application gave none, the server makes an error of that."""
        if self._headers is not None and not self._has_given_head():
            self._write = self._start_response(self._status_line, self._with_fields(self._headers))

    def begins(self) -> int | None:
        """The response begins: nothing can take its place any more. Returns the present, where that was looked up."""
        own = self.particulars
        if own.has_begun:
            return None
        self._give_head()
        own.has_begun = True
        return self._take_start_time()

    def _take_start_time(self) -> int | None:
        guarded = self._guarded
        if self.response_us is not None or (self.deadline_us is None and not guarded.times_start):
            return None
        self.response_us = now_us = guarded.pipeline.clock.now_us()
        return now_us

    def _with_fields(self, headers: Headers) -> Headers:
        limiters = self._guarded.quota_limiters
        return [*headers, *ratelimit_fields([limiter.quota(self) for limiter in limiters])] if limiters else headers

    def _release_stream(self) -> None:
        """An event stream votes now, before its first event, and its deadline ends here unless it was asked to hold."""
        self.particulars  # noqa: B018  # it has begun already, which the usual way would not know
        self._take_start_time()
        self.permit.vote(self.judge_head(), self._guarded.pipeline.clock.now_us())
        if not self._guarded.streams_have_deadline:
            self.deadline_us = None

    def _give(self, answer: Answer) -> list[bytes]:
        if self._has_given_head():
            self._start_response(answer.status_line, [*answer.headers], sys.exc_info())
        else:
            self._start_response(answer.status_line, [*answer.headers])
        return [] if self.environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def broke_off(self, error: BaseException) -> list[bytes] | None:
        """The application raised. Returns what to send in the place of its response, None where the error goes on to the server."""
        if self.settled:
            return None
        own = self._particulars
        is_too_late = own is not None and (own.has_begun or (self._has_given_head() and own.left is not None))
        refusal = None if is_too_late else relayed_in(error)
        answer = None if refusal is None else self.as_recorded(partial(self.answers.to, refusal, own=False))
        self.settle_raised(error, judge_error if answer is None else judge_relayed)
        return None if answer is None else self._give(answer)
