"""Calls with a retry that nobody records: the first try in plain code, for most calls have no second; a plan for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from resilience.call import Call, Outcome, Permit
from resilience.drivers import adrive, drive
from resilience.layers.base import Effect
from resilience.layers.retry.layer import Retry, Tries
from resilience.plan import CallPlan, Plan, first_attempt, held
from resilience.stage import Stage

T = TypeVar("T")


def run_tries(plan: CallPlan, work: Callable[[], T]) -> T:
    """Do what `plan` says in this thread. Only where no layer has effects."""

    def tries() -> T:
        result: T | None = None
        error: Exception | None = None
        tries, attempt = plan.first_try(plan.call)
        try:
            result = plan.inner.run(attempt, work)
        except Exception as caught:  # noqa: BLE001  # judged below, and raised again if it is the last
            error = caught
        clock = plan.inner.clock
        now_us = clock.now_us()
        try:
            done: T = (
                drive(plan.more_tries(tries), clock, work)
                if tries.again(error, result, now_us)
                else tries.finish(error, result, now_us)
            )
            return done
        finally:
            error = None  # its traceback refers to this frame

    return plan.outer.run(plan.call, tries)


async def arun_tries(plan: CallPlan, work: Callable[[], Awaitable[T]]) -> T:
    """Do what `plan` says in this task. Only where no layer has effects."""

    async def tries() -> T:
        result: T | None = None
        error: Exception | None = None
        tries, attempt = plan.first_try(plan.call)
        try:
            result = await plan.inner.arun(attempt, work, plan.timeout)
        except Exception as caught:  # noqa: BLE001  # judged below, and raised again if it is the last
            error = caught
        clock = plan.inner.clock
        now_us = clock.now_us()
        try:
            done: T = (
                await adrive(plan.more_tries(tries), clock, work)
                if tries.again(error, result, now_us)
                else tries.finish(error, result, now_us)
            )
            return done
        finally:
            error = None  # its traceback refers to this frame

    return await plan.outer.arun(plan.call, tries, None)


class DetachedTry:
    """The first try of a call whose tries end elsewhere: admitted here, sent by whoever made this.

    Only where nobody records the call and no layer has effects. `succeeded` is the end of most calls; whatever else comes of the
    try, `rest` is the plan of all that follows: it begins with that try on its way, and takes in how it ends.

    Args:
        whole: the call from its beginning, for where it must be tried again.
        outer, retry, inner: the pipeline's layers before its retry, that retry, and those after it.
        call: begun by the pipeline's `begin`.

    Raises:
        Rejected: a layer before the retry refused.
    """

    __slots__ = ("_outer", "_permit", "_retry", "_tries", "_try_permit", "_whole", "attempt", "refusal")

    def __init__(self, whole: Callable[[], CallPlan], outer: Stage, retry: Retry | None, inner: Stage, call: Call) -> None:
        self._whole = whole
        self._outer = outer
        self._retry = retry
        self._permit = outer.admit(call)
        self.refusal: Exception | None = None  # of a layer after the retry: nothing is to be sent
        self.attempt: Call
        if retry is None:
            self.attempt = call
            return
        # What counts the tries is made when there are more of them, unless what is around the call now must be known then.
        self._tries: Tries | None = None
        if call.parent is not None or call.attempt:
            self._tries = whole().begin_tries()
        self.attempt = attempt = first_attempt(call, inner)
        self._try_permit: Permit | None = None
        try:
            self._try_permit = inner.admit(attempt)
        except Exception as error:  # noqa: BLE001  # judged by the plan: it may be worth another try
            self.refusal = error
        except BaseException:
            self._permit.settle(Outcome.IGNORED)
            raise

    def succeeded(self, response: Any, status: int) -> None:
        """Its response has come whole, with this status, and is not worth another try: the end of the call."""
        now_us = self._outer.clock.now_us()
        retry = self._retry
        if retry is not None and self._try_permit is not None:
            attempt = self.attempt
            attempt.status = status
            attempt.response_us = now_us
            self._try_permit.settle(Outcome.OK, now_us)
            if self._tries is None:
                retry.succeeded_at_once(now_us)
            else:
                self._tries.again(None, response, now_us)
        call = self._permit.call
        call.status = status
        call.response_us = now_us
        self._permit.settle(Outcome.OK, now_us)

    def rest(self) -> Plan:
        """The plan of all that is left of the call."""
        plan = self._whole()
        if self._retry is None:
            return held(self._permit, plan.outer, plan.call, plan.once, plan.results)
        tries = self._tries or plan.begin_tries()
        return held(self._permit, plan.outer, plan.call, lambda _: self._rest_of(plan, tries), plan.results)

    def _rest_of(self, plan: CallPlan, tries: Tries) -> Plan:
        result, error = yield from self._end(plan)
        return (yield from plan.after_first(tries, error, result))

    def _end(self, plan: CallPlan) -> Generator[Effect, Any, tuple[Any, Exception | None]]:
        permit = self._try_permit
        if permit is None:
            refusal, self.refusal = self.refusal, None  # its traceback refers to this object
            return None, refusal
        try:
            return (yield from held(permit, plan.inner, self.attempt, plan.work, plan.results)), None
        except Exception as caught:  # noqa: BLE001  # judged, and raised again if it is the last
            return None, caught
