"""One accepted task on its way through a pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, Final

from resilience.call import FunctionCall
from resilience.tracing import CallTrace
from resilience.workers.settings import DEFAULT_PRIORITY, PRIORITIES

QUEUED: Final = 0
RUNNING: Final = 1
OVER: Final = 2


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What can be said of one task.

    Args:
        priority: 0 (first) to 9 (last); default 5.
        timeout_s: seconds it may take from when it is accepted; None: as the pool has it.
        idempotency_key: what tells its effect from others; None: each task has one of its own.
        key: for the limiter, before any key source of its own.
        cost: tokens it takes of the limiter; None: as the limiter has it.

    Raises:
        ValueError: something is out of range.
    """

    priority: int = DEFAULT_PRIORITY
    timeout_s: float | None = None
    idempotency_key: str | None = None
    key: str | None = None
    cost: int | None = None

    def __post_init__(self) -> None:
        if type(self.priority) is not int or not 0 <= self.priority < PRIORITIES:
            raise ValueError(
                f"priority: must be a whole number between 0 (first) and {PRIORITIES - 1} (last), got {self.priority!r}"
            )
        if self.timeout_s is not None and not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s: must be above 0 and finite, got {self.timeout_s!r}")
        if self.idempotency_key is not None and not 0 < len(self.idempotency_key) <= 255:
            raise ValueError("idempotency_key: must be a text of 1 to 255 characters")
        if self.idempotency_key is not None and not _is_storable(self.idempotency_key):
            raise ValueError("idempotency_key: must be a text that every database stores: no NUL, and no half of a surrogate pair")


def _is_storable(text: str) -> bool:
    return "\x00" not in text and text.encode("utf-8", "replace").decode("utf-8") == text


PLAIN: Final = TaskOptions()


class Entry:
    """A task. Its state changes under the lock of its pool only, and to `OVER` once, whoever comes first."""

    __slots__ = (
        "__weakref__",
        "_id",
        "args",
        "attempts",
        "call",
        "context",
        "deadline_us",
        "fn",
        "future",
        "is_kept",
        "key",
        "kwargs",
        "payload",
        "priority",
        "running",
        "started_us",
        "state",
        "submitted_us",
        "trace",
        "worker",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: Context,
        priority: int,
        deadline_us: int | None,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.priority = priority
        self.deadline_us = deadline_us
        self.state = QUEUED
        self.submitted_us = 0
        self.started_us = 0
        self.attempts = 0
        self.key: str | None = None
        self.payload: str | None = None
        self.future: Any = None
        self.is_kept = False
        self.call: FunctionCall | None = None
        self.running: Any = None
        self.trace: CallTrace | None = None
        self.worker: Worker | None = None
        self._id = ""

    @property
    def id(self) -> str:
        """32 hexadecimal digits, drawn when somebody asks."""
        if not self._id:
            self._id = os.urandom(16).hex()
        return self._id

    @property
    def name(self) -> str:
        """What the task is called, in stores and in telemetry."""
        return task_name(self.fn)


class Worker:
    """One that works: a thread, or a place for an asyncio task. `abandoned`: its task timed out, and another stands in for it."""

    __slots__ = ("abandoned", "entry", "stopped")

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.abandoned = False
        self.stopped = False


def task_name(fn: Callable[..., Any]) -> str:
    """The name a function is registered by, or its module and qualified name."""
    name = getattr(fn, "resilience_task", None)
    if isinstance(name, str):
        return name
    module = getattr(fn, "__module__", None) or "?"
    return f"{module}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task that this code is run by.

    Attributes:
        id: 32 hexadecimal digits.
        name: as it is stored.
        idempotency_key: stays the same when it is replayed.
        replay: 0 when it runs for the first time, 1 for the first replay of it.
    """

    id: str
    name: str
    idempotency_key: str
    replay: int = 0


CURRENT_TASK: Final[ContextVar[Entry | CurrentTask | None]] = ContextVar("resilience_task", default=None)


def current_task() -> CurrentTask | None:
    """The task that this code is run by, in a pool or in a replay; None outside of tasks."""
    found = CURRENT_TASK.get()
    if isinstance(found, Entry):
        return CurrentTask(found.id, found.name, found.key or found.id)
    return found
