"""What a demo shows: rows, tables, trees, the plot and the checks."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo_kit.plot import draw
from examples.demo_kit.recording import Answer, Reading, Recording, Sample
from examples.demo_kit.report import print_checks, print_trees
from examples.demo_kit.table import LiveView, PlainView, Row, Rows
from examples.demo_kit.trace_tree import Span, tree_of
from examples.demo_kit.verdict import judge
from tests.examples.recordings import PROMISE, run

ROW = Row(13.0, Counter({Answer.CUT: 50, Answer.BREAKER: 15, Answer.NONE: 1}), "closed > open", 0.3, 15.0)


def test_a_row_holds_what_came_since_the_one_before() -> None:
    recording = Recording()
    rows = Rows(recording)
    assert rows.next(1.0) is None
    recording.samples += [Sample(0.1, 0.2, Answer.OK), Sample(0.2, 0.3, Answer.QUOTA)]
    recording.readings += [Reading(0.1, 0.2, state, 1.0, 50.0) for state in ("closed", "closed", "open", "half_open", "open")]
    row = rows.next(1.0)
    assert row is not None
    assert row.answers == {Answer.OK: 1, Answer.QUOTA: 1}
    assert row.breaker == "closed > open > half_open > open"
    again = rows.next(2.0)
    assert again is not None
    assert (again.answers.total(), again.breaker) == (0, "open")


def test_a_row_counts_as_admitted_what_the_limiter_did_not_refuse() -> None:
    time, answers, admitted, *_ = ROW.cells()
    assert (time, answers, admitted) == ("13 s", "66", "15")


def test_the_plain_view_prints_lines_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        view.say("the breaker is open")
        view.add(ROW)
        view.add(ROW)
    said, heading, *lines = capsys.readouterr().out.splitlines()
    assert said == "the breaker is open"
    headings = "time answers admitted ok 502 429 quota 429 cut 503 breaker 504 deadline breaker factor limit"
    assert " ".join(heading.split()) == headings
    assert [" ".join(line.split()) for line in lines] == ["13 s 66 15 - - - 50 15 - closed > open 0.30 15"] * 2


def test_the_live_view_draws_a_table_that_fits_a_small_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24, color_system=None)
    with LiveView(console) as view:
        view.say("12.0 s  [not markup]")
        view.add(ROW)
    text = out.getvalue()
    assert "[not markup]" in text
    for heading in ("answers", "admitted", "quota", "cut", "deadline", "factor", "limit"):
        assert heading in text


def span(name: str, number: int, parent: int | None, **attributes: object) -> Span:
    return {
        "name": name,
        "context": {"trace_id": "0xabc", "span_id": f"0x{number}"},
        "parent_id": None if parent is None else f"0x{parent}",
        "start_time": f"2030-01-01T00:00:00.00{number}000Z",
        "end_time": "2030-01-01T00:00:00.009000Z",
        "status": {"status_code": "UNSET"},
        "attributes": {name.replace("__", "."): value for name, value in attributes.items()},
        "events": [],
    }


def test_spans_become_a_tree_in_the_order_they_began() -> None:
    refused = dict(span("resilience.limiter", 2, 1, resilience__policy="api", resilience__limiter__rate=15.0))
    refused["status"] = {"status_code": "ERROR", "description": "RateLimited: cut"}
    first = dict(span("resilience.deadline", 1, 7, resilience__pipeline="api"))
    first["events"] = [{"name": "breaker opened", "attributes": {"resilience.policy": "payments"}}]
    last = span("resilience.retry", 3, 7, other="left out")
    root = span("POST /orders", 0, 9, http__status_code=429)
    root = {**root, "context": {"trace_id": "0xabc", "span_id": "0x7"}}
    assert tree_of([last, refused, first, root], "abc") == [
        "POST /orders  9.0 ms  status_code=429",
        "├─ resilience.deadline  8.0 ms",
        "│  │  * breaker opened  policy=payments",
        "│  └─ resilience.limiter  7.0 ms  policy=api  limiter.rate=15  ERROR RateLimited: cut",
        "└─ resilience.retry  6.0 ms",
    ]
    assert tree_of([root], "def") == []


def test_the_report_shows_a_tree_of_each_kind_or_says_that_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spans.jsonl"
    file.write_text(json.dumps(span("POST /orders", 1, None, http__status_code=201)) + "\n", encoding="utf-8")
    recording = Recording([Sample(2.0, 2.1, Answer.OK, trace_id="abc"), Sample(3.0, 3.1, Answer.CUT, trace_id="dead")])
    print_trees(recording, file)
    out = capsys.readouterr().out
    assert "  POST /orders  8.0 ms  status_code=201\n" in out
    assert "trace dead was asked for, but not recorded" in out
    assert "none of the requests" in out


def test_every_check_is_printed_with_what_was_expected_and_seen(capsys: pytest.CaptureFixture[str]) -> None:
    checks = judge(run(), PROMISE)
    print_checks(checks)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == len(checks)
    assert all("expected" in line and "; seen " in line and line.endswith(": ok") for line in lines)


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    file = tmp_path / "new" / "plot.png"
    draw(run(), file, title="a run", rate_per_s=50.0, broken="payments")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_saw_nothing_is_drawn_too(tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    draw(Recording(), file, title="nothing", rate_per_s=50.0, broken="payments")
    assert file.stat().st_size > 0
