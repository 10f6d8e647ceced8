"""The mutation report counts rightly, finds the changed line, and fails on every survivor that nobody has answered for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mutation_report

SOURCE = '''\
"""A module."""


def double(value):
    return value * 2


class Counter:
    def add(self, step):
        # one more
        self.total += step
        return self.total
'''
MUTATED = """\
def x_double__mutmut_orig(value): # type: ignore # mutmut generated
    return value * 2 # type: ignore # mutmut generated
def x_double__mutmut_1(value): # type: ignore # mutmut generated
    return value * 3 # type: ignore # mutmut generated
class Counter:
    def xǁCounterǁadd__mutmut_orig(self, step): # type: ignore # mutmut generated
        # one more
        self.total += step # type: ignore # mutmut generated
        return self.total # type: ignore # mutmut generated
    def xǁCounterǁadd__mutmut_1(self, step): # type: ignore # mutmut generated
        # one more
        self.total -= step # type: ignore # mutmut generated
        return self.total # type: ignore # mutmut generated
"""
SPANS = {
    "x_double__mutmut_orig": [1, 2],
    "x_double__mutmut_1": [3, 4],
    "xǁCounterǁadd__mutmut_orig": [6, 9],
    "xǁCounterǁadd__mutmut_1": [10, 13],
}
KILLED, SURVIVED, NO_TESTS, TIMEOUT = 1, 0, 33, 36


def checkout(root: Path, double: int | None, add: int | None, reasons: str = "") -> Path:
    """A checkout after a mutation run of one file with two mutants, which ended with these exit codes."""
    for folder in ("core", "docs", "tools", "mutants/core"):
        (root / folder).mkdir(parents=True)
    (root / "core" / "thing.py").write_text(SOURCE, encoding="utf-8")
    mutated = root / "mutants" / "core" / "thing.py"
    mutated.write_text(MUTATED, encoding="utf-8")
    codes = {"core.thing.x_double__mutmut_1": double, "core.thing.xǁCounterǁadd__mutmut_1": add}
    Path(f"{mutated}.spans").write_text(json.dumps({"version": 1, "spans": SPANS}), encoding="utf-8")
    Path(f"{mutated}.meta").write_text(json.dumps({"exit_code_by_key": codes}), encoding="utf-8")
    (root / "tools" / "mutation_survivors.toml").write_text(reasons, encoding="utf-8")
    (root / "docs" / "mutation.md").write_text("# Mutations\n\n" + mutation_report.MARK + "\n\nof long ago\n", encoding="utf-8")
    return root


def report(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, the report written, and what was complained of."""
    code = mutation_report.main(["--root", str(root)])
    return code, (root / "docs" / "mutation.md").read_text(encoding="utf-8"), capsys.readouterr().err


REASON = """\
[[survivor]]
file = "core/thing.py"
function = "Counter.add"
why = "The same at 0."
changes = ["self.total += step -> self.total -= step"]
"""


@pytest.mark.parametrize("ended", [KILLED, TIMEOUT])
def test_all_killed_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str], ended: int) -> None:
    code, text, complaints = report(checkout(tmp_path, KILLED, ended), capsys)
    assert (code, complaints) == (0, "")
    assert "| `core/thing.py` | 2 | 2 | 0 | 100.0 % |" in text
    assert text.startswith("# Mutations\n"), "what people wrote stays"
    assert "of long ago" not in text


@pytest.mark.parametrize(("ended", "how"), [(SURVIVED, "no test notices"), (NO_TESTS, "no test comes by")])
def test_a_survivor_is_found_by_line_and_change(tmp_path: Path, capsys: pytest.CaptureFixture[str], ended: int, how: str) -> None:
    code, text, complaints = report(checkout(tmp_path, KILLED, ended), capsys)
    assert code == 1
    assert f"core/thing.py:11: {how}, and no reason is given: Counter.add: self.total += step -> self.total -= step" in complaints
    assert "the tests kill 50.0 % of the mutants; it must be at least 90 %" in complaints
    assert "line 11, `Counter.add`: `` self.total += step -> self.total -= step ``" in text
    assert "| `core/thing.py` | 2 | 1 | 1 | 50.0 % |" in text


def test_a_reason_is_shown_and_lets_it_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation_report, "BAR", 50.0)
    code, text, complaints = report(checkout(tmp_path, KILLED, SURVIVED, REASON), capsys)
    assert (code, complaints) == (0, "")
    assert "- The same at 0.\n  - line 11, `Counter.add`" in text


def test_a_reason_that_is_no_longer_needed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, complaints = report(checkout(tmp_path, KILLED, KILLED, REASON), capsys)
    assert code == 1
    assert "no longer needed, take it out: core/thing.py: Counter.add: self.total += step -> self.total -= step" in complaints


def test_what_was_not_tried_does_not_count_as_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, complaints = report(checkout(tmp_path, KILLED, None), capsys)
    assert code == 1
    assert "core/thing.py: 1 mutants were not tried" in complaints
    assert "| `core/thing.py` | 2 | 1 | 0 | 50.0 % |" in text


def test_without_a_run_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, KILLED, KILLED)
    (root / "mutants" / "core" / "thing.py.meta").unlink()
    code, _, complaints = report(root, capsys)
    assert code == 1
    assert "there are no mutants here" in complaints
