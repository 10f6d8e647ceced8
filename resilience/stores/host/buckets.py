"""What limiters ask of the store `host`. Each answer is at hand: no trip, and no wait longer than 5 ms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from resilience.clock import Clock
from resilience.layers.limiter.questions import Answer, Away, Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.host.files import Files
from resilience.stores.host.records import Moved
from resilience.stores.host.table import BUSY, Table
from resilience.stores.host.trouble import Unusable
from resilience.stores.host.turns import PATIENCE_US

log = logging.getLogger("resilience")
_MAX_KEYS: Final = 100_000
"""Of a limit that has not said how many it wants."""
_PREPARES_US: Final = 1_000_000
_MOST_OWED: Final = 1_024
_PAID_AT_ONCE: Final = 4
_AGAIN_US: Final = 100_000


class HostBuckets:
    """Buckets in mapped files, one a limit, opened when a limit first asks."""

    kind = "host"
    needs_io = False
    offset_us = 0

    def __init__(self, files: Files, clock: Clock, use: Callable[[], None]) -> None:
        self._files = files
        self._use = use
        self._clock = clock
        self._now_us = clock.now_us
        self._plain: dict[str, Table] = {}
        self._keyed: dict[str, Table] = {}
        self._max_keys: dict[str, int] = {}
        self._owed: dict[tuple[str, str | None], int] = {}
        self.workers = 1
        self.late = 0
        self.has_decided = False

    # --- deciding ----------------------------------------------------------------------------------------------------------

    def take(self, question: Take) -> Answer:
        """Answer at once."""
        now_us = self._now_us()
        if self._owed:
            self._pay(now_us)
        self.has_decided = True
        try:
            answer = (self._plain if question.key is None else self._keyed)[question.limit].take(question, now_us)
        except (KeyError, Moved) as error:
            return self._open_and_take(question, now_us, has_moved=isinstance(error, Moved))
        if answer is BUSY:
            self.late += 1
        return answer

    def ask(self, question: Take) -> Answer:
        """The same: there is nothing to wait for."""
        return self.take(question)

    async def aask(self, question: Take) -> Answer:
        """The same: there is nothing to wait for."""
        return self.take(question)

    def give_back(self, question: Take, decided: Decided, due_us: int) -> None:
        """Return what was taken, unless the instant `due_us` has passed; 0 is never."""
        back = Take(question.limit, question.key, question.pace, question.fresh_units, -decided.taken, due_us)
        self.take(back)

    def owe(self, question: Take, tokens: int) -> None:
        """These were spent without the store. They are taken from the bucket when it can be had again, as if at the time."""
        if len(self._owed) < _MOST_OWED:
            bucket = question.limit, question.key
            self._owed[bucket] = self._owed.get(bucket, 0) + tokens

    def _pay(self, now_us: int) -> None:
        """Pay a few debts. One that cannot be paid now goes to the end of the line."""
        for bucket in tuple(islice(self._owed, _PAID_AT_ONCE)):
            tokens = self._owed.pop(bucket, 0)
            limit, key = bucket
            table = (self._plain if key is None else self._keyed).get(limit)
            try:
                is_paid = table is None or table.charge(key, tokens, now_us)  # a bucket that is gone is owed nothing
            except Moved:
                is_paid = False
            if not is_paid:
                self._owed[bucket] = self._owed.get(bucket, 0) + tokens
                return

    # --- files -------------------------------------------------------------------------------------------------------------

    def prepare(self, limit: str, max_keys: int | None) -> None:
        """Open the file of a limit before it first decides: `max_keys` buckets, or None for a single one."""
        if max_keys is not None:
            self._max_keys[limit] = max_keys
        trouble = self._open(limit, is_keyed=max_keys is not None, patience_us=_PREPARES_US)
        if trouble is None and max_keys is not None:
            trouble = self._make_room(limit, max_keys)
        if trouble is not None:
            log.warning("%s goes by its local share for now: %s", limit, trouble)

    def _make_room(self, limit: str, max_keys: int) -> str | None:
        """See that the table of a limit keeps so many keys. Returns None, or why it does not."""
        table = self._keyed[limit]
        if not table.is_short_of(max_keys):
            table.keep(max_keys)
            return None
        try:
            table.move(max_keys)
        except Unusable as error:
            return f"it keeps fewer keys than {max_keys:,}: {error}"
        self._keyed.pop(limit, None)
        trouble = self._open(limit, is_keyed=True, patience_us=_PREPARES_US)
        if trouble is None:
            self._keyed[limit].keep(max_keys)
        return trouble

    def _open_and_take(self, question: Take, now_us: int, *, has_moved: bool) -> Answer:
        is_keyed = question.key is not None
        if has_moved:
            self._tables(is_keyed).pop(question.limit, None)
        trouble = self._open(question.limit, is_keyed=is_keyed, patience_us=PATIENCE_US)
        if trouble is not None:
            return Away(trouble, _AGAIN_US)
        return BUSY if has_moved else self.take(question)

    def _open(self, limit: str, *, is_keyed: bool, patience_us: int) -> str | None:
        """Open the file of a limit, unless it is open. Returns None, or why it cannot be had.

        Not locked: where two threads open it, one of the two tables is kept, and until then both do, since the file is one.
        """
        tables = self._tables(is_keyed)
        if limit in tables:
            return None
        self._use()
        max_keys = self._max_keys.get(limit, _MAX_KEYS) if is_keyed else 0

        def make(place: Any, turns: Any) -> None:
            tables[limit] = Table(place, turns, limit, max_keys, self._now_us, patience_us)

        return self._files.have(f"limit {limit}", make)

    def _tables(self, is_keyed: bool) -> dict[str, Table]:
        return self._keyed if is_keyed else self._plain

    def look(self) -> None:
        """Let go of files that have been removed or replaced; they are opened anew when they are next needed."""
        for tables in (self._plain, self._keyed):
            for limit, table in tuple(tables.items()):
                table.paces.forget_stale()
                if not table.file.is_current():
                    tables.pop(limit, None)

    def drop(self) -> None:
        """Let go of all files."""
        self._plain.clear()
        self._keyed.clear()

    def renew_locks(self) -> None:
        """In a forked child: what another thread of the parent held stays held there."""
        self._owed.clear()
        self.has_decided = False
        self.drop()

    def status(self) -> dict[str, Any]:
        """What an operator wants to see."""
        limits: dict[str, Any] = {limit: {} for limit in tuple(self._plain)}
        for limit, table in tuple(self._keyed.items()):
            limits[limit] = {"keys": table.keys, "shared_the_overflow_bucket": table.overflowed}
        return {
            "kind": self.kind,
            "workers": self.workers,
            "trouble": self._files.trouble,
            "locks_not_had_in_time": self.late,
            "limits": limits,
        }
