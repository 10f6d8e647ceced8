"""One call that leaves the process, whatever it speaks: its time, its tries, and its permits until its response has ended.

A room for a protocol subclasses `ClientExchange`: it says what the end of a try means, sends one try, and tells
when the response has ended. Until then the permits of the call are kept here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from resilience.call import CURRENT, Call, Outcome, Permit
from resilience.clock import US_PER_S
from resilience.drivers import Timeout
from resilience.edges.abandoned import abandon, settle_abandoned
from resilience.errors import DeadlineExceeded, Rejected
from resilience.layers.breaker.classify import judge_error
from resilience.layers.deadline import DeadlineSettings
from resilience.layers.retry.verdict import FAILURE, RETRYABLE, Verdict
from resilience.layers.timeouts import milliseconds_left
from resilience.pipeline import Pipeline
from resilience.plan import CallPlan, Plan
from resilience.stage import settle_error
from resilience.tries import DetachedTry

_SHORTEST_S: Final = 0.001
_LEAST_US: Final = 1_000
_NO_DEADLINE_LAYER: Final = DeadlineSettings()


class ClientExchange(ABC):
    """One outgoing call through one pipeline.

    Args:
        pipeline: what it goes through.
        call: what its layers see of it.
    """

    sent_us = 0
    """When the last try began, where it has a deadline."""
    _response_us = 0

    def __init__(self, pipeline: Pipeline, call: Call) -> None:
        self.pipeline = pipeline
        self.call = call
        self.attempt: Call = call
        """The last try. Its deadline binds the reading of the response too."""
        self._permits: list[Permit] = []
        self._deadline = pipeline.inner.deadline or pipeline.outer.deadline
        self._settings = _NO_DEADLINE_LAYER if self._deadline is None else self._deadline.settings
        self._retry = pipeline.retry

    def plan(self) -> Plan:
        """All of it up to the start of the response, for the drivers."""
        self.begin()
        return self.whole().run()

    def begin(self) -> bool:
        """Prepare the call. True: nobody records it and no layer has effects, so that a `DetachedTry` will do."""
        settle_abandoned()
        return self.pipeline.begin(self.call) and not self.pipeline.inner.has_effects

    def first_try(self) -> DetachedTry:
        """The first try of a call that has begun.

        Raises:
            Rejected: a layer refused.
        """
        pipeline = self.pipeline
        return DetachedTry(self.whole, pipeline.outer, pipeline.retry, pipeline.inner, self.call)

    def whole(self) -> CallPlan:
        """All of it up to the start of the response."""
        pipeline = self.pipeline
        return CallPlan(pipeline.name, pipeline.outer, pipeline.retry, pipeline.inner, self.call, results=self)

    # --- how the protocol speaks ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def may_repeat(self) -> bool:
        """Whether the call may be sent again, and can be, whole."""

    @abstractmethod
    def judge_response(self, response: Any) -> Verdict:
        """Whether a try that got this response is worth another."""

    @abstractmethod
    def is_connection_error(self, error: BaseException) -> bool:
        """Whether `error` says that the peer could not be reached, or did not answer whole or in time."""

    @abstractmethod
    def is_own_fault(self, error: BaseException) -> bool:
        """Whether `error` says nothing of the peer: nothing was sent, for a reason on this side."""

    @abstractmethod
    def judge_ended(self, status: int) -> Outcome:
        """The outcome of a call whose response has ended with this status."""

    # --- the time of a try ------------------------------------------------------------------------------------------------------

    def begin_time(self) -> int | None:
        """A try begins. Returns the whole milliseconds that its peer may take, less the reserve; None: as long as it likes.

        Raises:
            DeadlineExceeded: nothing is left of its time but what is kept back for the way home. It must not be sent.
        """
        self.attempt = attempt = CURRENT.get() or self.call
        deadline_us = attempt.deadline_us
        if deadline_us is None:
            return None
        self.sent_us = now_us = self.pipeline.clock.now_us()
        remaining_us = deadline_us - now_us
        left_ms = milliseconds_left(remaining_us, self.reserve_us)
        if left_ms <= 0:
            raise self._nothing_left(remaining_us)
        return left_ms

    @property
    def reserve_us(self) -> int:
        """Microseconds kept back of the time of a try, for the way home."""
        return self.reserve_of(self.attempt)

    def reserve_of(self, call: Call) -> int:
        """Microseconds kept back of the time of `call`: of a try, or of all tries."""
        return 0 if self._deadline is None else self._deadline.reserve_us

    def least_us(self) -> int:
        """A try is told whole milliseconds, beside the reserve: with less than one it is not sent."""
        return self.reserve_of(self.call) + _LEAST_US

    def left_s(self) -> float | None:
        """How long the try may still take, in seconds and never quite nothing; None: as long as it likes."""
        deadline_us = self.attempt.deadline_us
        return None if deadline_us is None else max(_SHORTEST_S, (deadline_us - self.pipeline.clock.now_us()) / US_PER_S)

    @property
    def is_over(self) -> bool:
        """Whether the time of the try has run out."""
        deadline_us = self.attempt.deadline_us
        return deadline_us is not None and self.pipeline.clock.now_us() >= deadline_us

    @property
    def timeout(self) -> Timeout | None:
        """Makes the error of a try whose time runs out, and counts it; None where no layer of the pipeline sets it a deadline."""
        return self.pipeline.inner.timeout or self.pipeline.outer.timeout

    def expired(self) -> BaseException:
        """Make the error for a try whose time ran out while it was at work."""
        if self.timeout is not None:
            return self.timeout(self.attempt)
        return DeadlineExceeded(f"the time for {self.call.name} ran out", policy="deadline", reason="expired")

    def _nothing_left(self, remaining_us: int) -> DeadlineExceeded:
        policy = "deadline"
        if self._deadline is not None:
            policy = self._deadline.name
            self._deadline.state.count_expired()
        left_ms, reserve_ms = max(0.0, remaining_us / 1000), self.reserve_us / 1000
        message = f"{policy}: {left_ms:.3g} ms are left, too little beside the reserve of {reserve_ms:.3g} ms: not sent"
        return DeadlineExceeded(message, policy=policy, reason="expired_on_arrival")

    # --- what the plan asks -----------------------------------------------------------------------------------------------------

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """Whether a try is worth another: by its response or error, if the call may be repeated at all."""
        verdict = self.judge_response(result) if error is None else self._of_error(error)
        return FAILURE if verdict.retryable and not self.may_repeat else verdict

    def _of_error(self, error: BaseException) -> Verdict:
        retry = self._retry
        if retry is None or (isinstance(error, DeadlineExceeded) and error.reason == "expired_on_arrival"):
            return FAILURE
        if isinstance(error, Rejected) or retry.names_errors:
            return retry.judge(error, None)
        return self.judge_foreign(error)

    def judge_foreign(self, error: BaseException) -> Verdict:
        """Whether a try that ended with an error of the library is worth another."""
        return RETRYABLE if self.is_connection_error(error) else FAILURE

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """What an error shows of the peer."""
        cause = error.__cause__ if isinstance(error, DeadlineExceeded) else None
        if self.is_own_fault(error) or (cause is not None and self.is_own_fault(cause)):
            return Outcome.IGNORED
        return judge_error(call, error)

    def keep(self, permit: Permit, result: Any) -> None:
        """The response has begun: `permit` stays here until it ends."""
        self._keep(permit, None)

    def _keep(self, permit: Permit, status: int | None) -> int:
        now_us = self.pipeline.clock.now_us()
        call = permit.call
        if not self._permits:
            self._response_us = now_us
        call.status = status
        call.response_us = self._response_us
        call.trace = None  # its spans end with the tries, before the body
        self._permits.append(permit)
        return now_us

    @abstractmethod
    def discard(self, result: Any) -> Any:
        """Settle by `ended`, and give the connection back. Awaited in a task."""

    # --- the end of the response ------------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """The response was read to its end, or closed by whoever had enough of it: its status says how the call went."""
        for permit in self._taken():
            status = permit.call.status
            permit.settle(Outcome.IGNORED if status is None else self.judge_ended(status))

    def broke_off(self, error: BaseException) -> None:
        """Reading the response ended with `error`."""
        for permit in self._taken():
            permit.call.status = None  # the response is not the one that it began to be
            settle_error(permit, error, self.outcome)

    def dropped(self) -> None:
        """Nobody refers to the response any more, and nobody has closed it. For destructors: settled by the next call."""
        if self.is_unsettled:
            abandon(self.ended)

    @property
    def is_unsettled(self) -> bool:
        """Whether something is still to be settled."""
        return bool(self._permits)

    def _taken(self) -> list[Permit]:
        permits, self._permits = self._permits, []
        return permits
