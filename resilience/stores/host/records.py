"""The buckets of a table as records in its file: what is decided in any case but the usual one, under the lock of the shard.

What a process was doing when it was killed is never half believed: while it writes a record, a word of the shard says which, and
whoever has the lock next and finds that word takes that one bucket to be empty. So nobody is let through too much, and it fills
again.

Only a full bucket is ever forgotten, to make room for another key in one of its two sets. A key that is new to the table never
finds more in its bucket than the overflow bucket has.
"""

from __future__ import annotations

from collections.abc import Callable

from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import EXACT, UNIT, Bucket, Decided, brought, decide, fresh, ttl_ms
from resilience.stores.host.layout import MOVED, OVERFLOW, PACES, RECORD_WORDS, STATE, USED
from resilience.stores.host.mapped import Words
from resilience.stores.host.paces import Paces
from resilience.stores.host.slots import Key, Slots, record_of


class Moved(Exception):
    """Another file has taken over: open it and ask again."""


class Records:
    """The records of one file."""

    def __init__(self, words: Words, slots: Slots, paces: Paces, now_us: Callable[[], int]) -> None:
        self._words = words
        self._slots = slots
        self._paces = paces
        self._now_us = now_us

    def take(self, key: Key, number: int, question: Take, now_us: int) -> Decided | None:
        """Answer `question`, whose pace has that number. None: there is no room for the key.

        Raises:
            Moved: another file has taken over.
        """
        self.mend(key.shard, now_us)
        record = self._slots.look_up(key) if key.digest else key.found[1]
        if record:
            return self._decide(record, key.shard, number, question, now_us)
        return self._take_for_the_first_time(key, number, question, now_us)

    def charge(self, key: Key, tokens: int, now_us: int) -> None:
        """Take tokens away, if they are there or not, but no more than makes the bucket as empty as it could be full.

        Raises:
            Moved: another file has taken over.
        """
        self.mend(key.shard, now_us)
        words = self._words
        record = self._slots.look_up(key) if key.digest else key.found[1]
        pace = self._paces.numbered(words[record + 3]) if record else None
        if pace is not None:
            units = words[record]
            words[record] = max(min(units, -pace.capacity), units - tokens * UNIT)  # one word: never half written

    def _take_for_the_first_time(self, key: Key, number: int, question: Take, now_us: int) -> Decided | None:
        pace = question.pace
        bucket = fresh(min(question.fresh_units, self._overflow_units(question, now_us)), pace, now_us)
        after, decided = decide(bucket, question.least, question.most, question.patience_us)
        if ttl_ms(after) == 0:  # it is full: there is nothing to remember
            return decided
        slot = self._slots.room_for(key, lambda record: self._is_full(record, key.shard, question, now_us))
        if not slot:
            return None
        words, state = self._words, STATE + key.shard
        is_free = not words[slot] and not words[slot + 1]
        record = record_of(slot)
        words[state] = record
        words[slot], words[slot + 1] = key.first, key.second
        self._write(record, after, number)
        words[USED + key.shard] += is_free
        words[state] = 0
        return decided

    def _decide(self, record: int, shard: int, number: int, question: Take, now_us: int) -> Decided:
        bucket = self._bucket(record, question, now_us)
        if bucket.at_us > now_us:  # whoever wrote it has read the clock later than we did; if it is later than now, it is clamped
            now_us = max(now_us, self._now_us())
        bucket, decided = decide(brought(bucket, question.pace, now_us), question.least, question.most, question.patience_us)
        if bucket.pace is not question.pace:  # others have heard of a newer one
            number = self._words[record + 3]
        self._words[STATE + shard] = record
        self._write(record, bucket, number)
        self._words[STATE + shard] = 0
        return decided

    def _bucket(self, record: int, question: Take, now_us: int) -> Bucket:
        units, rest, at_us, number = self._words[record : record + RECORD_WORDS]
        pace = question.pace
        if number == 0:
            return fresh(question.fresh_units, pace, now_us)
        known = self._paces.numbered(number)
        if known is None:  # so many changes ago that nobody knows what has been issued since: nothing is
            return Bucket(min(units, pace.capacity), 0, now_us, pace)
        bucket = Bucket(max(units, -EXACT), min(max(rest, 0), known.denominator - 1), max(0, at_us), known)
        was_full = ttl_ms(bucket) == 0  # every store forgets it then
        return fresh(question.fresh_units, pace, now_us) if was_full else bucket

    def _write(self, record: int, bucket: Bucket, number: int) -> None:
        words = self._words
        words[record], words[record + 1], words[record + 2] = bucket.units, bucket.rest, bucket.at_us
        words[record + 3] = number

    def mend(self, shard: int, now_us: int) -> None:
        """See whether somebody was killed while writing a bucket of this shard: that one is empty now.

        Raises:
            Moved: another file has taken over.
        """
        words, state = self._words, STATE + shard
        record = words[state]
        if record == MOVED:
            raise Moved
        if record:
            if self._slots.is_record(record):
                words[record], words[record + 1], words[record + 2] = 0, 0, now_us
                words[record + 3] = words[PACES]
            words[state] = 0

    def _is_full(self, record: int, shard: int, question: Take, now_us: int) -> bool:
        bucket = self._bucket(record, question, now_us)
        if self._paces.numbered(self._words[record + 3]) is None:
            # Nobody knows when it will have been full. From now on, it is known.
            self._words[STATE + shard] = record
            self._write(record, bucket, self._paces.going.number)
            self._words[STATE + shard] = 0
        bucket = brought(bucket, question.pace, max(now_us, bucket.at_us))
        return bucket.units >= bucket.pace.at(bucket.pace.step_at(bucket.at_us))[1]

    def _overflow_units(self, question: Take, now_us: int) -> int:
        """What is in the overflow bucket. Read without its lock, twice alike."""
        words = self._words
        if not words[OVERFLOW + 3]:
            return question.fresh_units
        while True:
            seen = words[OVERFLOW : OVERFLOW + RECORD_WORDS].tolist()
            bucket = self._bucket(OVERFLOW, question, now_us)
            if words[OVERFLOW : OVERFLOW + RECORD_WORDS].tolist() == seen:
                return brought(bucket, question.pace, max(now_us, bucket.at_us)).units
