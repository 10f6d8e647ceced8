"""How the buckets of one limit lie in their file: 64-bit words, of which each limit has these.

    0    what the file is (`mapped.py`)
    8    keys it may keep, shards, sets in a shard, paces noted so far, calls that shared the overflow bucket
   16    the bucket of a limit without keys; the overflow bucket
   24    of each shard the record that is being written, else 0
   40    of each shard how many keys it keeps
   64    the places of 64 paces, each with its numbers
 1024    the sets, shard by shard

A set holds up to 16 keys: first their digests, then their records. A key may be in one of two sets of its shard, so that all get
about equally full. A record is a bucket: units, rest, the instant, and the number of its pace; number 0 is no bucket yet.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from resilience.stores.host.mapped import HEAD_WORDS, Words

CAP: Final = HEAD_WORDS
SHARDS: Final = 9
SETS: Final = 10
PACES: Final = 11
OVERFLOWED: Final = 12
PLAIN: Final = 16
OVERFLOW: Final = 20
STATE: Final = 24
USED: Final = 40
RING: Final = 64
RING_SIZE: Final = 64
RING_WORDS: Final = 12
TABLE: Final = 1024

WAYS: Final = 16
DIGEST_WORDS: Final = 2
RECORD_WORDS: Final = 4
RECORDS: Final = WAYS * DIGEST_WORDS
"""Where in a set the records begin."""
SET_WORDS: Final = RECORDS + WAYS * RECORD_WORDS

MOST_SHARDS: Final = 16
MOVED: Final = -1
"""In the place of the record that is being written: another file has taken over."""
_KEYS_A_SHARD: Final = 4_096
_KEYS_A_SET: Final = 10
"""On average in a table that is full. With two sets to choose from, one of 16 is then never full."""


class Size(NamedTuple):
    """How many keys a table keeps, and how they are spread."""

    cap: int
    shards: int
    sets: int

    @property
    def words(self) -> int:
        """The length of its file."""
        return TABLE + self.shards * self.sets * SET_WORDS


def size_for(max_keys: int) -> Size:
    """The table for so many keys; 0: none, the limit has one bucket for all."""
    if max_keys == 0:
        return Size(0, 1, 0)
    shards = 1
    while shards < MOST_SHARDS and shards * _KEYS_A_SHARD < max_keys:
        shards *= 2
    return Size(max_keys, shards, -(-max_keys // (shards * _KEYS_A_SET)))


def size_of(words: Words) -> Size:
    """The table in a file."""
    return Size(words[CAP], words[SHARDS], words[SETS])


def is_sound(words: Words) -> bool:
    """Whether the file is as long as what it says of itself: nothing in it leads beyond its end."""
    if len(words) < TABLE:
        return False
    size = size_of(words)
    return 1 <= size.shards <= MOST_SHARDS and size.sets >= 0 and size.words == len(words) and words[PACES] >= 0
