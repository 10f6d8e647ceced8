"""Whether the promise was kept, judged by what the client saw. The service is asked only when its breaker opened and closed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from examples.demo_kit.recording import Answer, Recording
from examples.demo_kit.windows import Count, Window, closing, count, count_slices, first_open

POINT: Final = 0.01
_BASE_WITHIN: Final = 5 * POINT
_CUT_WITHIN: Final = 5 * POINT
_STEP_WITHIN: Final = 4 * POINT
"""Less than a step of 5 points, so that a service which is one step late or early is caught. At 50/s a step of 2 s holds up
to 100 requests: a token too much or too few at an edge is one point. The rest is for what `windows` lets pass."""
_FALL_WITHIN: Final = 2 * POINT
_SLOPE_WITHIN: Final = 0.5 * POINT
_STEPS_NEEDED: Final = 0.6
_CLOSING_KNOWN_TO_S: Final = 1.0
"""When the breaker closed is known from readings. A step half of this too early or too late is off by less than a point."""
_BEFORE_BREAKING_S: Final = 0.5
"""Requests that were due so shortly before may still have met the fault."""
_REFUSED_AT_ONCE: Final = 0.7
"""The rest are the probes of two half-open times, 10 of some 90."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What the configuration says. `recover` is given back after each `every_s`, from 1 - `cut` to 1."""

    rate_per_s: float
    cut: float
    recover: float
    every_s: float

    @property
    def steps(self) -> int:
        """Steps from the cut rate to the whole one."""
        return round(self.cut / self.recover)

    def share(self, step: int) -> float:
        """The share of the rate after so many steps."""
        return min(1.0, 1.0 - self.cut + self.recover * step)


class Result(Enum):
    """What became of a check."""

    OK = "ok"
    FAILED = "FAILED"
    UNCLEAR = "cannot be judged"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the promise: what was expected, what was seen, and whether that will do. `needed`: no verdict without it."""

    name: str
    expected: str
    seen: str
    result: Result
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the recovery: the share of the rate before that was promised, and that was seen."""

    number: int
    promised: float
    seen: float
    counted: Count


def judge(recording: Recording, promise: Promise) -> list[Check]:
    """Check every part of the promise."""
    checks = [*_answer_checks(recording)]
    broken_s = recording.marks.get("broken")
    opened_s, close = first_open(recording.readings), closing(recording.readings)
    if broken_s is None or opened_s is None or close is None:
        what = "was not seen to open" if opened_s is None else "was not seen to close again"
        return [*checks, Check("the breaker", "opens when the dependency fails, closes when it is mended", what, Result.FAILED)]
    before = count_slices(recording, Window(recording.marks["steady"], broken_s - _BEFORE_BREAKING_S))
    after = count_slices(recording, Window(opened_s, close.start_s))
    checks += [_before(before, promise), _after(after, before, promise), _refused_at_once(after)]
    steps = list(_steps(recording, promise, close, before))
    checks += [*_step_checks(steps, promise), *_recovery_checks(steps, promise)]
    recovered_s = close.end_s + promise.steps * promise.every_s
    last_s = max((sample.due_s for sample in recording.samples), default=0.0)
    return [*checks, _recovered(count_slices(recording, Window(recovered_s, last_s)), before)]


def overall(checks: Sequence[Check]) -> Result:
    """FAILED if any check failed, UNCLEAR if one that is needed could not be judged, else OK."""
    if any(check.result is Result.FAILED for check in checks):
        return Result.FAILED
    if not checks or any(check.needed and check.result is Result.UNCLEAR for check in checks):
        return Result.UNCLEAR
    return Result.OK


# --- every single answer -------------------------------------------------------------------------------------------------


def _answer_checks(recording: Recording) -> Iterator[Check]:
    samples = recording.samples
    without = sum(sample.answer is Answer.NONE for sample in samples)
    yield Check("requests without an answer", "0", f"{without} of {len(samples)}", _result(bool(samples) and without == 0))
    errors = sum(sample.answer in (Answer.ERROR, Answer.OTHER) for sample in samples)
    yield Check("answers 500 or unexpected", "0", str(errors), _result(errors == 0))
    refused = [sample for sample in samples if sample.answer.is_refusal]
    silent = sum(not sample.says_when for sample in refused)
    yield Check("429 and 503 without Retry-After", "0", f"{silent} of {len(refused)}", _result(bool(refused) and silent == 0))


# --- before and after the opening ---------------------------------------------------------------------------------------


def _before(before: Count, promise: Promise) -> Check:
    within = abs(before.admitted_per_s / promise.rate_per_s - 1) <= _BASE_WITHIN
    return _judged(
        "admitted before the opening",
        f"{promise.rate_per_s:g}/s ± {_BASE_WITHIN:.0%} of what is sent",
        f"{before.admitted_per_s:.1f}/s of {before.sent_per_s:.0f}/s, over {before.length_s:g} s",
        before,
        within and before.sent_per_s > promise.rate_per_s,
    )


def _after(after: Count, before: Count, promise: Promise) -> Check:
    share = _share(after, before)
    return _judged(
        "admitted after the opening / before",
        f"{promise.share(0):.2f} ± {_CUT_WITHIN:.2f}",
        f"{share:.3f} = {after.admitted_per_s:.1f}/s / {before.admitted_per_s:.1f}/s, over {after.length_s:g} s",
        _compared(after, before),
        abs(share - promise.share(0)) <= _CUT_WITHIN,
    )


def _refused_at_once(after: Count) -> Check:
    refused = sum(sample.answer is Answer.BREAKER for sample in after.samples)
    share = refused / after.admitted if after.admitted else 0.0
    return _judged(
        "admitted then, answered 503 by the breaker",
        f"more than {_REFUSED_AT_ONCE:.0%}",
        f"{refused} of {after.admitted}",
        after,
        share > _REFUSED_AT_ONCE,
    )


# --- the recovery ---------------------------------------------------------------------------------------------------------


def _steps(recording: Recording, promise: Promise, close: Window, before: Count) -> Iterator[Step]:
    closed_s = (close.start_s + close.end_s) / 2
    for number in range(promise.steps):
        step_s = closed_s + number * promise.every_s
        counted = count(recording, Window(step_s, step_s + promise.every_s))
        if close.length_s > _CLOSING_KNOWN_TO_S:
            unknown = f"when the breaker closed is known only to {close.length_s:.1f} s"
            counted = dataclasses.replace(counted, disturbance=unknown)
        counted = _compared(counted, before)
        yield Step(number, promise.share(number), _share(counted, before), counted)


def _step_checks(steps: Sequence[Step], promise: Promise) -> Iterator[Check]:
    for step in steps:
        yield _judged(
            f"step {step.number:2} of the recovery / before",
            f"{step.promised:.2f} ± {_STEP_WITHIN:.2f}",
            f"{step.seen:.3f} = {step.counted.admitted} in {promise.every_s:g} s",
            step.counted,
            abs(step.seen - step.promised) <= _STEP_WITHIN,
            needed=False,
        )


def _recovery_checks(steps: Sequence[Step], promise: Promise) -> Iterator[Check]:
    clear = [step for step in steps if not step.counted.disturbance]
    enough = len(clear) >= _STEPS_NEEDED * len(steps)
    expected = f"at least {_STEPS_NEEDED:.0%} of {len(steps)}"
    yield Check("steps that could be judged", expected, str(len(clear)), Result.OK if enough else Result.UNCLEAR)
    if len(clear) < 2:
        return
    falls = [(later.seen - earlier.seen, later.number) for earlier, later in itertools.pairwise(clear)]
    least, number = min(falls)
    seen = f"least: {least / POINT:+.1f} points, to step {number}"
    noise = f"but for {_FALL_WITHIN / POINT:g} points of noise"
    yield Check("each step above the one before", noise, seen, _result(least >= -_FALL_WITHIN))
    slope = _slope(clear)
    yield Check(
        "rise, as a line through all steps",
        f"{promise.recover / POINT:g} ± {_SLOPE_WITHIN / POINT:g} points a step",
        f"{slope / POINT:.2f} points",
        _result(abs(slope - promise.recover) <= _SLOPE_WITHIN),
    )


def _recovered(recovered: Count, before: Count) -> Check:
    share = _share(recovered, before)
    return _judged(
        "admitted after the recovery / before",
        f"1.00 ± {_BASE_WITHIN:.2f}",
        f"{share:.3f} = {recovered.admitted_per_s:.1f}/s / {before.admitted_per_s:.1f}/s, over {recovered.length_s:g} s",
        _compared(recovered, before),
        abs(share - 1) <= _BASE_WITHIN,
    )


def _slope(steps: Sequence[Step]) -> float:
    """The slope of the least-squares line through the shares seen."""
    mean_number = sum(step.number for step in steps) / len(steps)
    mean_seen = sum(step.seen for step in steps) / len(steps)
    spread = sum((step.number - mean_number) ** 2 for step in steps)
    return sum((step.number - mean_number) * (step.seen - mean_seen) for step in steps) / spread


# --- helpers ----------------------------------------------------------------------------------------------------------------


def _share(counted: Count, before: Count) -> float:
    return counted.admitted_per_s / before.admitted_per_s if before.admitted else 0.0


def _compared(counted: Count, before: Count) -> Count:
    """`counted`, which is disturbed also when what it is compared with is."""
    if before.disturbance and not counted.disturbance:
        return dataclasses.replace(counted, disturbance="the rate before is not known")
    return counted


def _result(held: bool) -> Result:
    return Result.OK if held else Result.FAILED


def _judged(name: str, expected: str, seen: str, counted: Count, held: bool, *, needed: bool = True) -> Check:
    if counted.disturbance:
        return Check(name, expected, f"{seen}, but {counted.disturbance}", Result.UNCLEAR, needed)
    return Check(name, expected, seen, _result(held), needed)
