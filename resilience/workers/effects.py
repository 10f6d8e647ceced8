"""An effect that happens once: its idempotency key is committed in the very transaction of the effect."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from resilience.workers.entry import current_task

TABLE: Final = "resilience_effects"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")


class Cursor(Protocol):
    """What a statement gives back, in DB-API 2.0 (PEP 249)."""

    rowcount: int

    def execute(self, statement: str, values: Any = ..., /) -> Any:
        """Run a statement."""

    def close(self) -> Any:
        """Let go of it."""


class Connection(Protocol):
    """A connection of DB-API 2.0 (PEP 249): sqlite3, psycopg and many others."""

    def cursor(self) -> Any:
        """A cursor."""


def create_effects_table(connection: Connection, table: str = TABLE) -> None:
    """Make the table that `first_time` needs, where there is none. Do it once, beside your other tables."""
    _execute(connection, f"CREATE TABLE IF NOT EXISTS {_checked(table)} (idempotency_key VARCHAR(255) PRIMARY KEY NOT NULL)", ())


def first_time(connection: Connection, key: str | None = None, *, table: str = TABLE, placeholder: str = "?") -> bool:
    """Note, in the transaction that is open on `connection`, that an effect happens. False: it has happened before.

    Do the effect in the same transaction, and only if this is true. Then both are committed or neither: however often a task is
    tried or replayed, and wherever its process dies, its effect happens once.

    Args:
        connection: of DB-API 2.0, to SQLite 3.24 or PostgreSQL.
        key: the idempotency key; default that of the current task.
        table: where keys are kept, made by `create_effects_table`.
        placeholder: how a statement of this database writes a value: "?" (sqlite3, default) or "%s" (psycopg).

    Raises:
        LookupError: no key is given, and no task runs here.
        RuntimeError: the connection commits each statement by itself, so that the key would stand without the effect.
    """
    if key is None:
        task = current_task()
        if task is None:
            raise LookupError("first_time: no task runs here, so the key must be given")
        key = task.idempotency_key
    if placeholder not in ("?", "%s"):
        raise ValueError(f"placeholder: must be ? or %s, got {placeholder!r}")
    if _commits_by_itself(connection):
        raise RuntimeError("first_time: this connection commits each statement by itself; begin a transaction first")
    statement = f"INSERT INTO {_checked(table)} (idempotency_key) VALUES ({placeholder}) ON CONFLICT DO NOTHING"
    return _execute(connection, statement, (key,)) == 1


def _commits_by_itself(connection: Any) -> bool:
    if hasattr(connection, "in_transaction"):  # sqlite3; -1: transactions as they were before Python 3.12
        autocommit = getattr(connection, "autocommit", -1)
        return not connection.in_transaction and (autocommit is True or (autocommit == -1 and connection.isolation_level is None))
    info = getattr(connection, "info", None)  # psycopg: above 0 inside a transaction, also where it commits by itself outside
    return getattr(connection, "autocommit", False) is True and not getattr(info, "transaction_status", 0)


def _execute(connection: Connection, statement: str, values: tuple[str, ...]) -> int:
    cursor: Cursor = connection.cursor()
    try:
        cursor.execute(statement, values)
        return cursor.rowcount
    finally:
        cursor.close()


def _checked(table: str) -> str:
    if _NAME.fullmatch(table) is None:
        raise ValueError(f"table: must be a plain name, got {table!r}")
    return table
