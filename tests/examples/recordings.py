"""Recordings of made-up runs: what a client would have seen of a service whose limiter follows a given factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from examples.demo_kit.recording import Answer, Reading, Recording, Sample
from examples.demo_kit.verdict import Promise

PROMISE = Promise(rate_per_s=50.0, cut=0.7, recover=0.05, every_s=2.0)
STEADY_S, BROKEN_S, OPENED_S, CLOSED_S, END_S = 1.5, 7.0, 12.0, 18.0, 51.0
SENT_PER_S = 80.0
LATENCY_S = 0.006

Factor = Callable[[float], float]
"""The factor at an instant."""


def as_promised(instant_s: float) -> float:
    """0.30 from the opening on, and 5 points more after each 2 s from the closing on."""
    if instant_s < OPENED_S:
        return 1.0
    return min(1.0, 0.3 + 0.05 * max(0, int((instant_s - CLOSED_S) / 2)))


def breaker_at(instant_s: float) -> str:
    """Open between the opening and the closing."""
    return "open" if OPENED_S <= instant_s < CLOSED_S else "closed"


def run(factor: Factor = as_promised, *, breaker: Callable[[float], str] = breaker_at, burst_s: float = 0.2) -> Recording:
    """A run against a token bucket of 50/s times `factor` that holds `burst_s` seconds' worth."""
    recording = Recording(marks={"steady": STEADY_S, "broken": BROKEN_S, "mended": 16.0})
    tokens = 1.0
    for number in range(int(END_S * SENT_PER_S)):
        due_s = number / SENT_PER_S
        rate_per_s = 50.0 * factor(due_s)
        tokens = min(tokens + rate_per_s / SENT_PER_S, max(1.0, burst_s * rate_per_s))
        admitted = tokens >= 1.0
        tokens -= admitted
        recording.samples.append(Sample(due_s, due_s + LATENCY_S, _answer(due_s, admitted, factor), says_when=True))
    for number in range(int(END_S * 10)):
        instant_s = number / 10 + 0.03
        value = factor(instant_s)
        recording.readings.append(Reading(instant_s - 0.004, instant_s, breaker(instant_s), value, 50.0 * value))
    return recording


def _answer(due_s: float, admitted: bool, factor: Factor) -> Answer:
    if not admitted:
        return Answer.CUT if factor(due_s) < 1 else Answer.QUOTA
    if breaker_at(due_s) == "open":
        return Answer.BREAKER
    return Answer.FAILED if BROKEN_S <= due_s < OPENED_S else Answer.OK


def changed(recording: Recording, start_s: float, end_s: float, change: Callable[[Sample], Sample]) -> Recording:
    """`recording` with the requests that were due from `start_s` to before `end_s` changed."""
    samples = [change(sample) if start_s <= sample.due_s < end_s else sample for sample in recording.samples]
    return replace(recording, samples=samples)


def stalled(start_s: float, length_s: float) -> Callable[[Sample], Sample]:
    """Nothing is answered for `length_s` from `start_s` on, and then everything at once."""

    def late(sample: Sample) -> Sample:
        return replace(sample, answered_s=max(sample.answered_s, start_s + length_s))

    return late
