"""Buckets by key, bounded, without a sweep: only a full bucket is ever forgotten, and never more than a few are looked at."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final

_KEYS_A_SHARD: Final = 4_096
_CROWDED: Final = 8
"""A shard may hold so many times as many keys as it should before a larger table is dealt out anew."""
_LOOK_AT: Final = 8


def hash_of(key: Hashable) -> int:
    """What tells the shard of a key: None, which a limit without keys asks for each time, is in the first one."""
    return 0 if key is None else hash(key)


class BucketTable:
    """At most `max_keys` buckets. Where none can be forgotten, new keys share the overflow bucket. Not locked.

    It is dealt out into shards, small enough that growing their dictionaries never stalls a call. A shard keeps its keys in `young`
    until the table is full. Then they become `old`, and each new key has a few of them looked at, first come, first seen: full
    buckets are dropped, the others go back to `young`. A call writes a bucket where it is.
    """

    __slots__ = ("_queues", "mask", "max_keys", "old", "overflow", "overflowed", "size", "young")

    def __init__(self, max_keys: int, full: int) -> None:
        self.young: list[dict[Hashable, int]] = []
        self.old: list[dict[Hashable, int]] = []
        self._queues: list[Iterator[Hashable]] = []  # of the keys in `old`, those that are still to be looked at
        self._deal_out(max_keys)
        self.resize(max_keys)
        self.size = 0
        self.overflow = full
        self.overflowed = 0

    def _deal_out(self, max_keys: int) -> None:
        """Make as many shards as so many keys need. The table was much smaller, so there is little in it to move."""
        before, count = [*self.old, *self.young], 1 << ((max_keys - 1) // _KEYS_A_SHARD).bit_length()
        self.young = [{} for _ in range(count)]
        self.old = [{} for _ in range(count)]
        self._queues = [iter(()) for _ in range(count)]
        self.mask = count - 1
        for part in before:
            for key, bucket in part.items():
                self.young[hash_of(key) & self.mask][key] = bucket

    def resize(self, max_keys: int) -> None:
        """Keep at most `max_keys` from now on. Buckets beyond go as they become full."""
        if max_keys > len(self.young) * _KEYS_A_SHARD * _CROWDED:
            self._deal_out(max_keys)
        self.max_keys = max_keys

    def get(self, key: Hashable, full: int) -> int:
        """The bucket of `key`, at most full. One not in the table has a full one, but for what the overflow bucket has spent.

        That may have been spent by this very key, and a place in the table must not give it a second burst.
        """
        shard = hash_of(key) & self.mask
        bucket = self.young[shard].get(key)
        if bucket is None:
            bucket = self.old[shard].get(key, self.overflow)
        return bucket if bucket > full else full

    def put(self, key: Hashable, bucket: int, full: int) -> None:
        """Keep the bucket of `key`, or spend from the overflow bucket where the table is full of buckets in use."""
        shard = hash_of(key) & self.mask
        for part in (self.young[shard], self.old[shard]):
            if key in part:
                part[key] = bucket
                return
        if self.size >= self.max_keys:
            self._forget(shard, full)
            if self.size >= self.max_keys:
                self.overflow = bucket
                self.overflowed += 1
                return
        self.size += 1
        self.young[shard][key] = bucket

    def _forget(self, shard: int, full: int) -> None:
        if not self.old[shard]:  # the keys of now are looked through, those that came first at first
            self.old[shard], self.young[shard] = self.young[shard], {}
            self._queues[shard] = iter(list(self.old[shard]))
        old, young = self.old[shard], self.young[shard]
        looked_at = list(islice(self._queues[shard], _LOOK_AT))
        if not looked_at:  # one was written here just when it went: see `mark.py` on debuggers
            self._queues[shard] = iter(list(old))
        for key in looked_at:
            bucket = old.pop(key)
            if bucket <= full:
                self.size -= 1
            else:
                young[key] = bucket

    def __len__(self) -> int:
        return self.size
