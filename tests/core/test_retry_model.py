"""Retry budget and deadline against the rule of gRFC A6 ("Throttling Retry Attempts") in whole numbers, and a plain loop of tries.

Calls fail, are advised, forbidden, refused and interrupted, at work and while they wait; they run out of time, their own or that of
one attempt; health is cut and recovers, and the budget gets a new size on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience import CircuitOpen, Deadline, DeadlineExceeded, HealthSignal, Pipeline, RateLimited, Retry, Verdict
from resilience.clock import to_us
from resilience.health import NEVER_US, PPB, Hold
from resilience.layers.retry import RetrySettings
from resilience.testing import ManualClock
from tests.core.helpers import Failure
from tests.soak.sizes import MACHINE

pytestmark = [pytest.mark.soak, pytest.mark.slow]

SETTINGS: Final = strategies.builds(
    RetrySettings,
    attempts=strategies.integers(1, 4),
    backoff_base_s=strategies.sampled_from([0.0, 0.1, 0.25]),
    backoff_max_s=strategies.sampled_from([0.5, 2.0]),
    jitter=strategies.sampled_from(["full", "equal", "decorrelated", "none"]),
    max_advice_s=strategies.sampled_from([1.0, 30.0]),
    budget_tokens=strategies.sampled_from([2, 10, 100, 1_000]),
    budget_ratio=strategies.sampled_from([0.1, 0.5, 1.0, 0.333]),
)
NEVER_RETRIED: Final = ("ok", "cancelled", "interrupted", "broken", "rate_limited", "circuit_open")
ENDS: Final[list[str | float]] = [*["ok"] * 4, *["reset"] * 4, "forbidden", *NEVER_RETRIED, 0.0, 0.3, 0.3, 1.0, 1.0, 5.0, 60.0]


class Interrupted(BaseException):
    """What a signal handler may raise anywhere."""


class Advised(Exception):
    """A server that says when to come back: in so many seconds, or never (None)."""

    def __init__(self, advice_s: float | None) -> None:
        super().__init__()
        self.advice_s = advice_s


@dataclass(frozen=True)
class Try:
    """How one try goes: its end, how long it takes, and whether the wait after it is interrupted."""

    end: str | float
    takes_s: float
    wait_is_interrupted: bool

    def error(self) -> BaseException | None:
        """What it ends with; a number is the server's advice."""
        if isinstance(self.end, float):
            return Advised(self.end)
        made: dict[str, Callable[[], BaseException]] = {
            "reset": ConnectionResetError,
            "broken": Failure,
            "forbidden": lambda: Advised(None),
            "cancelled": asyncio.CancelledError,
            "interrupted": Interrupted,
            "rate_limited": lambda: RateLimited("over the limit"),
            "circuit_open": lambda: CircuitOpen("open"),
        }
        return None if self.end == "ok" else made[self.end]()


ALL_TRIES: Final = [
    Try(end, takes_s, wait_is_interrupted)
    for end in ENDS
    for takes_s in (0.0, 0.0, 0.05, 0.3, 1.0)
    for wait_is_interrupted in (*[False] * 7, True)
]
MOST_TRIES: Final = 4
TRIES: Final = strategies.lists(
    strategies.integers(0, len(ALL_TRIES) - 1).map(lambda index: ALL_TRIES[index]), min_size=MOST_TRIES, max_size=MOST_TRIES
)


@dataclass
class Expected:
    """What a call must do: how it ends, its tries, its waits, and when it is over."""

    end: str
    tries: int
    slept_us: list[int]
    over_us: int


@dataclass(frozen=True)
class Limits:
    """The time for a call and for each of its tries, and whether its work can be cancelled."""

    whole_s: float | None
    each_s: float | None
    work_awaits: bool


class NaiveRetry:
    """The tokens, and one call after the other."""

    def __init__(self, settings: RetrySettings, uniform: float) -> None:
        self.settings = settings
        self.uniform = uniform
        self.most = self.level = settings.budget_tokens * PPB
        self.doublings = 0
        self.previous_s = 0.0

    def configure(self, settings: RetrySettings) -> None:
        most = settings.budget_tokens * PPB
        self.level = self.level * most // self.most
        self.settings, self.most = settings, most

    def call(self, tries: list[Try], start_us: int, limits: Limits, factor_ppb: int) -> Expected:
        """One call that begins now: how it must go."""
        now_us = start_us
        deadline_us = NEVER_US if limits.whole_s is None else now_us + to_us(limits.whole_s)
        slept_us: list[int] = []
        self.doublings, self.previous_s = 0, 0.0
        for made, one in enumerate(tries, start=1):
            attempt_until_us = NEVER_US if limits.each_s is None else now_us + to_us(limits.each_s)
            now_us += to_us(one.takes_s)
            end = one.end
            if limits.work_awaits and now_us >= min(deadline_us, attempt_until_us):  # only work that awaits can be cancelled
                end = "expired"
            if end == "expired" and now_us >= deadline_us:
                return Expected("expired", made, slept_us, now_us)
            wait_us = self.wait_us(end, made, factor_ppb)
            if wait_us is None or now_us + wait_us >= deadline_us:
                return Expected(str(end), made, slept_us, now_us)
            if wait_us and one.wait_is_interrupted:
                return Expected("interrupted", made, slept_us, now_us)
            slept_us += [wait_us] if wait_us else []
            now_us += wait_us
        raise AssertionError("more tries than anybody allowed")

    def wait_us(self, end: str | float, made: int, factor_ppb: int) -> int | None:
        """Take in how a try ended: the wait before the next, None where there must be none."""
        if end == "ok":
            self.level = min(self.most, self.level + round(self.settings.budget_ratio * PPB) * factor_ppb // PPB)
        if end in NEVER_RETRIED:
            return None
        self.level = max(0, self.level - PPB)
        if end == "forbidden" or made >= self.settings.attempts or self.level * 2 <= self.most:
            return None
        if isinstance(end, float):
            self.doublings, self.previous_s = 0, 0.0
            return to_us(end) if end <= self.settings.max_advice_s else None
        self.previous_s = self.backoff_s()
        self.doublings += 1
        return to_us(self.previous_s)

    def backoff_s(self) -> float:
        base_s, most_s = self.settings.backoff_base_s, self.settings.backoff_max_s
        ceiling_s = min(most_s, base_s * 2.0**self.doublings)
        waits_s = {
            "none": ceiling_s,
            "full": ceiling_s * self.uniform,
            "equal": ceiling_s / 2 + ceiling_s / 2 * self.uniform,
            "decorrelated": min(most_s, base_s + (3 * max(base_s, self.previous_s) - base_s) * self.uniform),
        }
        return waits_s[self.settings.jitter]


class InterruptingClock(ManualClock):
    """Sleeps are interrupted where the script of the call says so."""

    interrupts = False

    def sleep(self, duration_s: float) -> None:
        if self.interrupts:
            raise Interrupted
        super().sleep(duration_s)

    async def asleep(self, duration_s: float) -> None:
        if self.interrupts:
            raise Interrupted
        await super().asleep(duration_s)


class RetryAgainstModel(RuleBasedStateMachine):
    """One policy, and calls with deadlines of their own through it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = InterruptingClock()
        self.signal = HealthSignal(clock=self.clock)
        self.hold = Hold()
        self.runner = asyncio.Runner()

    @initialize(settings=SETTINGS, uniform=strategies.sampled_from([0.0, 0.5, 0.96875]))
    def begins(self, settings: RetrySettings, uniform: float) -> None:
        self.model = NaiveRetry(settings, uniform)
        self.retry = Retry(
            settings.attempts,
            backoff_s=(settings.backoff_base_s, settings.backoff_max_s),
            jitter=settings.jitter,
            max_advice_s=settings.max_advice_s,
            budget=(settings.budget_tokens, settings.budget_ratio),
            health=self.signal,
            clock=self.clock,
            uniform=lambda: uniform,
        )
        self.on_errors = self.retry.judge
        self.retry.judge = self.judge

    def judge(self, error: BaseException | None, result: Any) -> Verdict:
        """The policy's own judgement, and what a server advises."""
        if isinstance(error, Advised):
            return Verdict(retryable=error.advice_s is not None, advice_s=error.advice_s, forbidden=error.advice_s is None)
        return self.on_errors(error, result)

    @rule(
        scripts=strategies.lists(TRIES, min_size=1, max_size=2),
        whole_s=strategies.sampled_from([None, 0.3, 1.0, 10.0]),
        each_s=strategies.sampled_from([None, None, 0.25]),
        awaits=strategies.booleans(),
    )
    def calls(self, scripts: list[list[Try]], whole_s: float | None, each_s: float | None, awaits: bool) -> None:
        for tries in scripts:
            self.one_call(tries, whole_s, each_s, awaits)

    def one_call(self, tries: list[Try], whole_s: float | None, each_s: float | None, awaits: bool) -> None:
        start_us = self.clock.now_us()
        factor_ppb = self.signal.factor_ppb_at(start_us)
        expected = self.model.call(tries, start_us, Limits(whole_s, each_s, awaits), factor_ppb)
        self.clock.slept_s.clear()
        script, pipeline = iter(tries), self.pipeline(whole_s, each_s)
        if awaits:
            end = self.runner.run(self.awaited(pipeline, script))
        else:
            end = self.called(pipeline, script)
        self.clock.interrupts = False
        made = len(tries) - sum(1 for _ in script)
        slept_us = [to_us(slept_s) for slept_s in self.clock.slept_s]
        assert Expected(end, made, slept_us, self.clock.now_us()) == expected
        assert made <= self.model.settings.attempts
        assert self.clock.pending_timers == 0

    def pipeline(self, whole_s: float | None, each_s: float | None) -> Pipeline:
        before = [Deadline(whole_s, clock=self.clock)] if whole_s else []
        after = [Deadline(each_s, clock=self.clock)] if each_s else []
        return Pipeline("p", *before, self.retry, *after)

    def begin_try(self, script: Iterator[Try]) -> Try:
        one = next(script)
        self.clock.interrupts = one.wait_is_interrupted
        return one

    def called(self, pipeline: Pipeline, script: Iterator[Try]) -> str:
        def work() -> Try:
            one = self.begin_try(script)
            self.clock.advance(one.takes_s)
            return end_of(one)

        try:
            return str(pipeline.call(work).end)
        except BaseException as error:
            return name_of(error)

    async def awaited(self, pipeline: Pipeline, script: Iterator[Try]) -> str:
        async def work() -> Try:
            one = self.begin_try(script)
            self.clock.advance(one.takes_s)
            await asyncio.sleep(0)  # here a deadline cancels
            return end_of(one)

        try:
            return str((await pipeline.acall(work)).end)
        except BaseException as error:
            return name_of(error)

    @rule(seconds=strategies.sampled_from([1.0, 30.0, 60.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def health_is_cut(self) -> None:
        self.signal.opened(self.hold, self.clock.now_us(), None)

    @rule()
    def health_recovers(self) -> None:
        self.signal.closed(self.hold, self.clock.now_us())

    @rule(settings=SETTINGS)
    def is_configured(self, settings: RetrySettings) -> None:
        self.retry.state.configure(settings, self.signal)
        retry = Retry.over(self.retry.state, settings, name="retry", clock=self.clock)
        retry._uniform, retry.judge = self.retry._uniform, self.judge
        self.retry = retry
        self.model.configure(settings)

    @invariant()
    def the_budget_is_the_same(self) -> None:
        if hasattr(self, "model"):
            assert self.retry.state.budget._level == self.model.level
            assert self.retry.status()["budget_tokens"] == self.model.level / PPB

    def teardown(self) -> None:
        with suppress(RuntimeError):
            self.runner.close()


def end_of(one: Try) -> Try:
    """Return it, or raise what it ends with."""
    error = one.error()
    if error is not None:
        raise error
    return one


def name_of(error: BaseException) -> str:
    """The word of `Try.end` for an error."""
    if isinstance(error, Advised):
        return "forbidden" if error.advice_s is None else str(error.advice_s)
    names: list[tuple[type[BaseException], str]] = [
        (DeadlineExceeded, "expired"),
        (ConnectionResetError, "reset"),
        (Failure, "broken"),
        (asyncio.CancelledError, "cancelled"),
        (Interrupted, "interrupted"),
        (RateLimited, "rate_limited"),
        (CircuitOpen, "circuit_open"),
    ]
    for kind, name in names:
        if isinstance(error, kind):
            return name
    raise error


TestRetryAgainstModel = RetryAgainstModel.TestCase
TestRetryAgainstModel.settings = MACHINE
