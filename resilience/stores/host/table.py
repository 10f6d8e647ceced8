"""The buckets of one limit in a mapped file: each decision is made under the lock of its shard, in a few microseconds.

The usual decision is written out here; all others are made in `records.py`. Where there is no room for a key it shares the overflow
bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final

from resilience.layers.limiter.questions import Answer, Away, Take
from resilience.layers.limiter.shared_bucket import EXACT, UNIT, Decided, Pace
from resilience.stores.host.growth import all_taken, carry_over, is_large_enough, leave_behind
from resilience.stores.host.layout import (
    CAP,
    MOVED,
    OVERFLOW,
    OVERFLOWED,
    PLAIN,
    SETS,
    SHARDS,
    STATE,
    WAYS,
    Size,
    is_sound,
    size_for,
    size_of,
)
from resilience.stores.host.mapped import MappedFile, Words
from resilience.stores.host.paces import Going, Paces
from resilience.stores.host.place import Place
from resilience.stores.host.records import Records
from resilience.stores.host.slots import Key, Slots
from resilience.stores.host.turns import LOCK, PATIENCE_US, UNLOCK, Taken, Turn, Turns

KIND: Final = 1
_RECENT: Final = 1_024
"""Keys of which a process remembers where their buckets are."""
BUSY: Final = Away("the lock of the bucket was not to be had within 5 ms", 1_000)


_PLAIN: Final = Key.fixed(PLAIN)
_OVERFLOW: Final = Key.fixed(OVERFLOW)


class Table:
    """The buckets of the limit called `limit`, for up to `max_keys` keys, or one for all where `max_keys` is 0.

    Raises:
        Unusable: its file can be neither opened nor made.
    """

    def __init__(
        self, place: Place, turns: Turns, limit: str, max_keys: int, now_us: Callable[[], int], patience_us: int = PATIENCE_US
    ) -> None:
        self._place = place
        self._patience_us = patience_us
        digest = hashlib.blake2b(limit.encode("utf-8", "surrogatepass"), digest_size=12)
        self._name = f"{'keys' if max_keys else 'limit'}.{digest.hexdigest()}"
        number = digest.digest()[0]
        wanted = size_for(max_keys)
        self.file = self._file(wanted, partial(_fill, size=wanted), is_sound)
        self.words: Words = self.file.words
        self._now_us = now_us
        self.size = size_of(self.words)
        self._turns: tuple[Turn, ...] = tuple(turns[number + shard] for shard in range(self.size.shards))
        self._mask = self.size.shards - 1
        self.paces = Paces(self.words)
        self._slots = Slots(self.file, self.size)
        self._records = Records(self.words, self._slots, self.paces, now_us)
        self._recent: dict[str, Key] = {}

    def _file(self, size: Size, fill: Callable[[Words], None], fits: Callable[[Words], bool]) -> MappedFile:
        return MappedFile(self._place, self._name, size.words, KIND, fill, fits, self._patience_us)

    # --- deciding ----------------------------------------------------------------------------------------------------------

    def take(self, question: Take, now_us: int) -> Answer:
        """Answer `question`.

        Raises:
            Moved: another file has taken over.
        """
        pace, going = question.pace, self.paces.going
        if going.pace is not pace:
            found = self._go_by(pace, now_us)
            if found is None:
                return BUSY
            going = found
        if question.key is None:
            return self._take(_PLAIN, going, question, now_us) or BUSY
        key = self._recent.get(question.key)
        if key is None:
            key = self._met(question.key)
        answer = self._take(key, going, question, now_us)
        if answer is None:
            self.words[OVERFLOWED] += 1
            answer = self._take(_OVERFLOW, going, question, now_us)
        return answer or BUSY

    def _met(self, name: str) -> Key:
        """A key that has not been asked about lately."""
        key = Key(name, self._mask)
        self._slots.look_up(key)
        if len(self._recent) >= _RECENT:
            self._recent.clear()
        self._recent[name] = key
        return key

    def charge(self, name: str | None, tokens: int, now_us: int) -> bool:
        """Take away what was spent while this bucket could not be had, as if at the time. False: it still cannot be had.

        No more than makes it as empty as it could be full.
        """
        key = _PLAIN if name is None else Key(name, self._mask)
        with Taken(self._turns[key.shard], waits=False) as is_ours:
            if not is_ours:
                return False
            self._records.charge(key, tokens, now_us)
        return True

    def _take(self, key: Key, going: Going, question: Take, now_us: int) -> Answer | None:
        """Answer from a record: `brought` and `decide` written out for a steady pace. None: there is no room for the key.

        A key knows where its bucket was when it was seen last; it is looked up again if it is there no more.
        """
        words, pace, number = self.words, question.pace, going.number
        numerator, denominator, capacity = pace.numerator, pace.denominator, pace.capacity
        least, most, patience_us = question.least, question.most, question.patience_us
        (slot, record), first, second, shard = key.found, key.first, key.second, key.shard
        needed, is_usual = least * UNIT, going.is_steady and least > 0 and record > 0
        state, turn = STATE + shard, self._turns[shard]
        began_us = taken = wait_us = units = 0
        while turn.held or turn[LOCK]:
            began_us = turn.pause(began_us)
            if began_us < 0:
                return BUSY
            now_us = self._now_us()
        # From here on there is no call on the usual way, not even for the answer: see turns.py.
        turn.held = True
        try:
            turn.is_late = False
            if (
                is_usual
                and not words[state]
                and words[record + 3] == number
                and (not slot or (words[slot] == first and words[slot + 1] == second))
                and (elapsed_us := now_us - words[record + 2]) >= 0
            ):
                rest = elapsed_us % denominator * numerator + words[record + 1]
                units = words[record] + elapsed_us // denominator * numerator + rest // denominator
                rest %= denominator
                if units >= capacity:
                    units, rest = capacity, 0
                if units >= needed:
                    taken = most if most * UNIT <= units else units // UNIT
                    units -= taken * UNIT
                    words[state] = record
                    words[record] = units
                    words[record + 1] = rest
                    words[record + 2] = now_us
                    words[state] = 0
                elif needed <= capacity and units > -capacity:
                    wait_us = -((rest - (needed - units) * denominator) // numerator)
            if not taken and wait_us <= patience_us:
                return self._records.take(key, number, question, now_us)
        finally:
            turn.held = False
            turn[UNLOCK]
        return Decided(taken, wait_us if wait_us < EXACT else EXACT, units, False)

    def _go_by(self, pace: Pace, now_us: int) -> Going | None:
        """Make `pace` the present one. None: the lock was not to be had."""
        going = self.paces.go_by(pace)
        if going is None:
            with Taken(self._turns[0]) as is_ours:
                if not is_ours:
                    return None
                self._records.mend(0, now_us)
                self.paces.note(pace)
            going = self.paces.go_by(pace)
        return going

    # --- more room ---------------------------------------------------------------------------------------------------------

    def keep(self, max_keys: int) -> None:
        """Keep at most so many keys from now on, as far as there is room for them. What is there beyond goes as it becomes full."""
        size = self.size
        self.words[CAP] = min(max_keys, size.shards * size.sets * WAYS)

    def is_short_of(self, max_keys: int) -> bool:
        """Whether so many keys need a larger file."""
        return not is_large_enough(self.words, size_for(max_keys))

    def move(self, max_keys: int) -> None:
        """Move into a file with room for so many keys. This table is of no more use then.

        Raises:
            Unusable: there is no room for the new file, or a lock was not to be had within a second.
        """
        wanted, old = size_for(max_keys), self.words
        with all_taken(self._turns):
            if old[STATE] != MOVED:
                fill, fits = partial(carry_over, old, size=wanted), partial(is_large_enough, wanted=wanted)
                self._file(wanted, fill, lambda words: is_sound(words) and fits(words)).close()
                leave_behind(old)

    @property
    def keys(self) -> int:
        """How many keys it keeps, the forgotten ones that nobody has taken the place of included."""
        return self._slots.used

    @property
    def overflowed(self) -> int:
        """How many calls have shared the overflow bucket."""
        return self.words[OVERFLOWED]

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()


def _fill(words: Words, size: Size) -> None:
    words[CAP], words[SHARDS], words[SETS] = size
