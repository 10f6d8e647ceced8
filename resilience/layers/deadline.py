"""The deadline: one absolute instant by which a call must be done, passed on as the time that is left."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from resilience.call import Call, Decision, Outcome, enclosing_call
from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, to_us
from resilience.errors import DeadlineExceeded
from resilience.registry import enrol
from resilience.settings import Kind, option, validate

READ_HEADERS = ("grpc-timeout", "x-envoy-expected-rq-timeout-ms", "connect-timeout-ms")
WRITE_HEADER = "x-envoy-expected-rq-timeout-ms"
MAX_TIMEOUT_S = 86_400


@dataclass(frozen=True, slots=True)
class DeadlineSettings:
    """Settings of a deadline. Without a header and without `default_s` a call has no deadline."""

    default_s: float | None = option(
        Kind.DURATION, "time for a call that brings none", default=None, above=0, maximum=MAX_TIMEOUT_S, optional=True
    )
    max_s: float | None = option(
        Kind.DURATION, "the most a caller can ask for", default=None, above=0, maximum=MAX_TIMEOUT_S, optional=True
    )
    reserve_s: float = option(
        Kind.DURATION, "kept back from what is passed on, for the way home", default=0.0, minimum=0, maximum=60
    )
    read: tuple[str, ...] = option(Kind.NAMES, "headers an inbound timeout is read from", default=READ_HEADERS)
    write: str = option(Kind.CHOICE, "header an outgoing timeout is written to", default=WRITE_HEADER, choices=READ_HEADERS)
    streams: bool = option(Kind.FLAG, "apply to websockets and event streams too", default=False)

    def __post_init__(self) -> None:
        validate(self)
        if self.default_s is not None and self.max_s is not None and self.default_s > self.max_s:
            raise ValueError(f"DeadlineSettings.default_s: must be at most max_s ({self.max_s} s), got {self.default_s} s")
        unknown = [name for name in self.read if name not in READ_HEADERS]
        if unknown:
            raise ValueError(f"DeadlineSettings.read: knows {', '.join(READ_HEADERS)}; got {', '.join(map(repr, unknown))}")


class Deadline:
    """Gives each call an instant by which it must be done: what its caller asked for, else the default; never above `max_s`.

    Args:
        default_s: seconds for a call that brings no deadline; default none.
        max_s: the most a caller can ask for, in seconds; default no bound but the enclosing deadline.
        reserve_s: seconds kept back from what is passed on to the next hop; default 0.
        read: inbound headers the time is read from; the earliest wins.
        write: the header an outgoing request carries it in.
        streams: whether websockets and event streams are bound by it too; default no.
        name: for telemetry and errors.
        clock: where time comes from.

    Raises:
        ValueError: a setting is out of range.
    """

    kind: ClassVar[str] = "deadline"
    has_effects = False
    votes_at_start = False

    def __init__(
        self,
        default_s: float | None = None,
        max_s: float | None = None,
        *,
        reserve_s: float = 0.0,
        read: tuple[str, ...] = READ_HEADERS,
        write: str = WRITE_HEADER,
        streams: bool = False,
        name: str = "deadline",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._bind(DeadlineSettings(default_s, max_s, reserve_s, read, write, streams), DeadlineState(), name, clock)

    @classmethod
    def over(cls, state: DeadlineState, settings: DeadlineSettings, *, name: str, clock: Clock) -> Deadline:
        """A deadline of these settings that goes on with the counts of `state`."""
        layer = cls.__new__(cls)
        layer._bind(settings, state, name, clock)
        return layer

    def _bind(self, settings: DeadlineSettings, state: DeadlineState, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.state = state
        self.default_us = None if settings.default_s is None else to_us(settings.default_s)
        self._max_us = None if settings.max_s is None else to_us(settings.max_s)
        self.reserve_us = to_us(settings.reserve_s)
        self._half_us = 0 if self.default_us is None else self.default_us // 2
        enrol(self)

    def admit(self, call: Call) -> None:
        timeout_us = self.default_us if call.timeout_s is None else self._asked_us(call.timeout_s)
        deadline_us = call.deadline_us  # of what encloses this call
        if timeout_us is not None:
            own_us = call.now_us + timeout_us
            if deadline_us is None or own_us < deadline_us:
                deadline_us = own_us
        elif deadline_us is None:
            return
        call.deadline_us = deadline_us
        left_us = deadline_us - call.now_us
        if left_us < self._half_us:
            call.deadline_counts = False
        if left_us <= 0:
            self._refuse(call)
        self.state.admitted += 1  # no lock: CPython switches threads between calls and rounds of a loop, and here is neither

    def _asked_us(self, timeout_s: float) -> int:
        asked_us = int(min(timeout_s, MAX_TIMEOUT_S) * US_PER_S)
        return asked_us if self._max_us is None else min(asked_us, self._max_us)

    def _refuse(self, call: Call) -> None:
        call.decision = Decision.EXPIRED
        self.state.count_expired()
        raise DeadlineExceeded(
            f"{self.name}: the time for {call.name or 'the call'} had run out before it began",
            policy=self.name,
            reason="expired_on_arrival",
        )

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self.state.lock = threading.Lock()

    def exceeded(self, call: Call) -> DeadlineExceeded:
        """Make the error for a call whose time ran out while it was at work, and count it."""
        self.state.count_expired()
        return DeadlineExceeded(f"{self.name}: the time for {call.name or 'the call'} ran out", policy=self.name, reason="expired")

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        """Nothing to take back: a settled call's deadline is void."""

    def attributes(self, call: Call) -> Mapping[str, Any]:
        if call.deadline_us is None:
            return {}
        return {"resilience.deadline.remaining_s": (call.deadline_us - call.now_us) / US_PER_S}

    def decisions(self) -> Mapping[str, int]:
        return {Decision.ADMITTED.value: self.state.admitted, Decision.EXPIRED.value: self.state.expired}

    def status(self) -> Mapping[str, Any]:
        return {"default_s": self.settings.default_s, "malformed_headers": self.state.malformed, **self.decisions()}

    def __repr__(self) -> str:
        return f"Deadline({self.name!r}, default_s={self.settings.default_s}, max_s={self.settings.max_s})"


class DeadlineState:
    """The counts of one deadline policy."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.admitted = 0
        self.expired = 0
        self.malformed = 0

    def count_expired(self) -> None:
        """One more call that ran out of time."""
        with self.lock:
            self.expired += 1

    def count_malformed(self) -> None:
        """One more header that was no duration and was treated as absent."""
        with self.lock:
            self.malformed += 1


def deadline_us_around(call: Call | None) -> int | None:
    """The instant that binds `call` or a call around it that is still in progress."""
    while call is not None:
        if call.deadline_us is not None and not call.settled:
            return call.deadline_us
        call = call.parent
    return None


@dataclass(frozen=True, slots=True)
class CurrentDeadline:
    """The deadline of the call in progress, for code that wants to know how long it still has."""

    deadline_us: int
    clock: Clock = SYSTEM_CLOCK

    @property
    def deadline_s(self) -> float:
        """The instant on the monotonic clock, in seconds."""
        return self.deadline_us / US_PER_S

    def remaining_s(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(0, self.deadline_us - self.clock.now_us()) / US_PER_S

    def check(self) -> None:
        """Raise `DeadlineExceeded` when the time has run out. For work that cannot be cancelled, such as threads."""
        if self.clock.now_us() >= self.deadline_us:
            raise DeadlineExceeded("the time for this call has run out", policy="deadline", reason="expired")


def current_deadline(clock: Clock = SYSTEM_CLOCK) -> CurrentDeadline | None:
    """The deadline of the call in progress here, or None where there is none. A settled call's deadline is void."""
    deadline_us = deadline_us_around(enclosing_call())
    return None if deadline_us is None else CurrentDeadline(deadline_us, clock)
