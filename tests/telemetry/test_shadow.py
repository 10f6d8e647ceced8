"""What a policy in the shadow would have refused shows in spans and metrics, and as nothing else."""

from __future__ import annotations

from opentelemetry.trace import StatusCode

from resilience import CircuitBreaker, Pipeline, RateLimiter
from resilience.testing import ManualClock
from tests.telemetry.recording import Recording


def guarded(clock: ManualClock, name: str) -> Pipeline:
    """A limiter that is used up after one call and one that would let two wait, before a breaker that is open."""
    breaker = CircuitBreaker(shadow=True, name=name, clock=clock)
    breaker.force("open")
    return Pipeline(
        name,
        RateLimiter(1.0, burst=1, shadow=True, name=name, clock=clock),
        RateLimiter(1.0, burst=1, max_wait_s=1.0, shadow=True, name=f"{name} patient", clock=clock),
        breaker,
    )


def test_a_span_says_what_would_have_been_and_is_no_error(recorded: Recording) -> None:
    pipeline = guarded(ManualClock(), "shadow")
    for _ in range(3):
        pipeline.call(str)
    spans = [span for span in recorded.spans if span.name.startswith("resilience.")]
    decisions = [(span.attributes or {})["resilience.decision"] for span in spans]
    assert decisions == ["admitted", "admitted", "would_reject", "would_reject", "queued", "would_reject"] + ["would_reject"] * 3
    assert {span.status.status_code for span in recorded.spans} == {StatusCode.UNSET}
    assert not [span for span in spans if "resilience.limiter.wait_s" in (span.attributes or {})], "nobody waited"


def test_metrics_count_it_beside_what_was_refused(recorded: Recording) -> None:
    pipeline = guarded(ManualClock(), "shadow counts")
    for _ in range(3):
        pipeline.call(str)
    counts = {}
    for labels, value in recorded.points("resilience.decisions").items():
        named = dict(labels)
        if str(named["policy"]).startswith("shadow counts") and value:
            counts[named["layer"], named["policy"], named["decision"]] = value
    assert counts == {
        ("limiter", "shadow counts", "admitted"): 1,
        ("limiter", "shadow counts", "would_reject"): 2,
        ("limiter", "shadow counts patient", "admitted"): 1,
        ("limiter", "shadow counts patient", "queued"): 1,
        ("limiter", "shadow counts patient", "would_reject"): 1,
        ("breaker", "shadow counts", "would_reject"): 3,
    }
