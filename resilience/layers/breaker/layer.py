"""The circuit breaker: stops calls to a dependency that fails, and lets a few through to see whether it is back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from resilience.call import Call, Decision, Outcome, Settles
from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, to_us
from resilience.errors import CircuitOpen
from resilience.events import Event, emit
from resilience.health import HealthSignal
from resilience.layers.breaker.classify import Classification, Classifier, Errors, classification
from resilience.layers.breaker.machine import BreakerState, Machine, Refusal, Ticket, Uniform
from resilience.layers.breaker.settings import DEFAULT_FAILED_CODES, DEFAULT_FAILED_STATUSES, CircuitBreakerSettings
from resilience.layers.breaker.table import MachineTable
from resilience.layers.keys import KeyFunction, bounded, key_function
from resilience.registry import enrol


class BreakerPool:
    """The state of one breaker policy: one machine, or a bounded table of them by key. It outlives changes of settings."""

    def __init__(
        self, policy: str, settings: CircuitBreakerSettings, health: HealthSignal | None, now_us: int, uniform: Uniform
    ) -> None:
        self.settings = settings
        self.health = health
        self._policy = policy
        self._uniform = uniform
        self.forced = settings.force
        self.single, events = self._make(None, now_us)
        self.table = MachineTable(self._make, settings.max_keys)
        emit(events)

    def _make(self, key: str | None, now_us: int) -> tuple[Machine, list[Event]]:
        machine = Machine(self._policy, self.settings, self.health, key=key, uniform=self._uniform)
        return machine, machine.forced_now(self.forced, now_us)

    def force(self, state: str | None, now_us: int) -> None:
        """Hold every breaker of this policy "open" or "closed"; None lets them go."""
        self.forced = state
        for machine in self:
            machine.force(state, now_us)

    def configure(self, settings: CircuitBreakerSettings, health: HealthSignal | None, now_us: int) -> None:
        """Go by new settings and write `health` from now on."""
        if settings.force != self.settings.force:  # else what an operator forced by hand stays
            self.forced = settings.force
        is_told_apart_anew = settings.key != self.settings.key
        self.settings = settings
        self.health = health
        self.table.resize(settings.max_keys)
        if is_told_apart_anew:  # no call would reach those of now, and what they hold would stay held
            self.table.clear(now_us)
            self.single.start_over("its key has changed", now_us)
        for machine in self:
            machine.configure(settings, health, self.forced, now_us)

    def retire(self, now_us: int) -> None:
        """The policy is removed: let go of the signal, and write it no more."""
        self.health = None
        for machine in self:
            machine.retire(now_us)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self.table.renew_lock()
        for machine in self:
            machine.renew_lock()

    def __iter__(self) -> Iterator[Machine]:
        yield self.single
        yield from self.table


class CircuitBreaker:
    """Opens when too many recent calls failed or were slow; then refuses until a few probes have succeeded.

    Args:
        failure_rate: share of failed calls that opens, above 0 to 1; default 0.5.
        window_s: seconds for which a call counts; default 30.
        window_calls: count the last so many calls instead of those of the last `window_s`.
        min_calls: calls in the window before it may open; default 20 (at most `window_calls`).
        slow_call_s: a call that takes longer to start answering is slow; default off.
        slow_call_rate: share of slow calls that opens; default 0.5.
        consecutive_failures: failures in a row that open at once; default off.
        open_for_s: seconds it stays open; up to a tenth less, drawn at random, so that a fleet does not probe in step.
        open_growth: factor on the open time after each failed recovery, 1 or more; default 1.
        open_max_s: the longest a growing open time becomes; default 300.
        probes: calls that are let through half-open, and that decide; default 5.
        half_open_for_s: a probe unsettled for so long counts as failed; default `open_for_s`.
        key: None for one breaker; "host", "method", "header:NAME", or a function of the `Call`, for one each.
        max_keys: breakers kept at most when keyed.
        shadow: count and report what would be refused, refuse nothing.
        failed_statuses: HTTP statuses that count as failures: numbers, or ranges such as "500..599" (default). Others show life.
        failed_codes: gRPC codes that count as failures; default UNAVAILABLE, INTERNAL, DATA_LOSS, UNKNOWN, DEADLINE_EXCEEDED
            and ABORTED.
        ignore: exception classes that say nothing of the dependency; default none beyond cancellations and refusals of ours.
        classify: judges an ended call and has the last word; None from it means the rules above.
        health: the signal it writes; None for none.
        name: for telemetry and errors.
        clock: where time comes from.
        uniform: draws the jitter from [0, 1); default the process's random numbers.

    Raises:
        ValueError: a setting is out of range.
        TypeError: `ignore` holds something that is no exception class.
    """

    kind: ClassVar[str] = "breaker"
    has_effects = False
    votes_at_start = True

    def __init__(
        self,
        failure_rate: float = 0.5,
        window_s: float = 30.0,
        *,
        window_calls: int | None = None,
        min_calls: int | None = None,
        slow_call_s: float | None = None,
        slow_call_rate: float = 0.5,
        consecutive_failures: int | None = None,
        open_for_s: float = 30.0,
        open_growth: float = 1.0,
        open_max_s: float = 300.0,
        probes: int = 5,
        half_open_for_s: float | None = None,
        key: str | KeyFunction | None = None,
        max_keys: int = 1_000,
        shadow: bool = False,
        failed_statuses: Iterable[int | str] = DEFAULT_FAILED_STATUSES,
        failed_codes: Iterable[str] = DEFAULT_FAILED_CODES,
        ignore: Errors = (),
        classify: Classifier | None = None,
        health: HealthSignal | None = None,
        name: str = "breaker",
        clock: Clock = SYSTEM_CLOCK,
        uniform: Uniform = random.random,
    ) -> None:
        settings = CircuitBreakerSettings(
            failure_rate=failure_rate,
            window_s=window_s,
            window_calls=window_calls,
            min_calls=min_calls,  # type: ignore[arg-type]  # the settings put their number in the place of None
            slow_call_s=slow_call_s,
            slow_call_rate=slow_call_rate,
            consecutive_failures=consecutive_failures,
            open_for_s=open_for_s,
            open_growth=open_growth,
            open_max_s=open_max_s,
            probes=probes,
            half_open_for_s=half_open_for_s,
            failed_statuses=tuple(str(status) for status in failed_statuses),
            failed_codes=tuple(failed_codes),
            key=None if callable(key) else key,
            max_keys=max_keys,
            shadow=shadow,
        )
        pool = BreakerPool(name, settings, health, clock.now_us(), uniform)
        self._bind(name, clock, settings, pool, key, classification(name, settings, ignore, classify))

    @classmethod
    def over(cls, pool: BreakerPool, settings: CircuitBreakerSettings, *, name: str, clock: Clock) -> CircuitBreaker:
        """A breaker of these settings over a state that exists already; `BreakerPool.configure` makes the state follow."""
        breaker = cls.__new__(cls)
        breaker._bind(name, clock, settings, pool, settings.key, classification(name, settings))
        return breaker

    def _bind(
        self,
        name: str,
        clock: Clock,
        settings: CircuitBreakerSettings,
        pool: BreakerPool,
        key: str | KeyFunction | None,
        rules: Classification | None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.pool = pool
        self.single = pool.single if key is None else None
        self._key_of = None if key is None else key_function(key)
        self._rules = rules
        self._shadow = settings.shadow
        self._slow_us = None if settings.slow_call_s is None else to_us(settings.slow_call_s)
        enrol(self)

    # --- deciding ----------------------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> Ticket | None:
        machine = self.single
        if machine is None:
            machine = self._machine_of(call)
        if call.parent is not None and _is_held(machine, call.parent):
            return None  # met again inside the same call: one call, one vote
        ticket = machine.closed_ticket
        if ticket is not None:
            return ticket
        wait_us = machine.refuses_until_us - call.now_us
        if wait_us > 0 and not self._shadow:  # `machine.admit` and `_refuse`, written out
            machine.rejected += 1
            raise _is_open(self.name, wait_us / US_PER_S)
        answer = machine.admit(call.now_us, shadow=self._shadow)
        if isinstance(answer, Refusal):
            self._refuse(call, answer)
            return None
        if answer.admitted_us is not None:
            call.decision = Decision.PROBE
        return answer

    def _machine_of(self, call: Call) -> Machine:
        if self._key_of is None:
            return self.pool.single
        key = self._key_of(call) if call.key is None else bounded(call.key)
        return self.pool.table.get(key, call.now_us)

    def _refuse(self, call: Call, refusal: Refusal) -> None:
        if self._shadow:
            call.decision = Decision.WOULD_REJECT
            return
        wait_us = refusal.retry_after_us
        retry_after_s = None if wait_us is None else wait_us / US_PER_S
        raise CircuitOpen(policy=self.name, reason=refusal.reason, retry_after_s=retry_after_s)

    def settle(self, token: Ticket, outcome: Outcome, call: Call, now_us: int) -> None:
        machine = token.machine
        if self._rules is not None:
            outcome = self._rules.judge(call, outcome)
        slow = False
        if self._slow_us is not None:  # its own and not the machine's: a call keeps what it began with
            slow = (now_us if call.response_us is None else call.response_us) - call.now_us > self._slow_us
        machine.settle(token, outcome, call, now_us, slow=slow)

    @property
    def settler(self) -> Settles:
        """Who takes the tickets back: the machine itself, where no rules of this layer judge a call before."""
        return self if self.single is None or self._rules is not None or self._slow_us is not None else self.single

    # --- operating and telling ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> BreakerState:
        """The state of the breaker that has no key; half-open begins with the first call after the open time."""
        return self.pool.single.state

    def would_refuse(self, now_us: int) -> bool:
        """Whether it would refuse a call now, as far as that is known beforehand: not of one with keys, and never in the shadow."""
        return self.single is not None and not self._shadow and self.single.would_refuse(now_us)

    def force(self, state: str | None) -> None:
        """Hold it "open" or "closed" whatever happens; None lets it go: closed, with a fresh window."""
        if state not in ("open", "closed", None):
            raise ValueError(f'force: must be "open", "closed" or None, got {state!r}')
        self.pool.force(state, self.clock.now_us())

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self.pool.renew_locks()

    def attributes(self, call: Call) -> Mapping[str, Any]:
        machine, now_us = self.single or self._machine_of(call), call.now_us
        attributes: dict[str, Any] = {
            "resilience.breaker.state": machine._state._value_,  # without the properties of both: a recorded call pays for them
            "resilience.breaker.generation": machine._generation,
            "resilience.breaker.failure_rate": machine.failure_rate(now_us),
        }
        health = machine.health
        if health is not None:
            attributes["resilience.health.factor"] = health.factor_ppb_at(now_us) / 1e9
        return attributes

    def decisions(self) -> Mapping[str, int]:
        forgotten = self.pool.table.forgotten
        admitted, rejected = forgotten[Decision.ADMITTED], forgotten[Decision.REJECTED]
        probed, would_reject = forgotten[Decision.PROBE], forgotten[Decision.WOULD_REJECT]
        for machine in self.pool:  # there may be a hundred thousand
            admitted += machine.admitted
            rejected += machine.rejected
            probed += machine.probed
            would_reject += machine.would_reject
        return {
            Decision.ADMITTED.value: admitted,
            Decision.REJECTED.value: rejected,
            Decision.PROBE.value: probed,
            Decision.WOULD_REJECT.value: would_reject,
        }

    def status(self) -> Mapping[str, Any]:
        return {**self.pool.single.status(self.clock.now_us()), "keys": len(self.pool.table), **self.decisions()}

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, {self.state.value})"


def _is_open(policy: str, retry_after_s: float) -> CircuitOpen:
    """Make the refusal of an open breaker: what the constructor does with keywords, at half its price."""
    refusal = CircuitOpen.__new__(CircuitOpen)
    refusal.policy = policy
    refusal.reason = "open"
    refusal.retry_after_s = retry_after_s
    return refusal


def _is_held(machine: Machine, call: Call | None) -> bool:
    while call is not None:
        if not call.settled and any(getattr(token, "machine", None) is machine for _, token in call.held):
            return True
        call = call.parent
    return False
