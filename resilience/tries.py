"""Calls with a retry that nobody records: the first try in plain code, for most calls have no second; a plan for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from resilience.drivers import adrive, drive
from resilience.plan import CallPlan

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
