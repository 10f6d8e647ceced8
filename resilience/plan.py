"""One call through a whole pipeline as a plan of effects, the same for threads and for tasks."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from resilience.call import ADMITTED, CURRENT, AttemptCall, Call, Decision, Outcome, Permit
from resilience.clock import US_PER_S
from resilience.drivers import Timeout
from resilience.layers.base import Attempt, Discard, Effect, Wait
from resilience.layers.breaker.classify import judge_error
from resilience.layers.retry.layer import Retry, Tries
from resilience.layers.retry.verdict import Judge, Verdict
from resilience.stage import Stage, settle_error, settle_success

Plan = Generator[Effect, Any, Any]


class Results(Protocol):
    """Takes over what outlives the tries that return it, such as responses whose bodies are read afterwards."""

    def least_us(self) -> int:
        """The microseconds that a try must have before the deadline of the call, or it is not sent."""

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """Say whether a try is worth another."""

    def outcome(self, call: Call, error: BaseException) -> Outcome:
        """Say what a try that raised shows of the dependency."""

    def keep(self, permit: Permit, result: Any) -> None:
        """A try, or after it the whole call, has returned: `permit` is settled by whoever ends `result`."""

    def discard(self, result: Any) -> Any:
        """Give up what a try returned and settle its permit, since there will be another try. Awaited in a task."""


class CallPlan:
    """The plan of one call: `run` yields what the driver must do, returns the call's result or raises its error."""

    __slots__ = ("_judge", "_name", "call", "inner", "outer", "results", "retry")

    def __init__(
        self,
        name: str,
        outer: Stage,
        retry: Retry | None,
        inner: Stage,
        call: Call,
        judge: Judge | None = None,
        results: Results | None = None,
    ) -> None:
        self._name = name
        self.outer = outer
        self.retry = retry
        self.inner = inner
        self.call = call
        self._judge = results.judge if judge is None and results is not None else judge
        self.results = results

    @property
    def timeout(self) -> Timeout | None:
        """Makes the error of an attempt whose time runs out."""
        return self.inner.timeout or self.outer.timeout

    def run(self) -> Plan:
        """Admit, work, settle; inside the call's own span where it is recorded and has one."""
        trace = self.call.trace
        if trace is None:
            return (yield from self._admitted())
        trace.enter()
        failure: BaseException | None = None
        try:
            return (yield from self._admitted())
        except BaseException as error:
            failure = error
            raise
        finally:
            trace.exit()
            trace.finish(failure)

    def _admitted(self) -> Plan:
        work = self.once if self.retry is None else self._tries
        return (yield from _settled(self.outer, self.call, work, self.results))

    def once(self, call: Call) -> Plan:
        """The work of a call that is not tried again."""
        return (yield Attempt(call, self.outer.timeout))

    def _tries(self, call: Call) -> Plan:
        tries, attempt = self.first_try(call)
        result, error = yield from self._try(tries, attempt)
        return (yield from self.after_first(tries, error, result))

    def after_first(self, tries: Tries, error: Exception | None, result: Any) -> Plan:
        """What follows once the first try has ended."""
        now_us = self.outer.clock.now_us()
        if tries.again(error, result, now_us):
            yield from self._discard(error, result)
            return (yield from self.more_tries(tries))
        return tries.finish(error, result, now_us)

    def first_try(self, call: Call) -> tuple[Tries, AttemptCall]:
        """Begin to count the tries of `call`."""
        return self.begin_tries(), first_attempt(call, self.inner)

    def begin_tries(self) -> Tries:
        """What counts them."""
        if self.retry is None:
            raise TypeError("a plan without a retry has no tries")
        tries = self.retry.begin(self.call, self._judge)
        if self.results is not None:
            tries.least_us = self.results.least_us
        return tries

    def more_tries(self, tries: Tries) -> Plan:
        """The tries after one that is worth another."""
        clock = self.outer.clock
        while True:
            if tries.delay_us:
                yield Wait(tries.delay_us / US_PER_S, _nothing_reserved)
            result, error = yield from self._try(tries, self._attempt_call(tries, clock.now_us()))
            now_us = clock.now_us()
            if not tries.again(error, result, now_us):
                return tries.finish(error, result, now_us)
            yield from self._discard(error, result)

    def _discard(self, error: Exception | None, result: Any) -> Generator[Effect, Any, None]:
        """Before the wait: a response that nobody will read must not hold its connection for so long."""
        if self.results is not None and error is None:
            yield Discard(self.results.discard, result)

    def _attempt_call(self, tries: Tries, now_us: int) -> AttemptCall:
        attempt = AttemptCall(self.call, self.call.attempt + tries.made, now_us)
        if self.inner.timeout is not None:  # see `first_attempt`
            attempt.deadline_counts = True
        return attempt

    def _try(self, tries: Tries, attempt: Call) -> Generator[Effect, Any, tuple[Any, Exception | None]]:
        trace, policy = attempt.trace, tries.policy
        span = None if trace is None else trace.attempt(tries.made + 1, self._name, policy)
        error: BaseException | None = None
        try:
            return (yield from _settled(self.inner, attempt, self.work, self.results)), None
        except Exception as caught:
            error = caught
            return None, caught
        except BaseException as caught:  # cancelled: never retried
            error = caught
            raise
        finally:
            if span is not None:
                decision = Decision.RETRIED if tries.made else ADMITTED
                attributes = {"resilience.retry.attempt": tries.made + 1, "resilience.retry.delay_s": tries.delay_us / US_PER_S}
                span.end(decision.value, attributes, error)
            error = None  # its traceback refers to this frame

    def work(self, attempt: Call) -> Plan:
        """The work of one try."""
        return (yield Attempt(attempt, self.timeout))


def first_attempt(call: Call, inner: Stage) -> AttemptCall:
    """The first try of `call`, as a call of its own; `inner` are the layers that it passes."""
    call.retrying = True
    attempt = AttemptCall(call, call.attempt, call.now_us)
    if inner.timeout is not None:  # its own time says whether an attempt that runs out of it is evidence
        attempt.deadline_counts = True
    return attempt


def _settled(stage: Stage, call: Call, work: Any, results: Results | None) -> Plan:
    """Pass a stage, do the work as the current call, and settle with how it went, or leave that to `results`."""
    permit = (yield from stage.steps(call)) if stage.has_effects else stage.admit(call)
    return (yield from held(permit, stage, call, work, results))


def held(permit: Permit, stage: Stage, call: Call, work: Any, results: Results | None) -> Plan:
    """The same once the stage has been passed."""
    mark = CURRENT.set(call)
    try:
        result = yield from work(call)
    except BaseException as error:
        settle_error(permit, error, judge_error if results is None else results.outcome)
        raise
    finally:
        CURRENT.reset(mark)
    if results is None:
        settle_success(permit, stage.clock.now_us())
    else:
        results.keep(permit, result)
    return result


def _nothing_reserved() -> None:
    """A wait between tries holds nothing that could be given back."""
