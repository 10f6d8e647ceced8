"""How a WSGI request ends: what that shows, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from resilience.edges import Answers, Call, Guarded, Outcome, Permit, SoleCall, judge_error, judge_relayed, settle_error
from resilience.integrations.wsgi.request import RequestCall
from resilience.integrations.wsgi.response import has_no_body, is_killed, judged
from resilience.integrations.wsgi.types import Headers
from resilience.integrations.wsgi.upload import Upload

T = TypeVar("T")


class Particulars:
    """What few exchanges have, and the others need not make room for.

    permit: of a call that is recorded, or that a driver has admitted; others are their own.
    upload: the body of the request, which its client may break off.
    within: a call that the application has begun within this one, and not ended yet.
    is_in_parts: whether the body of the response comes by and by. left: then so many bytes are still to come, where that is known.
    has_begun: whether a part of it was handed over: then nothing can take its place any more.
    attempt, error: of the call.
    """

    __slots__ = ("attempt", "client_gone", "error", "expired", "has_begun", "is_in_parts", "left", "permit", "upload", "within")

    def __init__(self) -> None:
        self.permit: Permit | None = None
        self.upload: Upload | None = None
        self.within: Call | None = None
        self.left: int | None = None
        self.attempt = 0
        self.error: BaseException | None = None
        self.client_gone = self.expired = self.has_begun = self.is_in_parts = False


class Ending(RequestCall, SoleCall):
    """The second half of an exchange: settles exactly once."""

    __slots__ = ("_guarded", "_headers", "_particulars", "_status_line")
    name = "the request"
    key = cost = None  # a limit has key and cost from the request, not from its call
    retrying = False  # what a server is asked is not tried again
    _guarded: Guarded
    _status_line: str  # where there are headers
    _headers: Headers | None
    _particulars: Particulars | None  # None: only its head can say how it ended

    @property
    def answers(self) -> Answers:
        return self._guarded.answers

    @property
    def particulars(self) -> Particulars:
        """Its own, which it has from now on."""
        if self._particulars is None:
            self._particulars = Particulars()
        return self._particulars

    @property
    def attempt(self) -> int:
        own = self._particulars
        return 0 if own is None else own.attempt

    @attempt.setter
    def attempt(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.particulars.attempt = attempt

    @property
    def error(self) -> BaseException | None:
        own = self._particulars
        return None if own is None else own.error

    @error.setter
    def error(self, error: BaseException | None) -> None:
        if error is not self.error:
            self.particulars.error = error

    @property
    def permit(self) -> Permit | SoleCall:
        """What settles it."""
        own = self._particulars
        return self if own is None or own.permit is None else own.permit

    @property
    def innermost(self) -> Call:
        """The call that the next step of the application belongs to."""
        own = self._particulars
        return self if own is None else own.within or self

    # --- settling -----------------------------------------------------------------------------------------------------------

    def ended(self, now_us: int | None = None) -> None:
        """The whole body is handed over. `now_us` is the present, where that is known."""
        if self.trace is not None:
            self.settle_by(partial(self._settle_by_head, now_us))  # a lambda would cost those too that are not recorded
            return
        try:
            self._settle_by_head(now_us)
        finally:
            self._let_go()

    def _settle_by_head(self, now_us: int | None) -> None:
        self.permit.settle(self.judge_head(), now_us)

    def closed(self) -> None:
        """The server is done with the response. Before its end that means that the client has gone, if there was more to send."""
        if not self.settled:
            self.settle_by(lambda: self.permit.settle(self._judge_unfinished()))

    def settle_raised(self, error: BaseException, judge: Callable[[Call, BaseException], Outcome] = judge_error) -> None:
        """The application raised; `judge` says what that shows."""
        self.settle_by(lambda: self._settle_raised(error, judge))

    def _settle_raised(self, error: BaseException, judge: Callable[[Call, BaseException], Outcome]) -> None:
        if self.deadline_us is not None and self._guarded.pipeline.clock.now_us() >= self.deadline_us:
            self._count_expired()  # that is how it ended, whoever was first to say so
        if self.error is None and (self._has_client_gone() or is_killed(error)):
            self.permit.settle(Outcome.IGNORED)
        else:
            settle_error(self.permit, error, judge)

    def settle_by(self, step: Callable[[], object]) -> None:
        """Settle by `step`, and let go of the call."""
        try:
            self.as_recorded(step)
        finally:
            self._let_go()
            self.end_span()

    def _let_go(self) -> None:
        """What refers back to the call goes, so that it need not wait for the collector."""
        if self._particulars is not None:
            self._particulars.permit = self._particulars.within = self._particulars.error = None

    def as_recorded(self, step: Callable[[], T]) -> T:
        """Do one step under the call's own span, where it has one."""
        trace = self.trace
        if trace is None:
            return step()
        trace.enter()
        try:
            return step()
        finally:
            trace.exit()

    def end_span(self) -> None:
        """End the call's own span, where it has one."""
        trace, self.trace = getattr(self, "trace", None), None  # a call that did not even begin has none
        if trace is not None:
            trace.finish()

    # --- what it shows ------------------------------------------------------------------------------------------------------

    def judge_head(self) -> Outcome:
        """What the response shows, by its head and its time, or by what the application says it ended with."""
        if self.came_late():
            self._count_expired()  # it cannot be stopped and passes, but its caller has gone
        if self.error is not None:  # this, or a refusal that the framework's handler turned into this response
            return judge_relayed(self, self.error)
        if self._has_client_gone():
            return Outcome.IGNORED
        if self._headers is None:
            return Outcome.FAILED  # the server makes an error of that
        self.status, outcome = judged(self._status_line)
        return outcome

    def _judge_unfinished(self) -> Outcome:
        if self._headers is None:
            is_known = self.particulars.has_begun  # a body without a head, which the server has found out
        else:
            is_known = self.came_late() or has_no_body(self.environ, self._status_line)
        return self.judge_head() if is_known else Outcome.IGNORED

    def _has_client_gone(self) -> bool:
        own = self._particulars
        return own is not None and (own.client_gone or (own.upload is not None and own.upload.is_cut_short))

    def came_late(self) -> bool:
        """Whether the response began after the deadline."""
        return self.deadline_us is not None and self.response_us is not None and self.response_us > self.deadline_us

    def _count_expired(self) -> None:
        timeout = self._guarded.pipeline.outer.timeout
        if timeout is not None and not self.particulars.expired:
            self.particulars.expired = True
            self.error = timeout(self)
