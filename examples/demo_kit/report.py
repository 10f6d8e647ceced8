"""Prints what a run has shown: the spans of a few requests, and each check of the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from examples.demo_kit.recording import Answer, Recording
from examples.demo_kit.trace_tree import Span, read_spans, tree_of
from examples.demo_kit.verdict import Check

_TREES: Final = (
    (Answer.OK, "an admitted request"),
    (Answer.CUT, "a request that the limiter refused while it was cut"),
    (Answer.BREAKER, "a request that the limiter admitted, and whose call further in the open breaker refused"),
)


def print_trees(recording: Recording, file: Path) -> None:
    """Print the spans of an admitted request, of one refused by the limiter, and of one refused by the breaker."""
    spans = read_spans(file)
    for answer, what in _TREES:
        print(f"\nspans of {what}:")
        for line in _tree(recording, answer, spans):
            print(f"  {line}")


def _tree(recording: Recording, answer: Answer, spans: Sequence[Span]) -> list[str]:
    """The tree of the first request that ended so once all was warm."""
    warm_s = recording.marks.get("steady", 0.0)
    for sample in recording.samples:
        if sample.answer is answer and sample.trace_id and sample.due_s >= warm_s:
            return tree_of(spans, sample.trace_id) or [f"(trace {sample.trace_id} was asked for, but not recorded)"]
    return ["(none of the requests whose spans were asked for ended so)"]


def print_checks(checks: Sequence[Check]) -> None:
    """Print each check with what was expected and what was seen."""
    print("\nwhat the client saw:")
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"  {check.name:{width}}  expected {check.expected}; seen {check.seen}: {check.result.value}")
