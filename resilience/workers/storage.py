"""What keeps failed tasks: the records, and what a storage must do. `SQLiteStorage` is one; others need only these methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from resilience.errors import ResilienceError


class FailedTaskStoreError(ResilienceError):
    """The store cannot be opened, read or written: where, why, and what to do."""


class TaskState(Enum):
    """Where a failed task stands. `REPLAYING` ends by itself when the lease of the replay has run out."""

    FAILED = "failed"
    REPLAYING = "replaying"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that failed for good.

    Attributes:
        id: 32 hexadecimal digits.
        name: what `@task` called its function.
        pool: where it ran.
        payload: its arguments as JSON: {"args": [...], "kwargs": {...}}; empty where the pool did not know them.
        idempotency_key: tells its effect from others, and is the same in every replay.
        error: what ended it last, cut at 2,000 characters. traceback: the end of it, cut likewise.
        attempts: tries that were made in all, replays included.
        submitted_s: when it was accepted, and `failed_s` when it failed last, in seconds since the Unix epoch.
        replays: how often it has been replayed.
        state: where it stands. lease_until_s: until when a replay has it; 0: none has.
    """

    id: str
    name: str
    pool: str
    payload: str
    idempotency_key: str
    error: str
    traceback: str
    attempts: int
    submitted_s: float
    failed_s: float
    replays: int = 0
    state: TaskState = TaskState.FAILED
    lease_until_s: float = 0.0


class FailedTaskStorage(Protocol):
    """Keeps records durably, for many processes. Every method raises `FailedTaskStoreError` where it cannot."""

    def keep(self, task: FailedTask) -> None:
        """Have the record on disk before returning; one of the same id is replaced."""

    def find(self, task_id: str) -> FailedTask | None:
        """The record of this id."""

    def select(self, *, name: str | None, state: TaskState | None, limit: int, now_s: float) -> Sequence[FailedTask]:
        """Records, those that failed first at the front. One whose lease has run out counts as failed."""

    def claim(self, task_id: str, claim: str, now_s: float, lease_until_s: float) -> FailedTask | None:
        """Give the record to one replay, until its lease ends. None: another has it, it is replayed, or there is none."""

    def succeed(self, task_id: str, claim: str, now_s: float) -> bool:
        """The replay that has `claim` has done it. False: the claim is lost."""

    def fail(self, task_id: str, claim: str, error: str, traceback: str, now_s: float) -> bool:
        """The replay that has `claim` has failed. False: the claim is lost."""

    def purge(self, *, ids: Sequence[str] | None, state: TaskState | None, before_s: float | None, now_s: float) -> int:
        """Delete the records that fit all that is given; never one that a replay has. Returns how many."""

    def close(self) -> None:
        """Let go of it."""
