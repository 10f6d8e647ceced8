"""Buckets by key, bounded, without a sweep: only a full bucket is ever forgotten, and never more than a few are looked at."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_KEYS_A_SHARD: Final = 4_096
_CROWDED: Final = 16
"""A shard may hold so many times as many keys as it should before a larger table is dealt out anew."""
_LOOK_AT: Final = 8


class _Shard:
    """A part of the table, small enough that growing its dictionaries never stalls a call."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[Hashable, int] = {}
        self.old: dict[Hashable, int] = {}


class BucketTable:
    """At most `max_keys` buckets. Where none can be forgotten, new keys share the overflow bucket. Not locked.

    A shard keeps what was touched lately in `young`; when that is half its share it becomes `old`. Each new key moves a few
    buckets out of `old`: the full ones are dropped, the others go back to `young`.
    """

    __slots__ = ("_half", "mask", "max_keys", "overflow", "overflowed", "shards", "size")

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
        self._half = max(16, max_keys // len(self.shards) // 2)

    def young(self, key: Hashable) -> dict[Hashable, int]:
        """Where the bucket of `key` is if it was touched lately; it may be read and replaced there."""
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
        young = shard.young
        if key in young:
            young[key] = bucket
            return
        known = shard.old.pop(key, None) is not None
        if not known:
            self._forget(shard, full, 2)
            if not self._has_room(shard, full):
                self.overflow = bucket
                self.overflowed += 1
                return
            self.size += 1
        if len(shard.young) >= self._half and not shard.old:
            shard.old, shard.young = shard.young, {}
        shard.young[key] = bucket

    def _has_room(self, shard: _Shard, full: int) -> bool:
        if self.size < self.max_keys:
            return True
        if not shard.old:
            shard.old, shard.young = shard.young, {}
        self._forget(shard, full, _LOOK_AT)
        return self.size < self.max_keys

    def _forget(self, shard: _Shard, full: int, count: int) -> None:
        old, young = shard.old, shard.young
        for _ in range(min(count, len(old))):
            key, bucket = old.popitem()
            if bucket <= full:
                self.size -= 1
            else:
                young[key] = bucket

    def __len__(self) -> int:
        return self.size
