"""Tokens taken ahead: a decision spends what is here, and the store's thread brings more before it runs out.

A token is taken from the shared bucket before anybody spends it, so all processes together never admit more than the bucket issues.
A lease is as large as what was asked of it in the last tenth of a second, and never more than a small part of the bucket; one that
is not used for a second is given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from resilience.layers.limiter.questions import Answer, Take
from resilience.layers.limiter.shared_bucket import UNIT, Decided, Pace

LEASE_US: Final = 100_000
"""For how long a lease should last."""
LAPSES_US: Final = 1_000_000
"""What nobody has used for so long is given back."""
MOST_LEASES: Final = 100_000
"""Keys with a lease of their own; beyond, new ones are asked about each time."""
_SHORTEST_US: Final = 10_000
_Name = tuple[str, str | None]


class _Lease:
    """What this process holds of one bucket. Guarded by the lock of its table."""

    __slots__ = (
        "asked",
        "empty_until_us",
        "is_asking",
        "is_cut",
        "is_fetching",
        "pace",
        "question",
        "since_us",
        "size",
        "tokens",
        "units",
        "used_us",
    )

    def __init__(self, question: Take, now_us: int) -> None:
        self.question = question
        self.pace = question.pace
        self.tokens = 0
        self.size = 1
        self.asked = 0
        self.since_us = self.used_us = now_us
        self.empty_until_us = 0
        self.is_fetching = False  # the thread does
        self.is_asking = False  # a call does
        self.units = 0
        self.is_cut = False

    def is_low(self, now_us: int) -> bool:
        """Whether somebody should fetch more."""
        return 2 * self.tokens < self.size > 1 and not self.is_fetching and now_us >= self.empty_until_us

    def measure(self, now_us: int, most: int) -> int:
        """How large it should be: what is asked of it in the time for which it should last."""
        elapsed_us = max(_SHORTEST_US, now_us - self.since_us)
        wanted = -(-self.asked * LEASE_US // elapsed_us)
        self.size = max(1, min(most, max(wanted, self.size // 2)))
        self.asked, self.since_us = 0, now_us
        return self.size


class Leases:
    """All leases of a process.

    `fetch` is told that somebody should call `questions`; `give_back` takes a question whose tokens are returned, and their number.
    """

    def __init__(self, workers: Callable[[], int], fetch: Callable[[], None], give_back: Callable[[Take, int], None]) -> None:
        self._workers = workers
        self._fetch = fetch
        self._give_back = give_back
        self._lock = threading.Lock()
        self._leases: dict[_Name, _Lease] = {}
        self._to_fetch: list[_Lease] = []

    def take(self, question: Take, now_us: int) -> Answer | None:
        """Decide by what is here, or None where the store must be asked."""
        is_low, surplus = False, 0
        with self._lock:
            lease = self._leases.get((question.limit, question.key))
            if lease is None:
                return None
            if question.pace is not lease.pace:
                surplus = self._follow(lease, question.pace, now_us)
            cost = question.least
            lease.question, lease.used_us = question, now_us
            lease.asked += cost
            answer: Answer | None = None
            if lease.tokens >= cost:
                lease.tokens -= cost
                answer = Decided(cost, 0, lease.units + lease.tokens * UNIT, lease.is_cut)
            elif now_us < lease.empty_until_us and not question.patience_us:
                answer = Decided(0, lease.empty_until_us - now_us, lease.units + lease.tokens * UNIT, lease.is_cut)
            if answer is not None and lease.is_low(now_us):
                lease.is_fetching = is_low = True
                self._to_fetch.append(lease)
        if is_low:
            self._fetch()
        if surplus:
            self._give_back(question, surplus)
        return answer

    def ahead(self, question: Take, now_us: int) -> bool:
        """Let a question that goes to the store take tokens ahead, unless another call does so already. Returns whether it does."""
        with self._lock:
            lease = self._leases.get((question.limit, question.key))
            if lease is None:
                if len(self._leases) >= MOST_LEASES:
                    return False
                lease = self._leases[question.limit, question.key] = _Lease(question, now_us)
                lease.asked = question.least
            if lease.is_asking:
                return False
            ahead = lease.measure(now_us, self._most(question.pace))
            lease.is_asking = ahead > 1  # a bucket too small to be parted is asked about each time
            question.most = question.least + (ahead if lease.is_asking else 0)
            if lease.is_fetching and lease in self._to_fetch:  # the thread has not come to it yet
                self._to_fetch.remove(lease)
                lease.is_fetching = False
            return lease.is_asking

    def keep(self, question: Take, answer: Answer, now_us: int, *, is_ahead: bool) -> Answer:
        """Keep what an answer holds beyond the cost of its question. Returns the answer to that."""
        cost = question.least
        with self._lock:
            lease = self._leases.get((question.limit, question.key))
            if lease is not None and is_ahead:
                lease.is_asking = False
            if not isinstance(answer, Decided):
                return answer
            extra = answer.taken - cost if answer.taken else 0
            left = answer.units
            if lease is not None:
                lease.units, lease.is_cut = answer.units, answer.is_cut
                if answer.wait_us > 0:
                    lease.empty_until_us = now_us + answer.wait_us
                lease.tokens += extra
                extra = 0
                left += lease.tokens * UNIT
        if extra:
            self._give_back(question, extra)
        return answer._replace(taken=min(cost, answer.taken), units=left)

    def questions(self, now_us: int) -> list[Take]:
        """What the store's thread should ask to fill what runs low."""
        asked = []
        with self._lock:
            leases, self._to_fetch = self._to_fetch, []
            for lease in leases:
                known = lease.question
                missing = lease.measure(now_us, self._most(known.pace)) - lease.tokens
                if missing <= 0:
                    lease.is_fetching = False
                    continue
                question = Take(known.limit, known.key, known.pace, known.fresh_units, 1)
                question.most = missing
                asked.append(question)
        return asked

    def fill(self, question: Take, answer: Answer, now_us: int) -> None:
        """What became of one of `questions`."""
        taken = answer.taken if isinstance(answer, Decided) else 0
        with self._lock:
            lease = self._leases.get((question.limit, question.key))
            if lease is not None:
                lease.is_fetching = False
                lease.tokens += taken
                if isinstance(answer, Decided):
                    lease.units, lease.is_cut = answer.units, answer.is_cut
                    lease.empty_until_us = now_us + answer.wait_us if answer.wait_us > 0 else 0
                return
        if taken:
            self._give_back(question, taken)

    def lapse(self, now_us: int) -> None:
        """Give back what nobody has used for a while."""
        with self._lock:
            idle = [name for name, lease in self._leases.items() if self._has_lapsed(lease, now_us)]
            lapsed = [self._leases.pop(name) for name in idle]
        for lease in lapsed:
            if lease.tokens:
                self._give_back(lease.question, lease.tokens)

    @staticmethod
    def _has_lapsed(lease: _Lease, now_us: int) -> bool:
        return now_us - lease.used_us >= LAPSES_US and not lease.is_fetching and not lease.is_asking

    def give_all_back(self) -> None:
        """At the end of the store."""
        with self._lock:
            leases, self._leases = list(self._leases.values()), {}
            self._to_fetch = []
        for lease in leases:
            if lease.tokens:
                self._give_back(lease.question, lease.tokens)

    def __len__(self) -> int:
        return len(self._leases)

    def forget(self) -> None:
        """In a forked child: the tokens are the parent's."""
        self._lock = threading.Lock()
        self._leases = {}
        self._to_fetch = []

    def _most(self, pace: Pace) -> int:
        """No process takes more at a time than a quarter of its part of a full bucket; the thread and a call may both do so."""
        return max(1, pace.capacity // UNIT // (4 * max(1, self._workers())))

    def _follow(self, lease: _Lease, pace: Pace, now_us: int) -> int:
        """Go by the pace of now. Returns how many tokens of the lease a cut takes away."""
        before, after = lease.pace.at(0)[0] / lease.pace.denominator, pace.at(0)[0] / pace.denominator
        lease.pace = pace
        kept = lease.tokens if after >= before else int(lease.tokens * after / before)
        surplus, lease.tokens = lease.tokens - kept, kept
        return surplus
