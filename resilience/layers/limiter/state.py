"""The state of one rate limit: its token clock, its buckets and its counts, under one lock. It outlives changes of settings.

To take from a bucket that is known already is a single step, which needs no lock: see `mark.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final

from resilience.clock import US_PER_S
from resilience.errors import Quota
from resilience.health import NEVER_US, HealthSignal, Stretch
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.layers.limiter.table import BucketTable
from resilience.layers.limiter.tokens import TOKEN, TokenClock
from resilience.mark import Mark

_EARLIER_KEPT: Final = 16
_STRAGGLE_US: Final = 500_000
"""A call may find its pipeline just before a change of settings and read the clock just after it."""
_SHORTEST_WAIT_US: Final = 1
Steady = tuple[RateLimiterSettings | None, Stretch, int, int, int | None, int, int, list[dict[Hashable, int]], int]
"""What the arithmetic of a bucket goes by while nothing moves: the settings, how long that is, and from when on; what stands for a
full bucket at instant 0, and what each microsecond adds, where that is a whole number: else None, and at the token clock's own
instant; what a call takes that has no cost of its own, and how much may be spent at most where it is to be had; the shards."""
_FOR_EVER: Final = Stretch(NEVER_US)
_BARRED: Final[Steady] = (None, _FOR_EVER, 0, 0, 0, 0, 0, [], 0)


class LimiterState:
    """Buckets of one limit; one without keys has the one of key None. Only `take`, `reserve` and `give_back` move tokens.

    A key is None or plain text, see `bounded`, and a cost a plain number: what is one step must run no code of theirs.
    """

    __slots__ = (
        "_earlier",
        "_passed_in_shadow",
        "_refused",
        "_told_apart",
        "admitted",
        "changing",
        "health",
        "lock",
        "queued",
        "settings",
        "steady",
        "table",
        "tokens",
    )

    def __init__(self, settings: RateLimiterSettings, health: HealthSignal | None, now_us: int) -> None:
        self.settings = settings
        self.health = health
        self.tokens = TokenClock(settings.exact_rate_per_s, settings.capacity, health, now_us)
        self.table = BucketTable(settings.max_keys, self.tokens.full(0))
        self.admitted = 0
        self._refused = 0  # also what passed in the shadow all the same
        self._told_apart = self._passed_in_shadow = 0  # so many of `_refused` are told apart; the others go by the settings of now
        self.queued = 0
        self._earlier: tuple[tuple[TokenClock, int], ...] = ()  # each with the instant of its end, latest first
        self.steady: Steady = _BARRED
        self.renew_lock()

    def renew_lock(self) -> None:
        """A lock that nobody holds; in a forked child those of the parent's other threads stay locked."""
        self.lock = threading.Lock()
        self.changing = Mark(self)

    def bar(self) -> None:
        """Let nobody take in one step any more."""
        self.steady = _BARRED

    def unbar(self) -> None:
        """Work out what `draw` goes by until something moves, if nothing has moved by now that the token clock has not followed.

        Where a cut has left less than a usual call takes, all go the long way: a step takes for granted that a full bucket has it.
        """
        tokens, table, health = self.tokens, self.table, self.health
        stretch = _FOR_EVER if health is None else health.stretch
        usual_units = int(self.settings.cost) * TOKEN
        has_moved = health is not None and (health.phase is not tokens.phase or tokens.until_us < stretch.until_us)
        if has_moved or usual_units > tokens.capacity:
            self.steady = _BARRED
            return
        self.steady = (
            self.settings,
            stretch,
            tokens.full_from_us,
            tokens.reading - tokens.capacity - tokens.since_us * tokens.whole_per_us,
            tokens.whole_per_us or None,
            usual_units,
            tokens.capacity - usual_units,
            table.young,
            table.mask,
        )

    def take(self, key: Hashable | None, cost: int, now_us: int, settings: RateLimiterSettings | None = None) -> int:
        """Take `cost` tokens if they are there. `settings` are those under which the call began; None: the present ones.

        Returns the microseconds until they are there: 0 is admitted; else nothing was taken. `NEVER_US`: a bucket of the size that
        health leaves it cannot hold so many.
        """
        short_us = self.draw(key, cost * TOKEN, now_us, settings or self.settings)
        return self.wait_for(cost, -short_us) if short_us else 0

    def wait_for(self, cost: int, wait_us: int) -> int:
        """The wait that the arithmetic says. What no bucket of the present size can hold is not waited for."""
        return wait_us if cost * TOKEN <= self.tokens.capacity else NEVER_US

    def draw(  # all of it written out: there is no hotter path
        self, key: Hashable | None, units: int | None, now_us: int, settings: RateLimiterSettings
    ) -> int:
        """The same in units of a token; None: what a call of these settings takes, which must not be 0 then.

        What is refused is below 0, by the microseconds to wait: see `wait_for`.
        """
        hashed = 0 if key is None else hash(key)
        # One step from here on, as `sync` and `_reserve` do it in several: `tokens.read`, `tokens.full` and the table written out.
        own, stretch, from_us, full, pace, taken, room, young, mask = self.steady
        if now_us < stretch.until_us and own is settings and now_us >= from_us:
            part = young[hashed & mask]
            if key in part or key in (part := self.table.old[hashed & mask]):
                if pace is not None:
                    full += now_us * pace
                else:
                    tokens = self.tokens
                    full += (now_us - tokens.since_us) * tokens.numerator // tokens.denominator
                bucket = part[key]
                if units is not None:
                    taken, room = units, self.tokens.capacity - units
                    if room < 0 and bucket < full:  # no full bucket holds so many, whatever the next lines take for granted
                        bucket = full
                if bucket < full:
                    bucket = full
                elif (spent := bucket - full) > room:
                    self._refused += 1  # refusing must not be dearer than admitting
                    if pace is not None:
                        return (room - spent) // pace
                    return (tokens.reading - bucket - taken) * tokens.denominator // tokens.numerator + now_us - tokens.since_us
                self.admitted += 1
                if units is None or units:  # a look leaves it as it is: late calls read it by the clock of their own settings
                    part[key] = bucket + taken
                return 0
        # So far.
        self.sync(now_us)
        with self.lock, self.changing:
            return -self._reserve(key, int(settings.cost) if units is None else units // TOKEN, now_us, 0, settings)[0]

    def draw_telling(
        self, key: Hashable | None, units: int | None, now_us: int, settings: RateLimiterSettings
    ) -> tuple[int, TokenClock, int]:
        """`draw` and `standing` in one go, for a call that is recorded: by themselves each looks the bucket up.

        Returns what they return; where the tokens were not there, the last two mean nothing.
        """
        hashed, left, tokens = 0 if key is None else hash(key), -1, self.tokens
        # One step from here on, as in `draw`: what is usual of it.
        own, stretch, from_us, full, pace, taken, room, young, mask = self.steady
        if now_us < stretch.until_us and own is settings and now_us >= from_us:
            part, tokens = young[hashed & mask], self.tokens
            if key in part or key in (part := self.table.old[hashed & mask]):
                if pace is not None:
                    full += now_us * pace
                else:
                    full += (now_us - tokens.since_us) * tokens.numerator // tokens.denominator
                bucket = part[key]
                if bucket < full:
                    bucket = full
                if units is not None:
                    taken, room = units, tokens.capacity - units
                spent = bucket - full
                if spent <= room:
                    self.admitted += 1
                    if units is None or units:
                        part[key] = bucket + taken
                    left = (room - spent) // TOKEN
        # So far.
        if left >= 0:
            return 0, tokens, left
        short_us = self.draw(key, units, now_us, settings)
        return (short_us, tokens, 0) if short_us else (0, *self.standing(key, now_us, settings))

    def reserve(
        self, key: Hashable | None, cost: int, now_us: int, patience_us: int, settings: RateLimiterSettings
    ) -> tuple[int, int]:
        """Take `cost` tokens if they are there, or will be within `patience_us`: first come, first served.

        Returns the microseconds until they are there, as `take` does, and what the token clock reads then. Nothing was taken if
        they are more than `patience_us`.
        """
        self.sync(now_us)
        with self.lock, self.changing:
            return self._reserve(key, cost, now_us, patience_us, settings)

    def _reserve(
        self, key: Hashable | None, cost: int, now_us: int, patience_us: int, settings: RateLimiterSettings
    ) -> tuple[int, int]:
        """Under the lock. What a late call takes must be there by its own clock and by the present one, and is booked in both."""
        own, present = self.clock_of(settings, now_us), self.tokens
        reading = present.read(now_us)
        full = present.full(reading)
        due = self.table.get(key, full) + cost * TOKEN
        own_level = self._level(own, key, now_us)
        is_there = due <= reading and cost * TOKEN <= own_level
        wait_us = 0 if is_there else self._wait_us(due, cost, now_us)
        if wait_us > patience_us:
            self.count_refusal(settings)
            return wait_us, due
        if wait_us:
            self.queued += 1
        else:
            self.admitted += 1
        if cost:
            self.table.put(key, due, full)
            if own is not present:
                own.book_late(key, own.reading - own_level + cost * TOKEN)
        return wait_us, due

    def _level(self, tokens: TokenClock, key: Hashable | None, now_us: int) -> int:
        """What is in the bucket of `key` by the present clock, or by an earlier one that stands still; at least nothing."""
        reading = tokens.read(now_us)
        due = tokens.late.get(key)
        return max(0, reading - (self.table.get(key, tokens.full(reading)) if due is None else due))

    def count_refusal(self, settings: RateLimiterSettings) -> None:
        """One more that is refused, or would be. Under the lock."""
        self._tell_apart()
        self._refused += 1
        self._told_apart += 1
        self._passed_in_shadow += settings.shadow

    def _tell_apart(self) -> None:
        """Book what `draw` has refused as what it is by the settings of now."""
        if self.settings.shadow:
            self._passed_in_shadow += self._refused - self._told_apart
        self._told_apart = self._refused

    @property
    def would_reject(self) -> int:
        """How many calls passed only since the limit is in the shadow."""
        return self._passed_in_shadow + (self._refused - self._told_apart if self.settings.shadow else 0)

    @property
    def rejected(self) -> int:
        """How many calls were refused."""
        # Without `would_reject`: others refuse until that is asked, and in the shadow this would be below 0.
        return (self._told_apart if self.settings.shadow else self._refused) - self._passed_in_shadow

    def _wait_us(self, due: int, cost: int, now_us: int) -> int:
        return self.wait_for(cost, max(_SHORTEST_WAIT_US, self.tokens.wait_until_us(due, now_us)))

    def clock_of(self, settings: RateLimiterSettings, now_us: int) -> TokenClock:
        """The token clock of a call that began at `now_us` under `settings`: that of then, as it stood when it ended."""
        present = self.tokens
        for tokens, ended_us in self._earlier:
            if now_us - ended_us >= _STRAGGLE_US:
                break
            if tokens.goes_by(settings) and not present.goes_by(settings):
                return tokens
        return present

    def told_by(self, settings: RateLimiterSettings, wait_us: int | None, now_us: int) -> TokenClock:
        """Whose numbers a refusal tells: those under which the call began, or of a smaller bucket of now that refused it too.

        Where the present clock has the tokens already, `wait_us` is the shortest wait there is.
        """
        present = self.tokens
        if not self._earlier:
            return present
        tokens = self.clock_of(settings, now_us)
        return present if present.capacity < tokens.capacity and wait_us != _SHORTEST_WAIT_US else tokens

    def give_back(self, key: Hashable | None, cost: int, due: int, now_us: int) -> None:
        """Return the tokens of a waiter that was cancelled before the token clock read `due`.

        From then on they stay spent: the bucket may have been full since, and whoever found it so has had them.
        """
        self.sync(now_us)
        with self.lock, self.changing:
            reading = self.tokens.read(now_us)
            if reading < due:
                full = self.tokens.full(reading)
                self.table.put(key, max(full, self.table.get(key, full) - cost * TOKEN), full)

    def sync(self, now_us: int) -> None:
        """Follow the health signal up to `now_us`. The signal tells its observers before this lock is taken."""
        tokens, health = self.tokens, self.health
        if health is not None and (
            now_us >= tokens.until_us or now_us >= health.stretch.until_us or health.phase is not tokens.phase
        ):
            health.sync(now_us)
            with self.lock, self.changing:
                self.tokens.catch_up(now_us)

    def configure(self, settings: RateLimiterSettings, now_us: int) -> None:
        """Go by new settings from now on. No bucket is refilled.

        Calls that began in layers of the old settings are decided by what was there when these ended.
        """
        self.sync(now_us)
        with self.lock, self.changing:
            self._tell_apart()
            self.settings = settings
            if not self.tokens.goes_by(settings):
                self._earlier = ((self.tokens, now_us), *self._earlier)[:_EARLIER_KEPT]
                self.tokens = self.tokens.hand_over(settings, now_us)
            self.table.resize(settings.max_keys)

    def move_to(self, health: HealthSignal | None, now_us: int) -> None:
        """Follow another signal from now on."""
        if health is self.health:
            return
        self.sync(now_us)
        if health is not None:
            health.sync(now_us)
        with self.lock, self.changing:
            self.health = health
            self.tokens.follow_signal(health, now_us)

    def quota(self, policy: str, key: Hashable | None, cost: int, now_us: int, tokens: TokenClock) -> Quota:
        """What is left for `key`, and when so much that `cost` more fits. `tokens` is the clock that the call goes by."""
        self.sync(now_us)
        with self.lock:
            present = self.tokens
            reading = present.read(now_us)
            full = present.full(reading)
            bucket = self.table.get(key, full)
            level = reading - bucket
            if tokens is not present:
                level = min(level, self._level(tokens, key, now_us))
            missing = min(cost * TOKEN, tokens.capacity) - level  # more than the bucket holds is never there
            if missing <= 0:  # enough for this call: the next whole token, unless the bucket is full
                missing = TOKEN - level % TOKEN if bucket > full else 0
            return Quota(
                policy,
                limit=tokens.capacity // TOKEN,
                window_s=max(1, -(-tokens.wait_us(tokens.capacity) // US_PER_S)),
                remaining=max(0, level // TOKEN),
                available_in_s=present.wait_until_us(reading + missing, now_us) / US_PER_S if missing > 0 else 0.0,
            )

    def standing(self, key: Hashable | None, now_us: int, settings: RateLimiterSettings) -> tuple[TokenClock, int]:
        """The token clock of a call under `settings`, and how many whole tokens are left for `key`: what `quota` says of them.

        All the rest of a quota nobody asks for where a call is only recorded.
        """
        hashed, left, tokens = 0 if key is None else hash(key), -1, self.tokens
        # One step from here on, as in `draw`: `_level` written out.
        own, stretch, from_us, full, pace, taken, room, young, mask = self.steady
        if now_us < stretch.until_us and own is settings and now_us >= from_us:
            part, tokens = young[hashed & mask], self.tokens
            if key in part or key in (part := self.table.old[hashed & mask]):
                if pace is not None:
                    full += now_us * pace
                else:
                    full += (now_us - tokens.since_us) * tokens.numerator // tokens.denominator
                bucket = part[key]
                if bucket < full:
                    bucket = full
                left = room + taken - (bucket - full)
                left = left // TOKEN if left > 0 else 0
        # So far.
        if left >= 0:
            return tokens, left
        self.sync(now_us)
        tokens = self.clock_of(settings, now_us)
        return tokens, self.quota("", key, 0, now_us, tokens).remaining
