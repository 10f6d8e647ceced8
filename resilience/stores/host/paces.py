"""The paces that the buckets of a limit go by: each is written to the file once, and buckets name it by its number.

The last 63 are kept; the place of the one before is where the next is written. A bucket that nobody has asked about for longer than
that many changes names one that is forgotten.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from resilience.layers.limiter.shared_bucket import Pace
from resilience.stores.host.layout import PACES, RING, RING_SIZE, RING_WORDS
from resilience.stores.host.mapped import Words

_LOOK_BACK: Final = 8
_STALE: Final = RING_SIZE // 2
_KEPT: Final = RING_SIZE - 1


class Going(NamedTuple):
    """What a table goes by at present: a pace, its number in the file, whether it stands still. Replaced, never mutated."""

    pace: Pace | None
    number: int
    is_steady: bool


NOWHERE: Final = Going(None, 0, False)


class Paces:
    """The paces in one file."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._numbers: dict[Pace, int] = {}
        self._paces: dict[int, Pace] = {}
        self.going = NOWHERE

    def go_by(self, pace: Pace) -> Going | None:
        """Make `pace` the present one. None: it is not known to be in the file, see `note`."""
        number = self._numbers.get(pace)
        if number is None:
            return None
        self.going = going = Going(pace, number, pace.steps == 0)
        return going

    def note(self, pace: Pace) -> None:
        """Find a pace in the file, or write it there. Under the first lock of the limit."""
        words = self._words
        count = words[PACES]
        for number in range(count, max(0, count - _LOOK_BACK), -1):
            if self.numbered(number) == pace:
                self._remember(pace, number)
                return
        at = RING + (count + 1) % RING_SIZE * RING_WORDS
        for place, value in enumerate(pace):
            words[at + place] = value
        words[PACES] = count + 1  # only now it counts
        self._remember(pace, count + 1)

    def _remember(self, pace: Pace, number: int) -> None:
        if len(self._numbers) >= RING_SIZE:
            self._numbers.clear()
        self._numbers[pace] = number

    def numbered(self, number: int) -> Pace | None:
        """The pace that has a number; None: it was too long ago."""
        known = self._paces.get(number)
        if known is not None:
            return known
        words = self._words
        if not max(0, words[PACES] - _KEPT) < number <= words[PACES]:
            return None
        at = RING + number % RING_SIZE * RING_WORDS
        pace = Pace(*words[at : at + len(Pace._fields)])
        if number <= words[PACES] - _KEPT or pace.denominator <= 0 or pace.numerator <= 0:
            return None
        if len(self._paces) >= RING_SIZE:
            self._paces.clear()
        self._paces[number] = pace
        return pace

    def forget_stale(self) -> None:
        """Give a pace a new number before its old one is given to another: it may be in use for long, while others change."""
        oldest = self._words[PACES] - _STALE
        if self.going.number <= oldest:
            self.going = NOWHERE
        self._numbers = {pace: number for pace, number in tuple(self._numbers.items()) if number > oldest}
