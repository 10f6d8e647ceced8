"""One call through a whole pipeline as a plan of effects, the same for threads and for tasks."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from resilience.call import ADMITTED, CURRENT, AttemptCall, Call, Decision
from resilience.clock import US_PER_S
from resilience.layers.base import Attempt, Effect, Wait
from resilience.layers.retry.layer import Retry, Tries
from resilience.layers.retry.verdict import Judge
from resilience.stage import Stage, settle_error, settle_success

Plan = Generator[Effect, Any, Any]


class CallPlan:
    """The plan of one call: `run` yields what the driver must do, returns the call's result or raises its error."""

    __slots__ = ("_call", "_inner", "_judge", "_name", "_outer", "_retry")

    def __init__(self, name: str, outer: Stage, retry: Retry | None, inner: Stage, call: Call, judge: Judge | None = None) -> None:
        self._name = name
        self._outer = outer
        self._retry = retry
        self._inner = inner
        self._call = call
        self._judge = judge

    def run(self) -> Plan:
        """Admit, work, settle; inside the call's own span where it is recorded and has one."""
        trace = self._call.trace
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
        work = self._once if self._retry is None else self._tries
        return (yield from _settled(self._outer, self._call, work))

    def _once(self, call: Call) -> Plan:
        return (yield Attempt(call, self._outer.timeout))

    def _tries(self, call: Call) -> Plan:
        retry, clock = self._retry, self._outer.clock
        if retry is None:
            raise TypeError("a plan without a retry has no tries")
        call.retrying = True
        tries = retry.begin(call, self._judge)
        while True:
            attempt = AttemptCall(call, call.attempt + tries.made, clock.now_us() if tries.made else call.now_us)
            if self._inner.timeout is not None:  # its own time says whether an attempt that runs out of it is evidence
                attempt.deadline_counts = True
            result, error = yield from self._try(retry, tries, attempt)
            now_us = clock.now_us()
            if not tries.again(error, result, now_us):
                break
            if tries.delay_us:
                yield Wait(tries.delay_us / US_PER_S, _nothing_reserved)
        if error is not None:
            raise tries.final(error, now_us)
        return result

    def _try(self, retry: Retry, tries: Tries, attempt: Call) -> Generator[Effect, Any, tuple[Any, Exception | None]]:
        trace = attempt.trace
        span = None if trace is None else trace.attempt(tries.made + 1, self._name, retry.name)
        error: BaseException | None = None
        try:
            return (yield from _settled(self._inner, attempt, self._attempt)), None
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

    def _attempt(self, attempt: Call) -> Plan:
        return (yield Attempt(attempt, self._inner.timeout or self._outer.timeout))


def _settled(stage: Stage, call: Call, work: Any) -> Plan:
    """Pass a stage, do the work as the current call, and settle with how it went."""
    permit = yield from stage.steps(call)
    mark = CURRENT.set(call)
    try:
        result = yield from work(call)
    except BaseException as error:
        settle_error(permit, error)
        raise
    finally:
        CURRENT.reset(mark)
    settle_success(permit, stage.clock.now_us())
    return result


def _nothing_reserved() -> None:
    """A wait between tries holds nothing that could be given back."""
