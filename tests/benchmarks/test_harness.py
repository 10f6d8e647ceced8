"""The benchmarks take turns, count by medians, tell of what they could not measure, and fail where a promise is broken."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import fused_floor, page, report
from benchmarks.harness import Row, Size, Subject, Table, Take, called, measure, median_rows, refused_by
from benchmarks.processes import MeasuringFailed
from benchmarks.rows import GROUPS
from benchmarks.targets import TARGETS, Target, Verdict, targets_of

QUICK = Size(rounds=5, turn_s=0.0)


def constant(name: str, seconds: list[float], order: list[str] | None = None) -> Subject:
    """A subject whose turns take so long, one after the other, once it has warmed up."""
    left = iter(seconds)

    def prepare() -> Take:
        turns = 0

        def take(count: int) -> float:
            nonlocal turns
            turns += 1
            if turns <= 2 or turns % 2 == 1:  # warming up, finding out how many operations make a turn, and before each that counts
                return 1.0
            if order is not None:
                order.append(name)
            return next(left) * count

        return take

    return Subject(name, prepare)


def test_subjects_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    table = measure([constant("a", [1, 9, 2, 3, 2], order), constant("b", [4, 4, 400, 4, 4], order)], QUICK)
    assert order == ["a", "b"] * 5
    assert table.rows["a"].median == pytest.approx(2e6)
    assert table.rows["b"].median == pytest.approx(4e6)
    assert table.rows["a"].low == pytest.approx(2e6)
    assert table.rows["a"].high == pytest.approx(3e6)


def test_nothing_is_collected_while_operations_are_counted_and_timed() -> None:
    collecting: list[bool] = []

    def take(count: int) -> float:
        collecting.append(gc.isenabled())
        return 1.0

    measure([Subject("a", lambda: take)], QUICK)
    assert collecting == [True, False, *[False] * 2 * QUICK.rounds]  # it warms up first, and again before each turn
    assert gc.isenabled()


def test_a_ratio_is_of_medians_less_what_both_stand_on() -> None:
    table = Table({"raw": Row(1.0), "floor": Row(3.0), "ours": Row(4.0)})
    table.ratio("plain", "ours", "floor")
    table.ratio("added", "ours", "floor", without="raw")
    assert table.figures == {"plain": pytest.approx(4 / 3), "added": pytest.approx(1.5)}


def test_what_is_not_there_is_told_and_makes_no_figure() -> None:
    def missing() -> Take:
        import no_such_package_of_anybody  # type: ignore[import-not-found]

        return called(no_such_package_of_anybody.call)

    def broken() -> Take:
        raise ValueError("not on this Python")

    table = measure([constant("ours", [1] * 5), Subject("missing", missing), Subject("broken", broken)], QUICK)
    table.ratio("ours / missing", "ours", "missing")
    assert table.rows["missing"].note == "not installed: no_such_package_of_anybody"
    assert table.rows["broken"].note == "does not run here: ValueError: not on this Python"
    assert table.figures == {}
    assert list(table.rows) == ["ours", "missing", "broken"]


def test_a_refusal_that_does_not_come_is_no_refusal() -> None:
    def refuse() -> None:
        raise KeyError

    refused_by(refuse, KeyError)()
    with pytest.raises(AssertionError, match="should have been refused"):
        refused_by(lambda: None, KeyError)()


def test_processor_time_is_measured_and_not_the_time_on_the_wall() -> None:
    assert called(lambda: time.sleep(0.05))(1) < 0.02


def test_runs_are_put_together_by_the_median() -> None:
    runs = [{"ours": Row(2.0, 1.0, 3.0), "peer": Row(None, note="gone")}, {"ours": Row(9.0, 8.0, 10.0), "peer": Row(None)}]
    rows = median_rows([*runs, {"ours": Row(3.0, 2.5, 4.0), "peer": Row(None)}])
    assert rows == {"ours": Row(3.0, 1.0, 10.0), "peer": Row(None, note="gone")}


# --- targets ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "is_smoke", "verdict"),
    [
        (1.6, False, Verdict.REACHED),
        (1.61, False, Verdict.MISSED),
        (3.9, True, Verdict.REACHED),
        (4.1, True, Verdict.MISSED),
        (None, True, Verdict.UNKNOWN),
    ],
)
def test_a_ceiling(figure: float | None, is_smoke: bool, verdict: Verdict) -> None:
    figures = {} if figure is None else {"x": figure}
    assert Target("asgi", "x", 1.6).judge(figures, is_smoke=is_smoke) is verdict


@pytest.mark.parametrize(
    ("figure", "is_smoke", "verdict"), [(5.0, False, Verdict.REACHED), (4.9, False, Verdict.MISSED), (2.0, True, Verdict.REACHED)]
)
def test_a_least(figure: float, is_smoke: bool, verdict: Verdict) -> None:
    assert Target("asgi", "x", 5.0, at_most=False).judge({"x": figure}, is_smoke=is_smoke) is verdict


def test_every_target_is_of_a_group_that_is_measured() -> None:
    assert {target.group for target in TARGETS} <= set(GROUPS)
    assert len({(target.group, target.figure) for target in TARGETS}) == len(TARGETS)
    for target in TARGETS:
        assert not target.in_smoke or GROUPS[target.group].in_smoke, f"{target.group} is not in the short form"


# --- the program ------------------------------------------------------------------------------------------------------------------


def run_program(monkeypatch: pytest.MonkeyPatch, out: Path, times_the_bound: float, *arguments: str) -> int:
    """The program over tables in which each figure is so many times what is allowed."""

    def measured(group: Any, *, is_smoke: bool) -> tuple[Table, dict[str, tuple[float, float]]]:
        factor = times_the_bound
        targets = targets_of(group.name, is_smoke=is_smoke)
        figures = {t.figure: t.allowed(is_smoke=is_smoke) * (factor if t.at_most else 1 / factor) for t in targets}
        return Table({"ours": Row(1.0)}, figures), {}

    monkeypatch.setattr(program, "measured", measured)
    monkeypatch.setattr(report, "OUT", out)
    monkeypatch.setattr(program, "write_plot", lambda report, name: None)
    return program.main(arguments)


@pytest.mark.parametrize("arguments", [(), ("--smoke",), ("asgi", "--smoke")])
def test_it_passes_below_the_bounds_and_fails_above(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(monkeypatch, tmp_path, 0.99, *arguments) == 0
    assert "MISSED" not in capsys.readouterr().out
    assert run_program(monkeypatch, tmp_path, 1.01, *arguments) == 1
    assert "MISSED" in capsys.readouterr().out
    name = "smoke.json" if "--smoke" in arguments else "benchmarks.json"
    written = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    assert {target["verdict"] for target in written["targets"]} == {"MISSED"}
    assert str(tmp_path) not in json.dumps(written)


def test_a_group_that_ends_without_a_table_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(group: Any, *, is_smoke: bool) -> Any:
        raise MeasuringFailed("asgi: exit status 1\nImportError: [no] such thing")

    monkeypatch.setattr(program, "measured", measured)
    monkeypatch.setattr(report, "OUT", tmp_path)
    monkeypatch.setattr(program, "write_plot", lambda report, name: None)
    assert program.main(["asgi"]) == 1
    said = capsys.readouterr().out
    assert "ImportError: [no] such thing" in said
    assert "not measured" in said


@pytest.mark.parametrize(("missing", "fails"), [("limits, fixed window", False), ("resilience", True)])
def test_a_target_may_go_unmeasured_for_want_of_a_peer_only(missing: str, fails: bool) -> None:
    run = report.Report(is_smoke=True, kind="", versions={})
    run.tables["bucket"] = Table({missing: Row(None, note="not installed: limits")})
    assert {verdict for _, _, verdict in run.targets} == {Verdict.UNKNOWN}
    assert run.has_failed is fails


def test_a_group_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["asgy"])
    assert "no group asgy; there are asgi, wsgi" in capsys.readouterr().err


# --- the floor --------------------------------------------------------------------------------------------------------------------


def test_the_yardstick_is_as_it_was_when_others_were_measured_by_it() -> None:
    text = Path(fused_floor.__file__).read_bytes()
    assert hashlib.sha256(text).hexdigest() == "d48206e06fe0cb080a016761ad2c9d35c62d96f15e4f4420705688b44fd3266a"


def test_the_floor_does_the_work() -> None:
    core = fused_floor.Core(rate_per_s=1.0, burst=2)
    assert [core.admit("a", 10.0) for _ in range(3)] == [0, 0, 1]
    assert core.admit("b", 10.0) == 0
    assert core.admit("a", 11.0) == 0
    for _ in range(20):
        core.settle(True, core.generation, 12.0)
    assert core.admit("c", 12.0) == 2


# --- the page ---------------------------------------------------------------------------------------------------------------------


def test_a_run_is_written_between_the_marks_of_the_page() -> None:
    run = report.Report(is_smoke=False, kind="CPython on a machine", versions={"limits": "5.8.0"})
    run.tables["retry"] = Table(
        {"sync: resilience": Row(1.0, 0.9, 1.1), "sync: peer": Row(None, note="gone")}, {"sync: retry / backoff": 2.0}
    )
    text = page.rendered(run.as_json())
    assert "| retry: sync: retry / backoff | 2.00 | ≤ 1 | **missed** |" in text
    assert "| sync: resilience | 1.000 µs | 0.900 to 1.100 |  |" in text
    assert "| sync: peer | - |  | gone |" in text
    whole = page.replaced(f"before\n{page.BEGIN}old\n{page.END}after\n", text)
    assert whole.startswith("before\n")
    assert whole.endswith("after\n")
    assert "old" not in whole


def test_the_page_names_every_group() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert [name for name in GROUPS if f"| `{name}` |" not in text] == []
    assert page.BEGIN in text
    assert page.END in text
