"""Failed tasks in one SQLite file, for the processes of one machine.

The file is written ahead (WAL) and synchronously: what `keep` has returned from survives a crash of the process and of the machine.
It must be on a local disk. It is made readable for its owner only, since payloads hold what users sent.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilience.registry import enrol
from resilience.workers.storage import FailedTask, FailedTaskStoreError, TaskState

if TYPE_CHECKING:
    import sqlite3

_BUSY_MS: Final = 5_000
_LAYOUT: Final = 1
_COLUMNS: Final = (
    "id, name, pool, payload, idempotency_key, error, traceback, attempts, submitted_s, failed_s, replays, state, lease_until_s"
)
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS failed_tasks (
    id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, pool TEXT NOT NULL, payload TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    error TEXT NOT NULL, traceback TEXT NOT NULL, attempts INTEGER NOT NULL, submitted_s REAL NOT NULL, failed_s REAL NOT NULL,
    replays INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('failed', 'replaying', 'replayed')), lease_until_s REAL NOT NULL,
    claim TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS failed_tasks_by_time ON failed_tasks (failed_s, id)"
_KEEP: Final = f"""
INSERT INTO failed_tasks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET error = excluded.error, traceback = excluded.traceback, attempts = excluded.attempts,
    failed_s = excluded.failed_s"""
_CLAIM: Final = """
UPDATE failed_tasks SET state = 'replaying', claim = ?, lease_until_s = ?, replays = replays + 1
WHERE id = ? AND (state = 'failed' OR (state = 'replaying' AND lease_until_s <= ?))"""
_SUCCEED: Final = """
UPDATE failed_tasks SET state = 'replayed', claim = '', lease_until_s = 0, attempts = attempts + 1, failed_s = ?
WHERE id = ? AND state = 'replaying' AND claim = ?"""
_FAIL: Final = """
UPDATE failed_tasks SET state = 'failed', claim = '', lease_until_s = 0, attempts = attempts + 1,
    error = ?, traceback = ?, failed_s = ?
WHERE id = ? AND state = 'replaying' AND claim = ?"""

_INHERITED: Final[list[Any]] = []


class SQLiteStorage:
    """Failed tasks in the SQLite file at `path`. One object serves all threads, and forked children too.

    Args:
        path: the file; it is made where there is none.
        create: False: there must be one already.
        read_only: nothing is written, not even the table.

    Raises:
        FailedTaskStoreError: it cannot be opened or written, or is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True, read_only: bool = False) -> None:
        self.path = str(Path(path).absolute())
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        if not create and not Path(self.path).is_file():
            raise FailedTaskStoreError(f"{self.path}: there is no such file")
        if not read_only:
            self._make_file()
        with self._transaction() as connection:
            self._prepare(connection)
        enrol(self)

    # --- writing -----------------------------------------------------------------------------------------------------------------

    def keep(self, task: FailedTask) -> None:
        row = [getattr(task, name.strip()) for name in _COLUMNS.split(",")]
        row[row.index(task.state)] = task.state.value
        with self._transaction() as connection:
            connection.execute(_KEEP, row)

    def claim(self, task_id: str, claim: str, now_s: float, lease_until_s: float) -> FailedTask | None:
        with self._transaction() as connection:
            if connection.execute(_CLAIM, (claim, lease_until_s, task_id, now_s)).rowcount != 1:
                return None
            return _one(connection, task_id)

    def succeed(self, task_id: str, claim: str, now_s: float) -> bool:
        with self._transaction() as connection:
            return connection.execute(_SUCCEED, (now_s, task_id, claim)).rowcount == 1

    def fail(self, task_id: str, claim: str, error: str, traceback: str, now_s: float) -> bool:
        with self._transaction() as connection:
            return connection.execute(_FAIL, (error, traceback, now_s, task_id, claim)).rowcount == 1

    def purge(self, *, ids: Sequence[str] | None, state: TaskState | None, before_s: float | None, now_s: float) -> int:
        wanted, values = ["NOT (state = 'replaying' AND lease_until_s > ?)"], [now_s]
        where, more = _conditions(None, state, now_s)
        if before_s is not None:
            where.append("failed_s < ?")
            more.append(before_s)
        statement = f"DELETE FROM failed_tasks WHERE {' AND '.join([*wanted, *where])}"
        with self._transaction() as connection:
            if ids is None:
                return connection.execute(statement, (*values, *more)).rowcount
            return sum(connection.execute(f"{statement} AND id = ?", (*values, *more, task_id)).rowcount for task_id in ids)

    # --- reading -----------------------------------------------------------------------------------------------------------------

    def find(self, task_id: str) -> FailedTask | None:
        with self._transaction() as connection:
            return _one(connection, task_id)

    def select(self, *, name: str | None, state: TaskState | None, limit: int, now_s: float) -> list[FailedTask]:
        where, values = _conditions(name, state, now_s)
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        statement = f"SELECT {_COLUMNS} FROM failed_tasks {condition} ORDER BY failed_s, id LIMIT ?"
        with self._transaction() as connection:
            return [_task(row) for row in connection.execute(statement, (*values, limit))]

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None and self._pid == os.getpid():
            connection.close()

    def renew_locks(self) -> None:
        """In a forked child: another thread of the parent may have held it. The connection is opened anew when it is needed."""
        self._lock = threading.Lock()

    # --- the connection -----------------------------------------------------------------------------------------------------------

    def _make_file(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise FailedTaskStoreError(
                f"{self.path}: failed tasks cannot be stored: {error.strerror}; the folder must exist and let this user write"
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout not in (0, _LAYOUT):
            raise FailedTaskStoreError(f"{self.path}: was written by a newer version (layout {layout}); this one knows {_LAYOUT}")
        if layout == 0 and not self._read_only:
            connection.execute(_TABLE)
            connection.execute(_INDEX)
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
        elif layout == 0:
            raise FailedTaskStoreError(f"{self.path}: holds no failed tasks; it is another file, or an empty one")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection in one transaction, committed at the end of the block. One thread at a time."""
        import sqlite3  # noqa: PLC0415  # only those who keep failed tasks pay for it

        with self._lock:
            try:
                connection = self._connected()
                connection.execute("BEGIN" if self._read_only else "BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise FailedTaskStoreError(f"{self.path}: failed tasks cannot be {self._verb()}: {_reason(error)}") from error

    def _verb(self) -> str:
        return "read" if self._read_only else "stored"

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid != os.getpid():
            _INHERITED.append(self._connection)  # SQLite's connections must not cross a fork, and not be closed there either
            self._connection = None
        if self._connection is None:
            self._connection, self._pid = self._open(), os.getpid()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        import sqlite3  # noqa: PLC0415

        uri = f"{Path(self.path).as_uri()}?mode={'ro' if self._read_only else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
        try:
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection


def _reason(error: Exception) -> str:
    """What SQLite says, and what to do about it."""
    text = str(error)
    hints = {
        "full": "make room, or move the file",
        "disk I/O error": "is the disk full or broken?",
        "readonly": "the file and its folder must let this user write",
        "not a database": "it is another file: name one of its own for failed tasks",
        "locked": "another process has held it for 5 s",
        "unable to open": "the file and its folder must let this user read and write",
    }
    return next((f"{text}; {hint}" for word, hint in hints.items() if word in text), text)


def _conditions(name: str | None, state: TaskState | None, now_s: float) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if name is not None:
        where.append("name = ?")
        values.append(name)
    if state is TaskState.FAILED:
        where.append("(state = 'failed' OR (state = 'replaying' AND lease_until_s <= ?))")
        values.append(now_s)
    elif state is TaskState.REPLAYING:
        where.append("state = 'replaying' AND lease_until_s > ?")
        values.append(now_s)
    elif state is not None:
        where.append("state = 'replayed'")
    return where, values


def _one(connection: sqlite3.Connection, task_id: str) -> FailedTask | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM failed_tasks WHERE id = ?", (task_id,)).fetchone()
    return None if row is None else _task(row)


def _task(row: Sequence[Any]) -> FailedTask:
    *fields, state, lease_until_s = row
    fields += [TaskState(state), lease_until_s]
    return FailedTask(*fields)
