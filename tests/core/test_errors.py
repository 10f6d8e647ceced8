"""What the refusals say, and that they survive being handed to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from resilience import CircuitOpen, DeadlineExceeded, Quota, RateLimited, RateLimiter, Rejected
from resilience.errors import refusal_in
from resilience.testing import ManualClock
from tests.core.test_limiter import take

QUOTA = Quota("api", limit=10, window_s=5, remaining=3, available_in_s=0.5)


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (Rejected("in words of its own", policy="api"), "in words of its own"),
        (Rejected(policy="api"), "api: refused"),
        (Rejected(policy="api", retry_after_s=2.0), "api: refused; retry in 2 s"),
        (RateLimited(policy="api", retry_after_s=0.1234), "api: over the limit; retry in 0.123 s"),
        (RateLimited(policy="api", rate_per_s=30.0, retry_after_s=1.0), "api: over the limit of 30/s; retry in 1 s"),
        (
            RateLimited(policy="api", rate_per_s=30.0, reason="cut", retry_after_s=1.0),
            "api: over the reduced limit of 30/s; retry in 1 s",
        ),
        (RateLimited(policy="api", rate_per_s=30.0), "api: over the limit of 30/s; this call costs more than the bucket holds"),
        (CircuitOpen(policy="db", reason="open", retry_after_s=9.0), "db: the circuit breaker is open; retry in 9 s"),
        (CircuitOpen(policy="db", reason="half_open"), "db: the circuit breaker is half-open and its probes are taken"),
        (CircuitOpen(policy="db", reason="forced"), "db: the circuit breaker is held open by its operator"),
    ],
)
def test_a_refusal_explains_itself(refusal: Rejected, text: str) -> None:
    assert str(refusal) == text
    assert repr(refusal) == f"{type(refusal).__name__}({text!r})"


@pytest.mark.parametrize(
    "refusal",
    [
        Rejected("no", policy="api", reason="full", retry_after_s=2.0),
        RateLimited(policy="api", reason="cut", retry_after_s=0.5, quota=QUOTA, rate_per_s=3.0, status=503),
        RateLimited(policy="api", quota=lambda: QUOTA),
        CircuitOpen(policy="db", reason="open", retry_after_s=9.0),
        DeadlineExceeded("late", policy="api", reason="expired"),
    ],
)
def test_a_refusal_can_be_pickled_and_copied(refusal: Rejected) -> None:
    twin: Rejected
    for twin in (pickle.loads(pickle.dumps(refusal)), copy.copy(refusal)):
        assert type(twin) is type(refusal)
        assert str(twin) == str(refusal)
        assert (twin.policy, twin.reason, twin.retry_after_s) == (refusal.policy, refusal.reason, refusal.retry_after_s)
        if isinstance(refusal, RateLimited) and isinstance(twin, RateLimited):
            assert (twin.quota, twin.status, twin.rate_per_s) == (refusal.quota, refusal.status, refusal.rate_per_s)


def test_the_numbers_behind_a_refusal_are_worked_out_once(clock: ManualClock) -> None:
    limiter = RateLimiter(1.0, burst=2, name="api", clock=clock)
    take(limiter, clock, 2)
    refusal = take(limiter, clock)
    assert refusal is not None
    quota = refusal.quota
    assert quota == Quota("api", limit=2, window_s=2, remaining=0, available_in_s=1.0)
    assert refusal.quota is quota


@pytest.mark.parametrize(
    ("error", "which"),
    [
        (CircuitOpen("one"), "one"),
        (ValueError(), None),
        (ExceptionGroup("tasks", [CircuitOpen("one"), RateLimited("two")]), "one"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [RateLimited("two")]), CircuitOpen("one")]), "two"),
        (ExceptionGroup("tasks", [CircuitOpen("one"), ValueError()]), None),
        (BaseExceptionGroup("tasks", [CircuitOpen("one"), KeyboardInterrupt()]), None),
    ],
)
def test_the_refusal_in_a_group(error: BaseException, which: str | None) -> None:
    found = refusal_in(error)
    assert (None if found is None else str(found)) == which
