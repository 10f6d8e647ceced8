"""Where in a table the bucket of a key is, and where that of a new key may go."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final

from resilience.stores.host.layout import (
    CAP,
    DIGEST_WORDS,
    OVERFLOW,
    PLAIN,
    RECORD_WORDS,
    RECORDS,
    SET_WORDS,
    TABLE,
    USED,
    WAYS,
    Size,
)
from resilience.stores.host.mapped import MappedFile

_NO_DIGEST: Final = bytes(16)
_TWO_WORDS: Final = struct.Struct("<qq")
_DIGEST_BYTES: Final = 16
_NOWHERE: Final = (0, 0)


class Key:
    """A key as a table knows it, by 128 bits of its hash. `found` is where it was seen last: its slot and record, or (0, 0)."""

    __slots__ = ("digest", "first", "found", "second", "shard")

    def __init__(self, key: str, mask: int) -> None:
        self.digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        self.first: int
        self.second: int
        self.first, self.second = _TWO_WORDS.unpack(self.digest)
        self.shard = self.first & mask
        self.found = _NOWHERE

    @classmethod
    def fixed(cls, record: int) -> Key:
        """What stands for a bucket that is where it is, without a key: it has no digest and no slot."""
        key = cls.__new__(cls)
        key.digest = b""
        key.first = key.second = key.shard = 0
        key.found = (0, record)
        return key


class Slots:
    """The places for keys in one file. Not locked: what `look_up` has found may be gone by the time that the lock is had."""

    def __init__(self, file: MappedFile, size: Size) -> None:
        self._find = file.map.find
        self._words = file.words
        self._sets = size.sets
        self._shards = size.shards
        self._shard_words = size.sets * SET_WORDS

    def look_up(self, key: Key) -> int:
        """The record of a key, 0 where it has none. It is noted in `key`."""
        start, sets = TABLE + key.shard * self._shard_words, self._sets
        for choice in (key.first >> 8, key.second):
            set_at = start + choice % sets * SET_WORDS
            end = (set_at + RECORDS) * 8
            at = self._find(key.digest, set_at * 8, end)
            while at >= 0 and at % _DIGEST_BYTES:  # the end of one digest and the beginning of another
                at = self._find(key.digest, at + 1, end)
            if at >= 0:
                record = record_of(at // 8)
                key.found = (at // 8, record)
                return record
        key.found = _NOWHERE
        return 0

    def room_for(self, key: Key, is_full: Callable[[int], bool]) -> int:
        """A slot for a new key: a free one while the table may keep more, else that of a full bucket; 0: there is none."""
        start, words = TABLE + key.shard * self._shard_words, self._words
        sets = [start + choice % self._sets * SET_WORDS for choice in (key.first >> 8, key.second)]
        # Other shards may be about to get one more each: with several, the bound is not reached quite.
        if self.used < max(1, words[CAP] - (self._shards - 1)):
            emptier = min(sets, key=self._occupied)
            occupied = self._occupied(emptier)
            if occupied < WAYS:
                return emptier + occupied * DIGEST_WORDS
        return next((slot for slot in self._taken_slots(sets) if is_full(record_of(slot))), 0)

    def _taken_slots(self, sets: list[int]) -> Iterator[int]:
        for set_at in sets:
            for way in range(self._occupied(set_at)):
                yield set_at + way * DIGEST_WORDS

    def _occupied(self, set_at: int) -> int:
        """How many slots of a set are in use. They fill from the left, and are never freed but for another key."""
        start, end = set_at * 8, (set_at + RECORDS) * 8
        at = self._find(_NO_DIGEST, start, end)
        while at >= 0 and at % _DIGEST_BYTES:  # the last digest ends with zeros
            at = self._find(_NO_DIGEST, at + 1, end)
        return WAYS if at < 0 else (at - start) // _DIGEST_BYTES

    @property
    def used(self) -> int:
        """How many slots are in use."""
        used: int = sum(self._words[USED : USED + self._shards])
        return used

    def is_record(self, record: int) -> bool:
        """Whether there can be a bucket."""
        if record in (PLAIN, OVERFLOW):
            return True
        within = (record - TABLE) % SET_WORDS - RECORDS
        return TABLE <= record < len(self._words) and within >= 0 and within % RECORD_WORDS == 0


def record_of(slot: int) -> int:
    """Where the bucket of a slot is."""
    within = (slot - TABLE) % SET_WORDS
    return slot - within + RECORDS + within // DIGEST_WORDS * RECORD_WORDS
