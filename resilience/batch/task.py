"""The tasks that tries are: quick to make, and none that ends without a word where somebody cancels it before its first step."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

from resilience.batch.flight import Flight

_PLAIN_CREATE_TASK: Final = asyncio.BaseEventLoop.create_task
_NOT_AT_WORK: Final = (inspect.CORO_CREATED, inspect.CORO_CLOSED)

Work = Coroutine[Any, Any, None]
Vanished = Callable[[Flight, "asyncio.Task[None]"], None]
"""Is told of a task that has ended, whether its try has said so or not."""
Make = Callable[[Flight, Work], "asyncio.Task[None]"]


def is_at_work(task: asyncio.Task[None]) -> bool:
    """Whether a task has taken its first step. One that is cancelled before never does, and none of its code runs."""
    return inspect.getcoroutinestate(task.get_coro()) not in _NOT_AT_WORK  # type: ignore[arg-type]  # it is a coroutine


class Try(asyncio.Task[None]):
    """A task that is watched once somebody cancels it before its first step. To watch each would cost too much."""

    flight: Flight
    vanished: Vanished

    def cancel(self, msg: Any = None) -> bool:
        """As any task."""
        if not is_at_work(self):
            self.add_done_callback(functools.partial(self.vanished, self.flight))
        return super().cancel(msg)


def task_maker(loop: asyncio.AbstractEventLoop, vanished: Vanished) -> Make:
    """Makes tasks of `loop`: where it would do no more than that itself, without asking it, which costs as much as a breaker."""

    def quick(flight: Flight, work: Work) -> asyncio.Task[None]:
        task = Try(work, loop=loop)
        task.flight = flight
        task.vanished = vanished
        return task

    def watched(flight: Flight, work: Work) -> asyncio.Task[None]:
        task = loop.create_task(work)
        task.add_done_callback(functools.partial(vanished, flight))
        return task

    if type(loop).create_task is _PLAIN_CREATE_TASK and loop.get_task_factory() is None and not loop.get_debug():
        return quick
    return watched
