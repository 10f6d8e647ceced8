"""Buckets by key, bounded, without a sweep: only a full bucket is ever forgotten, and never more than a few are looked at."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final

_KEYS_A_SHARD: Final = 4_096
_CROWDED: Final = 8
"""A shard may hold so many times as many keys as it should before a larger table is dealt out anew."""
_LOOK_AT: Final = 8


class _Shard:
    """A part of the table, small enough that growing its dictionaries never stalls a call."""

    __slots__ = ("old", "queue", "young")

    def __init__(self) -> None:
        self.young: dict[Hashable, int] = {}
        self.old: dict[Hashable, int] = {}
        self.queue: Iterator[Hashable] = iter(())

    def grow_old(self) -> None:
        """Begin to look through the keys of now, those that came first at first."""
        self.old, self.young = self.young, {}
        self.queue = iter(list(self.old))


class BucketTable:
    """At most `max_keys` buckets. Where none can be forgotten, new keys share the overflow bucket. Not locked.

    A shard keeps its keys in `young` until the table is full. Then they become `old`, and each new key has a few of them looked at,
    first come, first seen: full buckets are dropped, the others go back to `young`. A call writes a bucket where it is.
    """

    __slots__ = ("mask", "max_keys", "overflow", "overflowed", "shards", "size")

    def __init__(self, max_keys: int, full: int) -> None:
        self.shards: list[_Shard] = []
        self._deal_out(max_keys)
        self.resize(max_keys)
        self.size = 0
        self.overflow = full
        self.overflowed = 0

    def _deal_out(self, max_keys: int) -> None:
        """Make as many shards as so many keys need. The table was much smaller, so there is little in it to move."""
        old_shards, count = self.shards, 1 << ((max_keys - 1) // _KEYS_A_SHARD).bit_length()
        self.shards = [_Shard() for _ in range(count)]
        self.mask = count - 1
        for shard in old_shards:
            for key, bucket in (*shard.old.items(), *shard.young.items()):
                self.young(key)[key] = bucket

    def resize(self, max_keys: int) -> None:
        """Keep at most `max_keys` from now on. Buckets beyond go as they become full."""
        if max_keys > len(self.shards) * _KEYS_A_SHARD * _CROWDED:
            self._deal_out(max_keys)
        self.max_keys = max_keys

    def young(self, key: Hashable) -> dict[Hashable, int]:
        """Where the bucket of `key` is kept if it is new."""
        return self.shards[hash(key) & self.mask].young

    def get(self, key: Hashable, full: int) -> int:
        """The bucket of `key`, at most full. One not in the table has a full one, but for what the overflow bucket has spent.

        That may have been spent by this very key, and a place in the table must not give it a second burst.
        """
        shard = self.shards[hash(key) & self.mask]
        bucket = shard.young.get(key)
        if bucket is None:
            bucket = shard.old.get(key, self.overflow)
        return bucket if bucket > full else full

    def put(self, key: Hashable, bucket: int, full: int) -> None:
        """Keep the bucket of `key`, or spend from the overflow bucket where the table is full of buckets in use."""
        shard = self.shards[hash(key) & self.mask]
        if key in shard.young:
            shard.young[key] = bucket
            return
        if key in shard.old:
            shard.old[key] = bucket
            return
        if self.size >= self.max_keys:
            self._forget(shard, full)
            if self.size >= self.max_keys:
                self.overflow = bucket
                self.overflowed += 1
                return
        self.size += 1
        shard.young[key] = bucket

    def _forget(self, shard: _Shard, full: int) -> None:
        if not shard.old:
            shard.grow_old()
        old, young = shard.old, shard.young
        looked_at = list(islice(shard.queue, _LOOK_AT))
        if not looked_at:  # one was written here just when it went: see `mark.py` on debuggers
            shard.queue = iter(list(old))
        for key in looked_at:
            bucket = old.pop(key)
            if bucket <= full:
                self.size -= 1
            else:
                young[key] = bucket

    def __len__(self) -> int:
        return self.size
