"""Whether a task waits for a worker thread.

A plain `def` handler runs in a thread of anyio's. Cancelling the task that waits for it would free its place among the threads
while it runs on, and the next expired request would start another: such a task is answered for, but not cancelled.
"""

from __future__ import annotations

import asyncio
import gc
from types import AsyncGeneratorType
from typing import Any, Final

_WAITS_FOR_WORKER: Final = "run_sync_in_worker_thread"


def waits_for_thread(task: asyncio.Task[Any]) -> bool:
    """Follow what `task` awaits, and say whether a function runs for it in one of anyio's worker threads.

    One that still waits for a free thread does not: it can be cancelled, and its function is never called.
    """
    awaited: Any = task.get_coro()
    while awaited is not None:
        inner = _awaited_by(awaited)
        code = getattr(awaited, "cr_code", None)
        if code is not None and code.co_name == _WAITS_FOR_WORKER:
            return not hasattr(inner, "cr_code")  # it awaits the thread's future, no more the coroutine of the free place
        awaited = inner
    return False


def _awaited_by(awaitable: Any) -> Any:
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if hasattr(awaitable, name):
            return getattr(awaitable, name)
    # A step of an asynchronous generator, such as of a streamed body, does not tell whose step it is. The collector knows.
    return next((known for known in gc.get_referents(awaitable) if isinstance(known, AsyncGeneratorType)), None)
