"""A call that is its own permit."""

from __future__ import annotations

import pytest

from resilience import CircuitBreaker, CircuitOpen, Pipeline, RateLimited, RateLimiter
from resilience.call import Outcome, SoleCall
from resilience.leaks import _notes
from resilience.testing import Leaked, ManualClock, nothing_leaks


def guarding(clock: ManualClock, burst: int = 9_000) -> tuple[Pipeline, CircuitBreaker]:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    return Pipeline("p", breaker, RateLimiter(0.001, burst=burst, clock=clock)), breaker


def entered(pipeline: Pipeline) -> SoleCall:
    call = SoleCall("orders")
    assert pipeline.enter(call)
    return call


@pytest.mark.parametrize(("outcome", "refused"), [(Outcome.OK, False), (Outcome.IGNORED, False), (Outcome.FAILED, True)])
def test_its_outcome_reaches_every_layer(clock: ManualClock, outcome: Outcome, refused: bool) -> None:
    pipeline, breaker = guarding(clock)
    call = entered(pipeline)
    assert not call.settled
    assert call.settle(outcome)
    assert call.settled
    assert (breaker.decisions()["admitted"], breaker.state.value) == (1, "open" if refused else "closed")
    if refused:
        with pytest.raises(CircuitOpen):
            entered(pipeline)


def test_a_refusal_is_nothing_to_the_layers_before_it(clock: ManualClock) -> None:
    pipeline, breaker = guarding(clock, burst=1)
    entered(pipeline).settle(Outcome.OK, clock.now_us())
    call = SoleCall("orders")
    with pytest.raises(RateLimited):
        pipeline.enter(call)
    assert (call.settled, call.held, breaker.state.value) == (True, [], "closed")


@pytest.mark.may_leak("permits")  # on purpose, inside of a guard of its own
def test_one_that_is_never_settled_is_found(clock: ManualClock) -> None:
    pipeline, _ = guarding(clock)
    with pytest.raises(Leaked, match=r"permit: of orders, .* never settled; holds breaker"), nothing_leaks(wait_s=0.0):
        entered(pipeline)


def test_one_that_is_settled_is_no_leak(clock: ManualClock) -> None:
    pipeline, _ = guarding(clock)
    with nothing_leaks(wait_s=0.0):
        kept = entered(pipeline)
        kept.settle(Outcome.OK)
        for _ in range(3_000):  # they are not kept
            entered(pipeline).settle(Outcome.OK)
        assert len(_notes.admissions) < 2_000
