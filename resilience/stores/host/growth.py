"""A table that is to keep more keys than its file has room for moves into a new file, with all that is in its buckets.

Meanwhile all its locks are held, so the limit goes by its local share: a few seconds for a million keys. A process that is killed
in the middle leaves the old file as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.stores.host.layout import (
    CAP,
    DIGEST_WORDS,
    MOVED,
    OVERFLOWED,
    PACES,
    RECORD_WORDS,
    RECORDS,
    SET_WORDS,
    SETS,
    SHARDS,
    STATE,
    TABLE,
    USED,
    WAYS,
    Size,
    size_of,
)
from resilience.stores.host.mapped import Words
from resilience.stores.host.trouble import Unusable
from resilience.stores.host.turns import Taken, Turn

_PATIENCE_US: Final = US_PER_S
_PAUSE_S: Final = 0.001


@contextmanager
def all_taken(turns: tuple[Turn, ...]) -> Iterator[None]:
    """Take every lock of a table, in the order of their files, so that two processes that do so do not wait for each other.

    Raises:
        Unusable: one was not to be had within a second; none is taken.
    """
    until_us = SYSTEM_CLOCK.now_us() + _PATIENCE_US
    with ExitStack() as taken:
        for turn in sorted(set(turns), key=lambda turn: os.fstat(turn.fd).st_ino):
            while not taken.enter_context(Taken(turn)):
                if SYSTEM_CLOCK.now_us() > until_us:
                    raise Unusable("the table cannot move to where it has more room: another process holds a lock of it")
                SYSTEM_CLOCK.sleep(_PAUSE_S)
        yield


def leave_behind(words: Words) -> None:
    """Send whoever still uses the old file to the new one."""
    for shard in range(words[SHARDS]):
        words[STATE + shard] = MOVED


def carry_over(old: Words, new: Words, size: Size) -> None:
    """Fill a new file with what is in an old one. Under all locks of the old one."""
    new[PACES:TABLE] = old[PACES:TABLE]
    new[CAP], new[SHARDS], new[SETS] = size
    new[OVERFLOWED] = old[OVERFLOWED]
    for shard in range(len(old[STATE:USED])):
        new[STATE + shard] = new[USED + shard] = 0
    used = [0] * size.shards
    occupied: dict[int, int] = {}
    for set_at in range(TABLE, TABLE + old[SHARDS] * old[SETS] * SET_WORDS, SET_WORDS):
        for way in range(WAYS):
            slot = set_at + way * DIGEST_WORDS
            first, second = old[slot], old[slot + 1]
            if not first and not second:
                break
            shard = first & (size.shards - 1)
            start = TABLE + shard * size.sets * SET_WORDS
            choices = (start + choice % size.sets * SET_WORDS for choice in (first >> 8, second))
            other_at = min(choices, key=lambda at: occupied.get(at, 0))
            place = occupied.get(other_at, 0)
            if place == WAYS:  # of a million tables, none is so uneven
                continue
            occupied[other_at] = place + 1
            used[shard] += 1
            new[other_at + place * DIGEST_WORDS], new[other_at + place * DIGEST_WORDS + 1] = first, second
            record, to = set_at + RECORDS + way * RECORD_WORDS, other_at + RECORDS + place * RECORD_WORDS
            new[to : to + RECORD_WORDS] = old[record : record + RECORD_WORDS]
    for shard, count in enumerate(used):
        new[USED + shard] = count


def is_large_enough(words: Words, wanted: Size) -> bool:
    """Whether a table has room for all that another would have."""
    size = size_of(words)
    return size.shards * size.sets >= wanted.shards * wanted.sets
