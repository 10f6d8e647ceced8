"""The store of failed tasks: what is written down of one, and how one is replayed."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol

from resilience.clock import SYSTEM_CLOCK, Clock
from resilience.workers.entry import CURRENT_TASK, CurrentTask
from resilience.workers.named import find_task
from resilience.workers.payload import decode
from resilience.workers.sqlite import SQLiteStorage
from resilience.workers.storage import FailedTask, FailedTaskStorage, FailedTaskStoreError, TaskState

Arguments = tuple[list[Any], dict[str, Any]]

LONGEST_TEXT: Final = 2_000
"""Characters that are kept of an error, and of a traceback."""
LEASE_S: Final = 300.0
_MOST_FRAMES: Final = 30


class ReplayOutcome(Enum):
    """What became of a replay."""

    DONE = "done"
    FAILED = "failed"
    TAKEN = "taken"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay of one task.

    Attributes:
        id: of the task.
        outcome: done; failed once more; taken: another replay has it, or it has been replayed; gone: there is no such task;
            unknown: its function is not registered here, or its arguments are not known.
        error: what it failed with, or why it was not begun.
    """

    id: str
    outcome: ReplayOutcome
    error: BaseException | None = None


class Through(Protocol):
    """What a replay goes through, such as a pipeline."""

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call in this thread."""

    async def acall(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        """Await in this task."""


class FailedTaskStore:
    """Keeps tasks that failed for good, and replays them.

    Args:
        storage: the path of an SQLite file, which is made where there is none, or another storage.
        lease_s: seconds for which a replay has a task to itself. One whose process died can be replayed again after it. It should
            be longer than any task takes; default 300.
        clock: where the time comes from.

    Raises:
        FailedTaskStoreError: the file cannot be opened or written.
        ValueError: `lease_s` is not above 0.
    """

    def __init__(
        self, storage: str | os.PathLike[str] | FailedTaskStorage, *, lease_s: float = LEASE_S, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if not 0 < lease_s < float("inf"):
            raise ValueError(f"lease_s: must be above 0 and finite, got {lease_s!r}")
        self.storage: FailedTaskStorage = SQLiteStorage(storage) if isinstance(storage, str | os.PathLike) else storage
        self.lease_s = lease_s
        self.clock = clock

    # --- what is there -----------------------------------------------------------------------------------------------------------

    def keep(self, task: FailedTask) -> None:
        """Have it on disk. Raises `FailedTaskStoreError` where that fails."""
        self.storage.keep(task)

    def list(self, *, name: str | None = None, state: TaskState | None = None, limit: int = 100) -> Sequence[FailedTask]:
        """The tasks that failed first, at most `limit`; of one name, or in one state."""
        return self.storage.select(name=name, state=state, limit=limit, now_s=self.clock.wall_s())

    def show(self, task_id: str) -> FailedTask | None:
        """One task, or None where there is none of this id."""
        return self.storage.find(task_id)

    def purge(
        self, ids: Sequence[str] | None = None, *, state: TaskState | None = TaskState.REPLAYED, older_than_s: float | None = None
    ) -> int:
        """Delete tasks for good; by default those that were replayed. One that is being replayed is never deleted.

        Args:
            ids: only these, in whatever state.
            state: only those in this state; None: in any.
            older_than_s: only those whose last news is so many seconds old.

        Returns how many there were.
        """
        now_s = self.clock.wall_s()
        before_s = None if older_than_s is None else now_s - older_than_s
        return self.storage.purge(ids=ids, state=None if ids is not None else state, before_s=before_s, now_s=now_s)

    def close(self) -> None:
        """Let go of the storage."""
        self.storage.close()

    def __enter__(self) -> FailedTaskStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- replaying ----------------------------------------------------------------------------------------------------------------

    def replay(self, task_id: str, *, through: Through | None = None) -> Replay:
        """Run a task again in this thread, at least once: a process that dies meanwhile leaves it to the next replay.

        Args:
            task_id: which one.
            through: a pipeline that guards the call.

        Whatever the task raises is in the result, but for `KeyboardInterrupt`, which is raised: it is meant for who replays. The
        same goes, in `areplay`, for its cancellation. `FailedTaskStoreError` is raised where the store fails: then the task may
        have run, and is replayed again; see `first_time`.
        """
        begun = self._begin(task_id)
        if isinstance(begun, Replay):
            return begun
        if inspect.iscoroutinefunction(begun.fn):
            return begun.broken(TypeError(f"{begun.task.name} is a coroutine function; use `await store.areplay(...)`"))
        try:
            call = begun.fn if through is None else lambda *args, **kwargs: through.call(begun.fn, *args, **kwargs)
            begun.context.run(call, *begun.args, **begun.kwargs)
        except BaseException as error:
            replay = begun.broken(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return replay
        return begun.done()

    async def areplay(self, task_id: str, *, through: Through | None = None) -> Replay:
        """The same for coroutine functions, in this task. The store is asked in this thread."""
        begun = self._begin(task_id)
        if isinstance(begun, Replay):
            return begun
        mark = CURRENT_TASK.set(begun.current)
        try:
            result = (
                begun.fn(*begun.args, **begun.kwargs) if through is None else through.acall(begun.fn, *begun.args, **begun.kwargs)
            )
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            replay = begun.broken(error)
            if not isinstance(error, Exception | SystemExit):  # cancelled
                raise
            return replay
        finally:
            CURRENT_TASK.reset(mark)
        return begun.done()

    def _begin(self, task_id: str) -> _Begun | Replay:
        task = self.storage.find(task_id)
        if task is None:
            return Replay(task_id, ReplayOutcome.GONE, LookupError(f"there is no failed task {task_id!r}"))
        fn = find_task(task.name)
        if fn is None or not task.payload:
            why = "its arguments are not known" if fn else f"no function is registered as {task.name!r}: decorate it with @task"
            return Replay(task_id, ReplayOutcome.UNKNOWN, LookupError(f"{task_id} cannot be replayed: {why}"))
        try:
            arguments = decode(task.payload)
        except (ValueError, LookupError, TypeError, RecursionError) as error:  # somebody else wrote it
            return Replay(
                task_id, ReplayOutcome.UNKNOWN, LookupError(f"{task_id} cannot be replayed: its arguments cannot be read: {error}")
            )
        claim, now_s = os.urandom(16).hex(), self.clock.wall_s()
        claimed = self.storage.claim(task_id, claim, now_s, now_s + self.lease_s)
        if claimed is None:
            told = LookupError(f"{task_id} is being replayed elsewhere, or has been replayed")
            return Replay(task_id, ReplayOutcome.TAKEN, told)
        return _Begun(self, claimed, claim, fn, arguments)


class _Begun:
    """A replay that has its task to itself."""

    def __init__(self, store: FailedTaskStore, task: FailedTask, claim: str, fn: Callable[..., Any], arguments: Arguments) -> None:
        self._store = store
        self._claim = claim
        self.task = task
        self.fn = fn
        self.args, self.kwargs = arguments
        self.current = CurrentTask(task.id, task.name, task.idempotency_key, task.replays)
        self.context = copy_context()
        self.context.run(CURRENT_TASK.set, self.current)

    def done(self) -> Replay:
        self._store.storage.succeed(self.task.id, self._claim, self._store.clock.wall_s())
        return Replay(self.task.id, ReplayOutcome.DONE)

    def broken(self, error: BaseException) -> Replay:
        text, trace = described(error)
        self._store.storage.fail(self.task.id, self._claim, text, trace, self._store.clock.wall_s())
        return Replay(self.task.id, ReplayOutcome.FAILED, error)


def described(error: BaseException) -> tuple[str, str]:
    """An error and its traceback as texts that any storage takes: of the one the start, of the other the end."""
    try:
        found = traceback.TracebackException.from_exception(error, limit=-_MOST_FRAMES)
        text, trace = "".join(found.format_exception_only()).strip(), "".join(found.format())
    except Exception:  # noqa: BLE001  # an error whose own text raises must not cost the task
        text = trace = type(error).__qualname__
    return clean(text)[:LONGEST_TEXT], clean(trace)[-LONGEST_TEXT:]


def clean(text: str) -> str:
    """A text that any storage takes: without NUL and halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


__all__ = ["FailedTask", "FailedTaskStore", "FailedTaskStoreError", "Replay", "ReplayOutcome", "TaskState", "described"]
