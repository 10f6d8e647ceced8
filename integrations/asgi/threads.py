"""Whether a task waits for a worker thread.

A plain `def` handler runs in a thread of anyio's. Cancelling the task that waits for it would free its place among the threads
while it runs on, and the next expired request would start another: such a task is answered for, but not cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

_WAITS_FOR_WORKER = "run_sync_in_worker_thread"


def waits_for_thread(task: asyncio.Task[Any]) -> bool:
    """Follow what `task` awaits, and say whether anyio's worker threads are on the way."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        code = getattr(awaited, "cr_code", None)
        if code is not None and code.co_name == _WAITS_FOR_WORKER:
            return True
        awaited = _awaited_by(awaited)
    return False


def _awaited_by(awaitable: Any) -> Any:
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        inner = getattr(awaitable, name, None)
        if inner is not None:
            return inner
    return None
