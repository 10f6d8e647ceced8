"""One WSGI request on its way through a pipeline and the application: a slotted object that is also its call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import Token
from functools import partial
from typing import Any, TypeVar

from resilience import Rejected
from resilience.edges import (
    ABANDONED,
    Answer,
    Answers,
    Call,
    Guarded,
    Outcome,
    Permit,
    SoleCall,
    drive,
    judge_error,
    judge_relayed,
    ratelimit_fields,
    read_inbound,
    relayed_in,
    settle_abandoned,
    settle_error,
)
from resilience.integrations.wsgi.body import Body
from resilience.integrations.wsgi.current import get_current, reset_current, set_current
from resilience.integrations.wsgi.request import RequestCall, inbound_headers
from resilience.integrations.wsgi.response import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EVENT_STREAM,
    LENGTH_SIZE,
    STREAM_SIZE,
    TYPE_SIZE,
    body_length,
    has_no_body,
    is_file,
    is_killed,
    judged,
)
from resilience.integrations.wsgi.types import App, Environ, Headers, StartResponse, Write
from resilience.integrations.wsgi.upload import Upload, upload_of

T = TypeVar("T")


class HttpExchange(RequestCall, SoleCall):
    """Admits the request, runs the application, settles when its response ends, answers refusals.

    A head that does not tell the length of its body is kept until the first part is there. Until then another can take its place,
    with a server too that would add the headers of the second to those of the first (gunicorn does).

    The call is the current one only while code of the application runs: a server that forgets `close()` leaves nothing behind in
    its thread.

    Where nobody records it and no layer needs a driver it is its own permit. One thread at a time has it: the server's.

    Every request pays for what the usual one passes through, and pays the more the more places that is in: what a framework does
    between two of them leaves the processor none of ours. So `run`, `start_response`, `hands_over_last` and `Body` say in one place
    each what the usual response needs, and leave all others to the methods that say it once.
    """

    __slots__ = (
        "_client_gone",
        "_expired",
        "_guarded",
        "_has_begun",
        "_has_given_head",
        "_head",
        "_is_in_parts",
        "_is_usual",
        "_permit",
        "_start_response",
        "_upload",
        "_write",
        "left",
        "within",
    )
    _write: Write  # the server's, once it has the head

    def __init__(self, guarded: Guarded, environ: Environ, start_response: StartResponse) -> None:
        # What `Call` writes, written out: it is made for every request.
        self.name = "the request"
        self.held = []
        self.now_us = self.attempt = 0
        self.deadline_counts = True
        self.settled = self.retrying = False
        self.key = self.cost = self.timeout_s = self.deadline_us = self.response_us = None
        self.parent = self.pipeline = self.error = self.status = self.trace = None
        self.environ = environ
        self._guarded = guarded
        self._start_response = start_response
        self._permit: Permit | None = None  # None: it is its own
        self._is_usual = True  # whether only its head and `error` can say how it ended
        self._head: tuple[str, Headers, str | None] | None = None  # what it begins with; the length that the headers tell
        self.left: int | None = None  # bytes of the body that are still to come, where it comes by and by and its length is known
        self._has_begun = False  # whether a part of the body was handed over: then nothing can take its place any more
        self._is_in_parts = False  # whether it comes by and by: only then does it matter how long it is
        self._has_given_head = self._client_gone = self._expired = False
        self._upload: Upload | None = None
        self.within: Call | None = None

    @property
    def answers(self) -> Answers:
        return self._guarded.answers

    def run(self, app: App) -> Iterable[bytes]:  # noqa: C901, PLR0912, PLR0915  # written out: every request goes through here
        """Serve the request: returns the body of its response."""
        if ABANDONED:
            settle_abandoned()
        guarded, environ = self._guarded, self.environ
        says_more = not environ.keys().isdisjoint(guarded.telling_environ)
        if says_more and not environ.keys().isdisjoint(guarded.inbound_environ):
            read_inbound(guarded, self, inbound_headers(environ, guarded.inbound_environ))
        try:
            if not guarded.pipeline.enter(self):
                self._is_usual = False
                self._permit = self._recorded(self._drive)
        except Rejected as refusal:
            self._end_span()
            return self._give(self.answers.to(refusal, own=True))
        except BaseException:
            self._end_span()
            raise
        body: Iterable[bytes] | None = None
        try:
            if says_more and (upload := upload_of(environ)) is not None:
                self._upload, self._is_usual = upload, False
            mark = set_current(self)
            try:
                if self.trace is None:
                    body = app(environ, self.start_response)
                else:
                    body = self._recorded(partial(app, environ, self.start_response))
            finally:
                within = get_current()
                if within is not self:
                    self.within = within
                reset_current(mark)
            kind = type(body)
            if kind is list or kind is tuple or ("wsgi.file_wrapper" in environ and is_file(body, environ)):
                # The whole of it is handed over here: the server may look at its length, or send the file by itself.
                self.hands_over_last()
                return body
            # It comes by and by: its length matters. Where the head tells that, it need not wait for the first part.
            self._is_in_parts = True
            head = self._head
            if head is not None and not self._has_given_head:
                status, headers, told = head
                if told is not None:
                    self.left = body_length(told, headers)
                    if self.left is not None:
                        start = self._start_response  # called so, since CPython looks up longer what is called as a method
                        self._write = start(status, self._with_fields(headers) if guarded.quota_limiters else headers)
                        self._has_given_head = True
            return Body(self, body)
        except BaseException as error:
            instead = self.broke_off(error)
            if body is not None and hasattr(body, "close"):
                body.close()  # no server will
            if instead is None:
                raise
            return instead

    def _drive(self) -> Permit:
        pipeline = self._guarded.pipeline
        outer = pipeline.outer
        return drive(outer.steps(self), pipeline.clock) if outer.has_effects else outer.admit(self)

    def _recorded(self, step: Callable[[], T]) -> T:
        """Do one step under the call's own span, where it has one."""
        trace = self.trace
        if trace is None:
            return step()
        trace.enter()
        try:
            return step()
        finally:
            trace.exit()

    def as_current(self, step: Callable[[], T]) -> T:
        """Do one step of the application's work as the current call, or within the one that an earlier step has begun."""
        if self.settled:
            return step()
        mark = set_current(self.within or self)
        try:
            return step() if self.trace is None else self._recorded(step)
        finally:
            self.leave(mark)

    def leave(self, mark: Token[Call | None]) -> None:
        """The application is done with a step. What it left as the current call is so in its next one too."""
        within = get_current()
        if within is not self:
            self.within = within
        elif self.within is not None:
            self.within = None
        reset_current(mark)

    # --- the response -------------------------------------------------------------------------------------------------------

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        """The application's `start_response`."""
        if self._head is not None:
            try:
                if not exc_info:
                    raise AssertionError("start_response was called before, and only an error may replace what it began (PEP 3333)")
                if self._has_given_head:  # whether it is too late is for the server to say
                    self._write = self._start_response(status, self._with_fields(headers), exc_info)
            finally:
                exc_info = None  # its traceback may refer to this frame
        own_copy = [*headers]
        length, is_stream = None, False
        for name, value in own_copy:
            size = len(name)
            if size == LENGTH_SIZE:
                if name == "Content-Length" or name.lower() == CONTENT_LENGTH:
                    length = value  # only where the body comes by and by it is looked into
            elif size == TYPE_SIZE and (name == "Content-Type" or name.lower() == CONTENT_TYPE):
                # Most types are shorter, or differ in their sixth letter.
                is_stream = len(value) >= STREAM_SIZE and value[5] in "eE" and value.lower().startswith(EVENT_STREAM)
        self._head = status, own_copy, length
        if self._is_in_parts:
            self._find_length()
        if is_stream:
            self._release_stream()
        return self

    def _find_length(self) -> None:
        head = self._head
        self.left = None if head is None or head[2] is None else body_length(head[2], head[1])

    def __call__(self, data: bytes) -> object:
        """The `write` that `start_response` returns, for applications that cannot return an iterable."""
        self._is_usual = False
        if not self._is_in_parts:
            self._is_in_parts = True
            self._find_length()
        if self.left is not None:
            self._give_head()
        self.begins()
        if not self._has_given_head:
            raise AssertionError("write was called before start_response (PEP 3333)")
        try:
            written = self._write(data)
        except (AssertionError, TypeError, ValueError):  # what was to be written is nothing that can be
            raise
        except Exception:
            self._client_gone = True
            raise
        if self.left is not None and not self.settled:
            self.left -= len(data)
            if self.left <= 0:
                self.ended()
        return written

    def hands_over(self, part: bytes) -> None:
        """The server is about to get a part of the body. With the last one that its head promises the call is settled."""
        began_us: int | None = None
        if not part:
            self._give_head()
        elif not self._has_begun:
            began_us = self.begins()
        if self.left is not None and not self.settled:
            self.left -= len(part)
            if self.left <= 0:
                self.ended(began_us)

    def hands_over_last(self) -> None:
        """The server gets all of the body, or what was left of it: the response begins, where it has not, and that was the call."""
        head = self._head
        if head is None or self.error is not None or not self._is_usual:
            now_us = self.begins()
            if not self.settled:  # `write` may have sent it all
                self.ended(now_us)
            return
        # `begins`, `ended` and `_judge` of the usual response, written out.
        guarded = self._guarded
        now_us, response_us = None, self.response_us
        if not self._has_begun:
            if not self._has_given_head:
                status, headers, _ = head
                start = self._start_response
                self._write = start(status, self._with_fields(headers) if guarded.quota_limiters else headers)
                self._has_given_head = True
            self._has_begun = True
            if response_us is None and (self.deadline_us is not None or guarded.times_start):
                self.response_us = response_us = now_us = guarded.pipeline.clock.now_us()
        deadline_us = self.deadline_us
        if deadline_us is not None and response_us is not None and response_us > deadline_us:
            self.ended(now_us)
            return
        self.within = None
        self.status, outcome = judged(head[0])
        self.settle(outcome, now_us)

    def _give_head(self) -> None:
        """Give the server the head. Where the application gave none, the server makes an error of that."""
        head = self._head
        if head is not None and not self._has_given_head:
            self._write = self._start_response(head[0], self._with_fields(head[1]))
            self._has_given_head = True

    def begins(self) -> int | None:
        """The response begins: nothing can take its place any more. Returns the present, where that was looked up."""
        if self._has_begun:
            return None
        self._give_head()
        self._has_begun = True
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
        self._take_start_time()
        (self._permit or self).vote(self._judge(), self._guarded.pipeline.clock.now_us())
        if not self._guarded.streams_have_deadline:
            self.deadline_us = None

    def _give(self, answer: Answer) -> list[bytes]:
        if self._has_given_head:
            self._start_response(answer.status_line, [*answer.headers], sys.exc_info())
        else:
            self._start_response(answer.status_line, [*answer.headers])
        return [] if self.environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    # --- settling -----------------------------------------------------------------------------------------------------------

    def ended(self, now_us: int | None = None) -> None:
        """The whole body is handed over. `now_us` is the present, where that is known."""
        if self.trace is not None:
            self._settle(partial(self._settle_by_head, now_us))  # a lambda would cost those too that are not recorded
            return
        try:
            (self._permit or self).settle(self._judge(), now_us)
        finally:
            self._let_go()

    def _settle_by_head(self, now_us: int | None) -> None:
        (self._permit or self).settle(self._judge(), now_us)

    def closed(self) -> None:
        """The server is done with the response. Before its end that means that the client has gone, if there was more to send."""
        if not self.settled:
            self._settle(lambda: (self._permit or self).settle(self._judge_unfinished()))

    def broke_off(self, error: BaseException) -> list[bytes] | None:
        """The application raised. Returns what to send in the place of its response, None where the error goes on to the server."""
        if self.settled:
            return None
        is_too_late = self._has_begun or (self._has_given_head and self.left is not None)
        refusal = None if is_too_late else relayed_in(error)
        answer = None if refusal is None else self._recorded(partial(self.answers.to, refusal, own=False))
        self._settle(lambda: self._settle_error(error, judge_error if answer is None else judge_relayed))
        return None if answer is None else self._give(answer)

    def _settle_error(self, error: BaseException, judge: Callable[[Call, BaseException], Outcome]) -> None:
        if self.deadline_us is not None and self._guarded.pipeline.clock.now_us() >= self.deadline_us:
            self._count_expired()  # that is how it ended, whoever was first to say so
        if self.error is None and (self._has_client_gone() or is_killed(error)):
            (self._permit or self).settle(Outcome.IGNORED)
        else:
            settle_error(self._permit or self, error, judge)

    def _settle(self, step: Callable[[], object]) -> None:
        try:
            self._recorded(step)
        finally:
            self._let_go()
            self._end_span()

    def _let_go(self) -> None:
        """What refers back to the call goes, so that it need not wait for the collector."""
        self._permit = self.error = self.within = None

    def _end_span(self) -> None:
        trace, self.trace = self.trace, None
        if trace is not None:
            trace.finish()

    def _judge(self) -> Outcome:
        if self.response_us is not None and self.deadline_us is not None and self.response_us > self.deadline_us:
            self._count_expired()  # it cannot be stopped and passes, but its caller has gone
        if self.error is not None:  # this, or a refusal that the framework's handler turned into this response
            return judge_relayed(self, self.error)
        if self._client_gone or (self._upload is not None and self._upload.is_cut_short):
            return Outcome.IGNORED
        head = self._head
        if head is None:
            return Outcome.FAILED  # the server makes an error of that
        self.status, outcome = judged(head[0])
        return outcome

    def _judge_unfinished(self) -> Outcome:
        if self._head is None:
            is_known = self._has_begun  # a body without a head, which the server has found out
        else:
            is_known = self._came_late() or has_no_body(self.environ, self._head[0])
        return self._judge() if is_known else Outcome.IGNORED

    def _has_client_gone(self) -> bool:
        return self._client_gone or (self._upload is not None and self._upload.is_cut_short)

    def _came_late(self) -> bool:
        return self.deadline_us is not None and self.response_us is not None and self.response_us > self.deadline_us

    def _count_expired(self) -> None:
        timeout = self._guarded.pipeline.outer.timeout
        if timeout is not None and not self._expired:
            self._expired = True
            self.error = timeout(self)
