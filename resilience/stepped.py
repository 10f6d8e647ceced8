"""A plan that is driven by hand: it stands still while a try is on its way, and goes on where somebody learns what came of it."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final

from resilience.clock import Clock
from resilience.drivers import aperform, perform
from resilience.layers.base import Attempt, Effect
from resilience.plan import Plan

_STANDING: Final[set[SteppedPlan]] = set()
"""Plans that have begun and not ended. One to which nobody else refers is closed by whoever learns of it, not by the collector: it
may run while this very thread holds a lock, and in any context."""


class SteppedPlan:
    """Goes on in any thread or task, one at a time. All its steps see one context, a copy of the one in which it was made.

    `first`, `returned` and `raised` take one step each: they return the effect that the plan asks for next, or None when it has
    come to its `result`, and raise what it ends with. `until_attempt` performs effects up to the next try.
    """

    __slots__ = ("_clock", "_context", "_plan", "is_pending", "result")

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self._context = copy_context()
        self.is_pending = True
        self.result: Any = None

    def first(self) -> Effect | None:
        """The first step."""
        _STANDING.add(self)
        return self._step(self._plan.__next__)

    def returned(self, result: Any) -> Effect | None:
        """A try, or whatever was asked for, has returned `result`."""
        return self._step(self._plan.send, result)

    def raised(self, error: BaseException) -> Effect | None:
        """A try, or whatever was asked for, has raised `error`."""
        return self._step(self._plan.throw, error)

    def until_attempt(self, effect: Effect | None) -> Attempt | None:
        """Go on from `effect` up to the next try, blocking this thread."""
        while effect is not None and not isinstance(effect, Attempt):
            try:
                answer = perform(effect, self._clock, None)
            except BaseException as error:  # noqa: BLE001  # it goes on inside the plan, which raises it again
                effect = self.raised(error)
            else:
                effect = self.returned(answer)
        return effect

    async def auntil_attempt(self, effect: Effect | None) -> Attempt | None:
        """Go on from `effect` up to the next try, suspending this task."""
        while effect is not None and not isinstance(effect, Attempt):
            try:
                answer = await aperform(effect, self._clock, None)
            except BaseException as error:  # noqa: BLE001  # it goes on inside the plan, which raises it again
                effect = self.raised(error)
            else:
                effect = self.returned(answer)
        return effect

    @property
    def context(self) -> Context:
        """The context of the plan, in which the span of the try is the current one."""
        return self._context

    def close(self) -> None:
        """Give it up: what it holds is settled as ignored. Does nothing while another thread is at work in it; that ends it."""
        if self.is_pending:
            try:
                self._context.run(self._plan.close)
            except (RuntimeError, ValueError):  # the context is entered, or the plan is running
                return
            self._is_over()

    def _step(self, step: Callable[..., Effect], *args: Any) -> Effect | None:
        try:
            return self._context.run(step, *args)
        except StopIteration as done:
            self._is_over()
            self.result = done.value
            return None
        except BaseException:
            self._is_over()
            raise

    def _is_over(self) -> None:
        self.is_pending = False
        _STANDING.discard(self)


def _close_standing() -> None:
    """At exit: the collector would close them in other contexts, and complain of each."""
    for plan in tuple(_STANDING):
        plan.close()


atexit.register(_close_standing)
