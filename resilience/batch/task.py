"""The tasks that tries are: quick to make, and none that ends without a word where somebody cancels it before its first step."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any, Final, Protocol

from resilience.batch.flight import Flight

_PLAIN_CREATE_TASK: Final = asyncio.BaseEventLoop.create_task
_NOT_AT_WORK: Final = (inspect.CORO_CREATED, inspect.CORO_CLOSED)


def is_at_work(task: asyncio.Task[None]) -> bool:
    """Whether a task has taken its first step. One that is cancelled before never does, and none of its code runs."""
    return inspect.getcoroutinestate(task.get_coro()) not in _NOT_AT_WORK  # type: ignore[arg-type]  # it is a coroutine


class Watching(Protocol):
    """The batch that a try is a part of."""

    def vanished(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """A task has ended, whether its try has said so or not."""


class Try(asyncio.Task[None]):
    """A task that is watched once somebody cancels it before its first step. To watch each would cost too much."""

    __slots__ = ("flight", "run")
    flight: Flight
    run: Watching

    def cancel(self, msg: Any = None) -> bool:
        """As any task."""
        if not is_at_work(self):
            self.add_done_callback(functools.partial(self.run.vanished, self.flight))
        return super().cancel(msg)


def is_plain(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` would do no more than make a task when it is asked for one. To ask it costs as much as a breaker."""
    return type(loop).create_task is _PLAIN_CREATE_TASK and loop.get_task_factory() is None and not loop.get_debug()
