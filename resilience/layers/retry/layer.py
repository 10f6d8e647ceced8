"""The retry policy: whether and when to try again, for any callable."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from resilience.call import Call, Decision
from resilience.clock import SYSTEM_CLOCK, US_PER_S, Clock, to_us
from resilience.errors import CircuitOpen, DeadlineExceeded
from resilience.health import PPB, HealthSignal
from resilience.layers.retry.backoff import Uniform, delay_s
from resilience.layers.retry.budget import RetryBudget
from resilience.layers.retry.on import RetryOn
from resilience.layers.retry.settings import IDEMPOTENT_METHODS, RetrySettings
from resilience.layers.retry.verdict import DEFAULT_ON, Judge, Retryable, Verdict, function_judge
from resilience.registry import enrol

log = logging.getLogger("resilience")
_GAVE_UP: Final = "gave up after"


class RetryState:
    """The state of one retry policy: its budget and its counts. It outlives changes of settings."""

    def __init__(self, settings: RetrySettings, health: HealthSignal | None) -> None:
        self.lock = threading.Lock()
        self.budget = RetryBudget(settings.budget_tokens, settings.budget_ratio)
        self.health = health
        self.admitted = 0
        self.retried = 0
        self.given_up = 0

    def configure(self, settings: RetrySettings, health: HealthSignal | None) -> None:
        """Go by new settings; the share of the budget that is left stays."""
        self.health = health
        self.budget.configure(settings.budget_tokens, settings.budget_ratio)

    def factor_ppb(self, now_us: int) -> int:
        """The factor on what a success earns."""
        return PPB if self.health is None else self.health.factor_ppb_at(now_us)


class Retry:
    """Tries again when it is worth it, the caller still waits, and the policy's budget allows it.

    Args:
        attempts: tries in all, 1 to 100; default 3.
        backoff_s: the first and the longest wait's ceiling in seconds, or one number for a constant wait; default (0.1, 2).
        jitter: "full" (default), "equal", "decorrelated" or "none".
        on: exception classes to retry, or a function of the exception; default `OSError`. Refusals of ours only where named.
        on_result: says of a result that it is a failure worth another try.
        methods: the HTTP methods that are retried; default those that are idempotent (RFC 9110). A request of another one is
            retried only where it has an `Idempotency-Key` header.
        max_advice_s: give up when the server asks for a longer wait; default 30.
        budget: (tokens, ratio) of the retry budget: each retryable failure costs 1, each success earns `ratio`, and retries stop
            while half the tokens or less are left; default (10, 0.1).
        when_nested: retry even inside a call that is being retried further out; default no.
        health: the signal that lowers what a success earns; None for none.
        name: for telemetry and notes.
        clock: where time comes from.
        uniform: draws the jitter from [0, 1); default the process's random numbers.

    Raises:
        ValueError: a setting is out of range.
    """

    kind: ClassVar[str] = "retry"

    def __init__(
        self,
        attempts: int = 3,
        *,
        backoff_s: float | tuple[float, float] = (0.1, 2.0),
        jitter: str | None = None,
        on: Retryable = DEFAULT_ON,
        on_result: Callable[[Any], bool] | None = None,
        methods: Iterable[str] = IDEMPOTENT_METHODS,
        max_advice_s: float = 30.0,
        budget: tuple[int, float] = (10, 0.1),
        when_nested: bool = False,
        health: HealthSignal | None = None,
        name: str = "retry",
        clock: Clock = SYSTEM_CLOCK,
        uniform: Uniform = random.random,
    ) -> None:
        base_s, most_s = backoff_s if isinstance(backoff_s, tuple) else (backoff_s, backoff_s)
        settings = RetrySettings(
            attempts=attempts,
            backoff_base_s=base_s,
            backoff_max_s=most_s,
            jitter=jitter or ("full" if isinstance(backoff_s, tuple) else "none"),
            methods=tuple(methods),
            max_advice_s=max_advice_s,
            budget_tokens=budget[0],
            budget_ratio=budget[1],
            when_nested=when_nested,
        )
        self._bind(settings, RetryState(settings, health), name, clock, uniform)
        self.judge: Judge = function_judge(on, on_result)
        self.judges_results = on_result is not None
        self.names_errors = on is not DEFAULT_ON

    @classmethod
    def over(cls, state: RetryState, settings: RetrySettings, *, name: str, clock: Clock) -> Retry:
        """A retry policy of these settings over a state that exists already."""
        layer = cls.__new__(cls)
        layer._bind(settings, state, name, clock, random.random)
        layer.judge = function_judge((*DEFAULT_ON, *layer.on.refusals), None)
        layer.judges_results = False
        layer.names_errors = False
        return layer

    def _bind(self, settings: RetrySettings, state: RetryState, name: str, clock: Clock, uniform: Uniform) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.on = RetryOn.of(settings.on)
        self.state = state
        self._uniform = uniform
        enrol(self)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self.state.lock = threading.Lock()
        self.state.budget.renew_lock()

    def begin(self, call: Call, judge: Judge | None = None) -> Tries:
        """Start counting the tries of one call."""
        return Tries(self, call, judge or self.judge)

    def decisions(self) -> Mapping[str, int]:
        state = self.state
        return {
            Decision.ADMITTED.value: state.admitted,
            Decision.RETRIED.value: state.retried,
            Decision.REJECTED.value: state.given_up,
        }

    def status(self) -> Mapping[str, Any]:
        return {"budget_tokens": self.state.budget.tokens, **self.decisions()}

    def __repr__(self) -> str:
        return f"Retry({self.name!r}, attempts={self.settings.attempts})"


class Tries:
    """The tries of one call; private to it.

    made: tries that have ended. delay_us: the wait before the next. stopped: why there is no next.
    """

    __slots__ = (
        "_backoffs",
        "_call",
        "_first_us",
        "_judge",
        "_last_real",
        "_nested",
        "_previous_s",
        "_retry",
        "delay_us",
        "made",
        "stopped",
    )

    def __init__(self, retry: Retry, call: Call, judge: Judge) -> None:
        self._retry = retry
        self._call = call
        self._judge = judge
        self._first_us = call.now_us
        self._backoffs = 0
        self._previous_s = 0.0
        self._last_real: BaseException | None = None
        self._nested = not retry.settings.when_nested and _is_retried_further_out(call)
        self.made = 0
        self.delay_us = 0
        self.stopped = ""
        with retry.state.lock:
            retry.state.admitted += 1

    def again(self, error: BaseException | None, result: Any, now_us: int) -> bool:
        """Take in how a try ended. True: wait `delay_us` and try again. False: `stopped` says why not, empty for success."""
        self.made += 1
        state = self._retry.state
        if error is not None and not isinstance(error, Exception):
            self.stopped = "cancelled"
            return False
        if isinstance(error, DeadlineExceeded) and self._call.deadline_us is not None and now_us >= self._call.deadline_us:
            self.stopped = "the deadline ran out"
            return False
        verdict = self._verdict(error, result)
        if not verdict.retryable and not verdict.forbidden:
            if error is None and not verdict.failed:
                state.budget.earn(state.factor_ppb(now_us))
            else:
                self.stopped = "not worth another try"
            return False
        may_spend = state.budget.spend()
        self.stopped = self._obstacle(verdict.advice_s, verdict.forbidden, may_spend, now_us)
        if self.stopped:
            with state.lock:
                state.given_up += 1
            return False
        if error is not None and not isinstance(error, CircuitOpen):
            self._last_real = error
        with state.lock:
            state.retried += 1
        return True

    def _verdict(self, error: BaseException | None, result: Any) -> Verdict:
        try:
            return self._judge(error, result)
        except Exception:
            log.exception("%s: what it asks whether to try again raised; it does not", self._retry.name)
            return Verdict(retryable=False)

    def _obstacle(self, advice_s: float | None, forbidden: bool, may_spend: bool, now_us: int) -> str:
        settings = self._retry.settings
        if forbidden:
            return "the server asks not to retry"
        if self.made >= settings.attempts:
            return "attempts used up"
        if self._nested:
            return "the call is being retried further out"
        if not may_spend:
            return "the retry budget is dry"
        if advice_s is None:
            self._backoffs += 1
            self._previous_s = delay_s(settings, self._backoffs, self._previous_s, self._retry._uniform)
            self.delay_us = to_us(self._previous_s)
        elif advice_s > settings.max_advice_s:
            return f"the server asks for a wait of {advice_s:.3g} s"
        else:
            self.delay_us = to_us(advice_s)
            self._backoffs, self._previous_s = 0, 0.0  # what follows starts from the base again (gRFC A6)
        deadline_us = self._call.deadline_us
        if deadline_us is not None and now_us + self.delay_us >= deadline_us:
            return "the deadline would pass during the wait"
        return ""

    @property
    def policy(self) -> str:
        """The name of the policy whose tries these are."""
        return self._retry.name

    def finish(self, error: BaseException | None, result: Any, now_us: int) -> Any:
        """Hand on how the last try ended."""
        if error is None:
            return result
        try:
            raise self.final(error, now_us)
        finally:
            del error  # its traceback refers to this frame

    def final(self, error: BaseException, now_us: int) -> BaseException:
        """The error to raise: the last one as itself, with one note; an open breaker is raised from the last real error."""
        if isinstance(error, CircuitOpen) and self._last_real is not None:
            error.__cause__ = self._last_real
        if self.made > 1 or self.stopped not in ("not worth another try", "cancelled"):
            took_s = (now_us - self._first_us) / US_PER_S
            tries = "1 attempt" if self.made == 1 else f"{self.made} attempts"
            note = f"{self._retry.name}: {_GAVE_UP} {tries} in {took_s:.3g} s: {self.stopped}"
            _note(error, self._retry.name, note)
        return error


def _note(error: BaseException, policy: str, note: str) -> None:
    """Leave one note of a policy, in the place of an earlier one: the same object may be raised for each call of a day."""
    notes: list[str] = getattr(error, "__notes__", [])
    notes[:] = [earlier for earlier in notes if not earlier.startswith(f"{policy}: {_GAVE_UP} ")]
    error.add_note(note)


def _is_retried_further_out(call: Call) -> bool:
    """Whether an enclosing call retries, or this is already a retry of somebody further out."""
    around: Call | None = call
    while around is not None:
        if around.attempt > 0 or (around is not call and around.retrying and not around.settled):
            return True
        around = around.parent
    return False
