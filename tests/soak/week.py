"""A service in virtual time: callers, a dependency that breaks down now and then, and books that say what must come of it."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from resilience import (
    BreakerChanged,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    HealthChanged,
    HealthSignal,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
)
from resilience.clock import US_PER_S
from resilience.events import Event
from resilience.testing import ManualClock

MINUTE_US: Final = 60 * US_PER_S
SURGE_S: Final = 1_800
"""How long calls come fast around an incident; the incident begins a third of the way in."""
QUIET_PER_S: Final = 1
CLIENTS: Final = 300
NOISY: Final = "noisy"
"""The client of one call in twenty."""
READS: Final = 0.05
"""The share of calls that are retried."""

RATE_PER_S, BURST = 100, 200
CLIENT_RATE_PER_S, CLIENT_BURST, MAX_KEYS = 2, 20, 200
OPEN_S, PROBES, MIN_CALLS = 20.0, 5, 20
FLOOR: Final = 30
"""Percent of the rate that an incident leaves. It comes back by 5 a minute."""
OK, DOWN, OPEN, LIMITED, CUT = b".dolc"
LETTERS: Final = {"ok": OK, "down": DOWN, "open": OPEN, "limited quota": LIMITED, "limited cut": CUT}
"""How a call may end, and the letter that goes into the digest."""
LEGAL: Final = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}


class Down(ConnectionError):
    """The dependency does not answer. Worth another try."""


@dataclass(frozen=True)
class Schedule:
    """When the dependency is down, in seconds since the beginning, and how fast calls come."""

    days: float
    outages: tuple[tuple[int, int], ...]
    surge_per_s: int = 100

    @classmethod
    def draw(cls, seed: int, days: float, incidents: int, surge_per_s: int = 100) -> Schedule:
        """Incidents spread evenly, each at a random time of its share and of random length."""
        chance = random.Random(seed)
        share_s = int(days * 86_400) // incidents
        starts = [share_s * number + 600 + chance.randrange(max(1, share_s - SURGE_S)) for number in range(incidents)]
        return cls(days, tuple((start, start + chance.randrange(120, 600)) for start in starts), surge_per_s)

    def surges_in(self, minute: int) -> bool:
        """Whether calls come fast in this minute."""
        return any(start - SURGE_S // 3 <= minute * 60 < start + SURGE_S * 2 // 3 for start, _ in self.outages)

    def is_down(self, second: int) -> bool:
        """Whether the dependency fails in this second."""
        index = bisect_right(self.outages, (second, 1 << 40)) - 1
        return index >= 0 and second < self.outages[index][1]


@dataclass
class Books:
    """What was seen from outside: ends of calls, tries, changes of state. All that is checked is worked out from these."""

    ends: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    let_in: int = 0  # by both limiters, since it was last weighed
    changes: list[tuple[int, str, str, int]] = field(default_factory=list)  # when, old, new, generation
    factors: list[tuple[float, float]] = field(default_factory=list)
    climbs_since_us: int | None = None
    checked: int = 0  # so many of the changes were found to be legal; they left it so:
    state: str = "closed"
    generation: int = 1
    opened_us: int = 0
    incidents: int = 0
    excess: float = 0.0


class Service:
    """Two pipelines in front of one dependency: reads are retried, orders are not. All layers share one health signal."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self.schedule = schedule
        self.chance = random.Random(seed)
        self.clock = clock = ManualClock()
        self.start_us = clock.now_us()
        self.books = Books()
        self.digest = hashlib.sha256()
        self.is_down = False
        self.client = ""
        self.clients = [NOISY] * (CLIENTS // 20) + [f"client {number}" for number in range(CLIENTS - CLIENTS // 20)]
        self.by_client: defaultdict[str, int] = defaultdict(int)  # let in by both limiters, in this minute
        self.percent_before = 100
        self.signal = signal = HealthSignal(clock=clock)
        self.deadline = Deadline(1.0, clock=clock)
        self.per_client = RateLimiter(
            CLIENT_RATE_PER_S, burst=CLIENT_BURST, key=lambda call: self.client, max_keys=MAX_KEYS, health=signal, clock=clock
        )
        self.limiter = RateLimiter(RATE_PER_S, burst=BURST, health=signal, clock=clock)
        self.retry = Retry(3, backoff_s=(0.0005, 0.002), budget=(100, 0.1), health=signal, clock=clock, uniform=self.chance.random)
        self.breaker = CircuitBreaker(
            min_calls=MIN_CALLS, open_for_s=OPEN_S, probes=PROBES, health=signal, clock=clock, uniform=self.chance.random
        )
        before = (self.deadline, self.per_client, self.limiter)
        self.reads = Pipeline("reads", *before, self.retry, self.breaker)
        self.orders = Pipeline("orders", *before, self.breaker)

    def on_event(self, event: Event) -> None:
        """Note it, as an operator's log would."""
        if isinstance(event, BreakerChanged):
            now_us = self.clock.now_us()
            self.books.changes.append((now_us, event.old, event.new, event.generation))
            if event.old == "closed":
                self.books.climbs_since_us = None
            elif event.new == "closed":
                self.books.climbs_since_us = now_us
        elif isinstance(event, HealthChanged):
            self.books.factors.append((event.old_factor, event.factor))

    # --- traffic ------------------------------------------------------------------------------------------------------

    def work(self) -> str:
        """What the dependency does with a call: some of it fails on a good day too."""
        self.books.tries += 1
        if self.is_down or self.chance.random() < 0.01:
            raise Down
        return "ok"

    def pass_time(self, second: int, seconds: int, calls: int) -> None:
        """So many calls in so many seconds from `second` on, evenly spread."""
        chance, clock, call = self.chance, self.clock, self.call
        reads, orders, clients = self.reads, self.orders, self.clients
        self.is_down = self.schedule.is_down(second)
        ends = bytearray()
        due_us = self.start_us + second * US_PER_S
        step_us = seconds * US_PER_S // calls
        for _ in range(calls):
            ahead_us = due_us - clock.now_us()
            if ahead_us > 0:  # a retry may have taken the clock a little further
                clock.advance(ahead_us / US_PER_S)
            draw = chance.random()
            self.client = clients[int(draw * CLIENTS)]
            ends.append(call(reads if draw * 10_000 % 1 < READS else orders))
            due_us += step_us
        self.digest.update(ends)
        self.books.ends.update({name: ends.count(letter) for name, letter in LETTERS.items()})
        self.books.let_in += calls - ends.count(LIMITED) - ends.count(CUT)
        clock.advance((self.start_us + (second + seconds) * US_PER_S - clock.now_us()) / US_PER_S)
        self.weigh(seconds)

    def call(self, pipeline: Pipeline) -> int:
        """One call, and a letter for how it ended."""
        try:
            pipeline.call(self.work)
            end = OK
        except RateLimited as refused:
            return LIMITED if refused.reason == "quota" else CUT
        except CircuitOpen:
            end = OPEN
        except Down:
            end = DOWN
        self.by_client[self.client] += 1
        return end

    # --- what must hold -----------------------------------------------------------------------------------------------

    def percent(self, now_us: int) -> int:
        """The factor that the changes of the breaker call for: down to the floor once, then 5 more for each full minute."""
        books = self.books
        if not books.changes:
            return 100
        if books.climbs_since_us is None:
            return FLOOR
        return min(100, FLOOR + 5 * (max(0, now_us - books.climbs_since_us) // MINUTE_US))

    def weigh(self, seconds: int) -> None:
        """At most a bucket and what was issued since is let in, in any window of whole seconds."""
        books = self.books
        percent = self.percent(self.clock.now_us())
        most = max(percent, self.percent_before)  # a cut in the midst of it was not in force before
        self.percent_before = percent
        books.excess = max(0.0, books.excess + books.let_in - RATE_PER_S * seconds * most / 100)
        books.let_in = 0
        assert books.excess <= BURST, books.excess

    def check_minute(self) -> None:
        """Everything that can be known of the minute that has just passed."""
        now_us, books = self.clock.now_us(), self.books
        percent = self.percent(now_us)
        assert round(self.signal.factor * 100, 7) == percent
        assert round(self.limiter.rate_per_s, 7) == RATE_PER_S * percent / 100
        self.check_breaker()
        self.check_counts()
        self.check_sizes()
        most = CLIENT_BURST + CLIENT_RATE_PER_S * 60
        assert max(self.by_client.values(), default=0) <= most
        self.by_client.clear()
        self.clock.slept_s.clear()
        self.digest.update(f"{percent} {self.breaker.state.value} {sorted(books.ends.items())}".encode())

    def check_breaker(self) -> None:
        """Every change is a legal one, from the state before, in the next generation, and not before its time."""
        books = self.books
        for at_us, old, new, generation in books.changes[books.checked :]:
            assert (old, generation) == (books.state, books.generation + 1)
            assert (old, new) in LEGAL
            if new == "half_open":
                assert at_us - books.opened_us >= 0.9 * OPEN_S * US_PER_S
            elif new == "open":
                books.opened_us = at_us
            books.incidents += old == "closed"
            books.state, books.generation = new, generation
        books.checked = len(books.changes)
        assert (self.breaker.state.value, self.breaker.pool.single.generation) == (books.state, books.generation)
        assert len(self.breaker.pool.single._probes) <= PROBES
        assert self.signal.in_incident == (books.state != "closed")
        assert self.signal.incidents == books.incidents

    def check_counts(self) -> None:
        """What each layer says it did adds up with what callers saw."""
        ends, books = self.books.ends, self.books
        calls = sum(ends.values())
        per_client, limiter, breaker = self.per_client.decisions(), self.limiter.decisions(), self.breaker.decisions()
        assert self.deadline.decisions() == {"admitted": calls, "expired": 0}
        assert per_client["admitted"] + per_client["rejected"] == calls
        assert limiter["admitted"] + limiter["rejected"] == per_client["admitted"]
        assert per_client["rejected"] + limiter["rejected"] == ends["limited quota"] + ends["limited cut"]
        assert breaker["admitted"] + breaker["probe"] == books.tries
        assert books.tries + breaker["rejected"] == limiter["admitted"] + self.retry.decisions()["retried"]
        assert breaker["rejected"] == ends["open"]

    def check_sizes(self) -> None:
        """Nothing grows with time."""
        table = self.per_client.state.table
        assert len(table) == sum(map(len, (*table.young, *table.old))) <= MAX_KEYS
        assert len(self.signal._phases) <= 64
        assert len(self.signal._holds) <= 1
        assert self.clock.pending_timers == 0
        assert len(self.clock._timers) == 0

    def run(self) -> str:
        """From beginning to end. Returns the digest of all decisions."""
        schedule = self.schedule
        for minute in range(int(schedule.days * 1_440)):
            if schedule.surges_in(minute):
                for second in range(minute * 60, minute * 60 + 60):
                    self.pass_time(second, 1, schedule.surge_per_s)
            else:
                self.pass_time(minute * 60, 60, 60 * QUIET_PER_S)
            self.check_minute()
        return self.digest.hexdigest()
