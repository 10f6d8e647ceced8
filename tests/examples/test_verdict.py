"""The verdict passes a service that keeps the promise, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.demo_kit.recording import Answer, Recording, Sample
from examples.demo_kit.verdict import Check, Promise, Result, judge, overall
from tests.examples import recordings
from tests.examples.recordings import CLOSED_S, OPENED_S, PROMISE, Factor, as_promised, changed, run, stalled


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.result is Result.FAILED]


def unclear(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.result is Result.UNCLEAR]


def test_a_service_that_keeps_the_promise_passes_every_check() -> None:
    checks = judge(run(), PROMISE)
    assert {check.result for check in checks} == {Result.OK}
    assert overall(checks) is Result.OK
    assert sum(check.name.startswith("step ") for check in checks) == 14


def test_the_promise_counts_fourteen_steps_from_thirty_percent() -> None:
    assert PROMISE.steps == 14
    assert [round(PROMISE.share(step), 9) for step in (0, 1, 7, 14, 15)] == [0.3, 0.35, 0.65, 1.0, 1.0]
    assert Promise(rate_per_s=10, cut=0.5, recover=0.25, every_s=1).steps == 2


def never_cut(instant_s: float) -> float:
    return 1.0


def cut_to_half(instant_s: float) -> float:
    return as_promised(instant_s) if instant_s < OPENED_S or instant_s >= CLOSED_S else 0.5


def cut_to_a_fifth(instant_s: float) -> float:
    return as_promised(instant_s) if instant_s < OPENED_S or instant_s >= CLOSED_S else 0.2


def never_back(instant_s: float) -> float:
    return 1.0 if instant_s < OPENED_S else 0.3


def back_at_once(instant_s: float) -> float:
    return 0.3 if OPENED_S <= instant_s < CLOSED_S else 1.0


def back_by_ten_points(instant_s: float) -> float:
    return min(1.0, as_promised(instant_s) * 2 - 0.3) if instant_s >= CLOSED_S else as_promised(instant_s)


def back_multiplied(instant_s: float) -> float:
    """5 % of what is left, not of the whole rate."""
    return min(1.0, 0.3 * 1.05 ** int((instant_s - CLOSED_S) / 2)) if instant_s >= CLOSED_S else as_promised(instant_s)


def one_step_late(instant_s: float) -> float:
    return as_promised(instant_s - 2.0) if instant_s >= CLOSED_S else as_promised(instant_s)


def one_step_early(instant_s: float) -> float:
    return as_promised(instant_s + 2.0) if instant_s >= CLOSED_S else as_promised(instant_s)


def back_but_for_five_points(instant_s: float) -> float:
    return min(0.9, as_promised(instant_s)) if instant_s >= CLOSED_S else as_promised(instant_s)


def cut_twice(instant_s: float) -> float:
    """A failed probe cuts again."""
    return 0.09 if 15.0 <= instant_s < CLOSED_S else as_promised(instant_s)


def too_much_all_along(instant_s: float) -> float:
    return 1.2 * as_promised(instant_s)


@pytest.mark.parametrize(
    ("factor", "caught_by"),
    [
        (never_cut, "admitted after the opening / before"),
        (cut_to_half, "admitted after the opening / before"),
        (cut_to_a_fifth, "admitted after the opening / before"),
        (cut_twice, "admitted after the opening / before"),
        (never_back, "admitted after the recovery / before"),
        (back_at_once, "step  0 of the recovery / before"),
        (back_by_ten_points, "rise, as a line through all steps"),
        (back_multiplied, "rise, as a line through all steps"),
        (one_step_late, "step  7 of the recovery / before"),
        (one_step_early, "step  7 of the recovery / before"),
        (back_but_for_five_points, "admitted after the recovery / before"),
        (too_much_all_along, "admitted before the opening"),
    ],
)
def test_a_service_that_does_something_else_fails(factor: Factor, caught_by: str) -> None:
    checks = judge(run(factor), PROMISE)
    assert caught_by in failed(checks)
    assert overall(checks) is Result.FAILED


def test_a_step_that_falls_back_is_caught() -> None:
    def falls_back(instant_s: float) -> float:
        return 0.4 if CLOSED_S + 12 <= instant_s < CLOSED_S + 14 else as_promised(instant_s)

    assert "each step above the one before" in failed(judge(run(falls_back), PROMISE))


def test_a_breaker_that_never_opens_or_never_closes_fails() -> None:
    for state in ("closed", "open"):
        checks = judge(run(breaker=lambda _, state=state: state), PROMISE)  # type: ignore[misc]
        assert failed(checks) == ["the breaker"]
        assert overall(checks) is Result.FAILED


def test_a_breaker_that_lets_calls_wait_while_it_is_open_fails() -> None:
    def to_failed(sample: Sample) -> Sample:
        return replace(sample, answer=Answer.FAILED) if sample.answer is Answer.BREAKER else sample

    assert failed(judge(changed(run(), 0, 60, to_failed), PROMISE)) == ["admitted then, answered 503 by the breaker"]


@pytest.mark.parametrize(
    ("answer", "caught_by"),
    [
        (Answer.NONE, "requests without an answer"),
        (Answer.ERROR, "answers 500 or unexpected"),
        (Answer.OTHER, "answers 500 or unexpected"),
    ],
)
def test_one_bad_answer_of_thousands_fails(answer: Answer, caught_by: str) -> None:
    recording = run()
    recording.samples[1000] = replace(recording.samples[1000], answer=answer)
    assert failed(judge(recording, PROMISE)) == [caught_by]


def test_one_refusal_that_does_not_say_when_to_come_back_fails() -> None:
    recording = run()
    number = next(n for n, sample in enumerate(recording.samples) if sample.answer is Answer.CUT)
    recording.samples[number] = replace(recording.samples[number], says_when=False)
    assert failed(judge(recording, PROMISE)) == ["429 and 503 without Retry-After"]


def test_a_deadline_need_not_say_when() -> None:
    recording = run()
    recording.samples[700] = replace(recording.samples[700], answer=Answer.DEADLINE, says_when=False)
    assert overall(judge(recording, PROMISE)) is Result.OK


def test_nothing_seen_is_no_promise_kept() -> None:
    assert overall(judge(Recording(), PROMISE)) is Result.FAILED
    assert overall([]) is Result.UNCLEAR


# --- a busy machine ---------------------------------------------------------------------------------------------------


def test_one_step_that_was_disturbed_is_left_out() -> None:
    start_s = CLOSED_S + 6.8
    checks = judge(changed(run(), start_s, start_s + 0.4, stalled(start_s, 0.4)), PROMISE)
    assert unclear(checks) == ["step  3 of the recovery / before"]
    assert overall(checks) is Result.OK


def test_a_short_stall_over_an_edge_disturbs_both_its_steps() -> None:
    start_s = CLOSED_S + 7.95
    checks = judge(changed(run(), start_s, start_s + 0.15, stalled(start_s, 0.15)), PROMISE)
    assert unclear(checks) == ["step  3 of the recovery / before", "step  4 of the recovery / before"]


def test_a_short_stall_within_a_step_disturbs_nothing() -> None:
    start_s = CLOSED_S + 6.8
    checks = judge(changed(run(), start_s, start_s + 0.2, stalled(start_s, 0.2)), PROMISE)
    assert {check.result for check in checks} == {Result.OK}


def test_too_many_disturbed_steps_leave_no_verdict() -> None:
    recording = run()
    for step in range(6):
        start_s = CLOSED_S + 2 * step + 1.0
        recording = changed(recording, start_s, start_s + 0.4, stalled(start_s, 0.4))
    checks = judge(recording, PROMISE)
    assert "steps that could be judged" in unclear(checks)
    assert overall(checks) is Result.UNCLEAR


@pytest.mark.parametrize(
    ("start_s", "name"),
    [
        (recordings.STEADY_S, "admitted before the opening"),
        (recordings.OPENED_S, "admitted after the opening / before"),
        (recordings.CLOSED_S + 28, "admitted after the recovery / before"),
    ],
)
def test_a_long_disturbance_leaves_no_verdict(start_s: float, name: str) -> None:
    recording = run()
    for second in range(7):
        at_s = start_s + second + 0.3
        recording = changed(recording, at_s, at_s + 0.4, stalled(at_s, 0.4))
    checks = judge(recording, PROMISE)
    assert name in unclear(checks)
    assert overall(checks) is Result.UNCLEAR


def test_a_disturbed_second_of_a_long_window_is_left_out() -> None:
    at_s = OPENED_S + 2.2
    recording = changed(run(), at_s, at_s + 0.4, stalled(at_s, 0.4))
    checks = judge(recording, PROMISE)
    after = next(check for check in checks if check.name == "admitted after the opening / before")
    assert after.result is Result.OK
    assert after.seen.endswith("over 4 s")


def test_requests_that_could_not_be_sent_disturb_their_step() -> None:
    recording = run()
    recording.held_back.append(CLOSED_S + 5.0)
    checks = judge(recording, PROMISE)
    assert unclear(checks) == ["step  2 of the recovery / before"]
    assert "could not send 1 requests" in next(check.seen for check in checks if check.result is Result.UNCLEAR)


def test_a_closing_that_nobody_saw_leaves_no_verdict() -> None:
    recording = run()
    unseen = [reading for reading in recording.readings if not CLOSED_S - 1 <= reading.heard_s < CLOSED_S + 1]
    checks = judge(replace(recording, readings=unseen), PROMISE)
    assert "steps that could be judged" in unclear(checks)
    assert overall(checks) is Result.UNCLEAR


def test_a_failure_outweighs_a_disturbance() -> None:
    recording = run(never_back)
    recording.held_back.append(CLOSED_S + 1.0)
    assert overall(judge(recording, PROMISE)) is Result.FAILED
