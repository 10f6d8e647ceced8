"""What a limiter asks a store that processes share, and what it is answered: the words that every such store speaks."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from resilience.layers.limiter.shared_bucket import Decided, Pace


class Take:
    """One question: take tokens of one bucket.

    limit: the name of the limiter. key: whose bucket, or None where there is one for all.
    pace: what the limit allows. fresh_units: what is in a bucket that the store does not know.
    least, most: as many whole tokens as there are between them; both are the call's cost where nothing is taken ahead.
    patience_us: how long the caller would wait for `least` of them.
    timeout_us: how long the caller can wait for the answer; a store may have a shorter limit of its own.
    place: where the store keeps the bucket, as far as it has found out: a note of its own.
    """

    __slots__ = ("fresh_units", "key", "least", "limit", "most", "pace", "patience_us", "place", "timeout_us")

    def __init__(
        self, limit: str, key: str | None, pace: Pace, fresh_units: int, cost: int, patience_us: int = 0, timeout_us: int = 1 << 62
    ) -> None:
        self.limit = limit
        self.key = key
        self.pace = pace
        self.fresh_units = fresh_units
        self.least = self.most = cost
        self.patience_us = patience_us
        self.timeout_us = timeout_us
        self.place: Any = None

    def __repr__(self) -> str:
        return f"Take({self.limit!r}, {self.least}..{self.most})"


class Away(NamedTuple):
    """The answer of a store that gave none in time. `reason` is for people; `retry_after_us` is when it is asked next."""

    reason: str
    retry_after_us: int


Answer = Decided | Away


class Buckets(Protocol):
    """A store of buckets that several processes share. No trouble of its own is ever raised: that is answered `Away`.

    needs_io: whether `take` may have no answer without a trip, so that a driver must be asked to make it.
    workers: how many processes share it, as far as is known, this one included; at least 1.
    offset_us: its clock less the clock of this process.
    """

    kind: str
    needs_io: bool

    @property
    def workers(self) -> int: ...

    @property
    def offset_us(self) -> int: ...

    def prepare(self, limit: str, max_keys: int | None) -> None:
        """A limit will ask about up to `max_keys` keys, or None: about one bucket for all. Called when it is built or set anew."""

    def owe(self, question: Take, tokens: int) -> None:
        """So many were spent by the local share, since the answer was `Away`. A store may take them from the bucket later."""

    def take(self, question: Take) -> Answer | None:
        """Answer at once: from what is at hand, or that the store is away. None: it takes a trip, so `ask` or `aask` it.

        Never waits for anything longer than 5 ms.
        """

    def ask(self, question: Take) -> Answer:
        """Answer, blocking this thread for at most the store's timeout."""

    async def aask(self, question: Take) -> Answer:
        """Answer, suspending this task. Nothing else on the event loop waits."""

    def give_back(self, question: Take, decided: Decided, due_us: int) -> None:
        """Return what was taken, unless the instant `due_us` by the store's clock has passed; 0 is never. Does not wait."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see."""


class HasBuckets(Protocol):
    """A store, as far as its limiters care."""

    @property
    def buckets(self) -> Buckets: ...
