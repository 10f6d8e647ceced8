"""What runs inside the context of a task: the function, as a call of its own, through the pipeline of the pool."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

from resilience.call import ADMITTED, CURRENT, Decision, FunctionCall
from resilience.clock import US_PER_S
from resilience.workers.entry import CURRENT_TASK, Entry
from resilience.workers.plan import Guards

_TASK = "task"


def begin_call(entry: Entry) -> FunctionCall | None:
    """Make the task the call in progress in this context. One without a deadline only leaves that of the request it came from."""
    CURRENT_TASK.set(entry)
    if entry.deadline_us is None:
        if CURRENT.get() is not None:
            CURRENT.set(None)
        return None
    call = FunctionCall(entry.name, entry.args, entry.kwargs, entry.started_us, None)
    call.deadline_us = entry.deadline_us
    CURRENT.set(call)
    return call


def run(entry: Entry, pipeline: Guards | None, pool: str) -> Any:
    """Run a task in this thread."""
    call = begin_call(entry)
    try:
        if entry.trace is not None:
            return _recorded(entry, pipeline, pool)
        return _call(entry, pipeline)
    finally:
        if call is not None:
            call.settled = True


def _call(entry: Entry, pipeline: Guards | None) -> Any:
    if pipeline is None:
        entry.attempts = 1
        result = entry.fn(*entry.args, **entry.kwargs)
    else:
        result = pipeline.call(counted(entry), *entry.args, **entry.kwargs)
    if type(result) is CoroutineType:
        result.close()
        raise TypeError(f"{entry.name} is a coroutine function, whose work begins only when it is awaited; use AsyncWorkerPool")
    return result


def _recorded(entry: Entry, pipeline: Guards | None, pool: str) -> Any:
    trace = entry.trace
    if trace is None:
        return _call(entry, pipeline)
    span = trace.work(_TASK, pool, pool)  # within what was current at submission: the context has it from there
    failure: BaseException | None = None
    try:
        return _call(entry, pipeline)
    except BaseException as error:
        failure = error
        raise
    finally:
        span.end(*_told(entry), failure)
        failure = None  # its traceback refers to this frame


def plain(entry: Entry) -> Coroutine[Any, Any, Any]:
    """The coroutine of a task that needs nothing around it: with a frame less to pass on each of its steps."""
    context = entry.context
    if entry.deadline_us is not None or context.get(CURRENT) is not None:
        entry.call = context.run(begin_call, entry)  # whoever learns of the end settles it
    else:
        context.run(CURRENT_TASK.set, entry)
    entry.attempts = 1
    try:
        found = entry.fn(*entry.args, **entry.kwargs)
    except BaseException as error:  # noqa: BLE001  # arguments that do not fit: it belongs to the future
        return _raise(error)
    return found if type(found) is CoroutineType else _wait_for(found)


async def _raise(error: BaseException) -> Any:
    raise error


async def _wait_for(found: Any) -> Any:
    return await found


async def arun(entry: Entry, pipeline: Guards | None, pool: str) -> Any:
    """Run a task in this asyncio task."""
    call = begin_call(entry)
    trace = entry.trace
    span = None if trace is None else trace.work(_TASK, pool, pool)
    failure: BaseException | None = None
    try:
        if pipeline is None:
            entry.attempts = 1
            return await entry.fn(*entry.args, **entry.kwargs)
        return await pipeline.acall(counted(entry), *entry.args, **entry.kwargs)
    except BaseException as error:
        failure = error
        raise
    finally:
        if span is not None:
            span.end(*_told(entry), failure)
        if call is not None:
            call.settled = True
        failure = None  # its traceback refers to this frame


def counted(entry: Entry) -> Callable[..., Any]:
    """The function of a task, which counts its attempts."""
    fn = entry.fn

    def attempt(*args: Any, **kwargs: Any) -> Any:
        entry.attempts += 1
        return fn(*args, **kwargs)

    attempt.__name__ = getattr(fn, "__name__", "task")
    return attempt


def _told(entry: Entry) -> tuple[str, dict[str, Any]]:
    wait_s = max(0, entry.started_us - entry.submitted_us) / US_PER_S
    attributes = {"resilience.pool.queue.wait_s": wait_s, "resilience.pool.attempts": entry.attempts}
    return (Decision.QUEUED if wait_s else ADMITTED).value, attributes
