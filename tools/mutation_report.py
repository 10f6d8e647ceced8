"""Write docs/mutation.md anew from what mutmut left in mutants/: scores by file, and each survivor with the reason it may live.

A survivor is a changed line of the core that no test noticed. Its reason stands in tools/mutation_survivors.toml, found by the
function and the change, so that it keeps when lines move. Fails when the score is below the bar, when a survivor has no reason, and
when a mutant was never tried.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

BAR: Final = 90.0
"""Percent of the mutants that the tests must kill."""
MARK: Final = "<!-- from here on written by tools/mutation_report.py -->"

_SURVIVED: Final = 0  # pytest's own exit code: every test passed
_NO_TESTS: Final = frozenset({5, 33})  # pytest collected nothing; mutmut: no test comes by here
_MANGLED: Final = re.compile(r"x(?:ǁ(?P<cls>\w+)ǁ|_)(?P<name>\w+)__mutmut_(?P<number>\d+)")
_GENERATED: Final = re.compile(r"\s*# type: ignore # mutmut generated$")


@dataclass(frozen=True)
class Survivor:
    """A change that no test noticed."""

    path: str
    line: int
    function: str
    change: str
    reached: bool


@dataclass
class FileScore:
    """What became of the mutants of one file."""

    path: str
    mutants: int = 0
    untried: int = 0
    survivors: list[Survivor] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """Mutants that made a test fail, or run without end."""
        return self.mutants - self.untried - len(self.survivors)


def percent(killed: int, mutants: int) -> float:
    """The score."""
    return 100.0 * killed / mutants if mutants else 100.0


def function_lines(source: str) -> dict[str, int]:
    """The line on which each function of a module begins, its decorators included, by its qualified name."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[prefix + node.name] = min([node.lineno, *(each.lineno for each in node.decorator_list)])

    visit(ast.parse(source).body, "")
    return found


def change_between(original: list[str], mutant: list[str]) -> tuple[int, str]:
    """The first line that differs, counted from 0, and the change in one line of text."""
    matcher = difflib.SequenceMatcher(None, original, mutant, autojunk=False)
    edits = [edit for edit in matcher.get_opcodes() if edit[0] != "equal"]
    first, last = edits[0], edits[-1]
    before = " ".join(line.strip() for line in original[first[1] : last[2]])
    after = " ".join(line.strip() for line in mutant[first[3] : last[4]])
    return first[1], f"{before} -> {after}"


class MutatedFile:
    """One file of the core with all its mutants, as mutmut wrote them."""

    def __init__(self, root: Path, path: str) -> None:
        self.path = path
        mutated = root / "mutants" / path
        self._lines = mutated.read_text(encoding="utf-8").splitlines()
        self._spans: dict[str, tuple[int, int]] = _json(Path(f"{mutated}.spans"))["spans"]
        self._starts = function_lines((root / path).read_text(encoding="utf-8"))
        self.exit_codes: dict[str, int | None] = _json(Path(f"{mutated}.meta"))["exit_code_by_key"]

    def score(self) -> FileScore:
        """Count the mutants and name the survivors."""
        score = FileScore(self.path, mutants=len(self.exit_codes))
        for name, code in self.exit_codes.items():
            if code is None:
                score.untried += 1
            elif code == _SURVIVED or code in _NO_TESTS:
                score.survivors.append(self._survivor(name.rpartition(".")[2], reached=code == _SURVIVED))
        score.survivors.sort(key=lambda survivor: (survivor.line, survivor.change))
        return score

    def _survivor(self, mangled: str, *, reached: bool) -> Survivor:
        match = _MANGLED.fullmatch(mangled)
        if match is None:
            raise ValueError(f"{self.path}: cannot read the mutant name {mangled!r}")
        function = ".".join(part for part in (match["cls"], match["name"]) if part)
        original = self._function(mangled.removesuffix(match["number"]) + "orig")
        offset, change = change_between(original, self._function(mangled))
        return Survivor(self.path, self._starts[function] + offset, function, change, reached)

    def _function(self, mangled: str) -> list[str]:
        start, end = self._spans[mangled]
        return [_GENERATED.sub("", line).replace(mangled, "function") for line in self._lines[start - 1 : end]]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def scores(root: Path) -> list[FileScore]:
    """The score of each file that has mutants."""
    mutants = root / "mutants"
    paths = sorted(str(meta.relative_to(mutants)).removesuffix(".meta") for meta in mutants.rglob("*.py.meta"))
    return [file.score() for file in (MutatedFile(root, path) for path in paths) if file.exit_codes]


class Reasons:
    """Why each survivor may live."""

    def __init__(self, path: Path) -> None:
        entries: list[dict[str, Any]] = []
        if path.exists():
            entries = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", [])
        self._known = {(entry["file"], entry["function"], change): entry["why"] for entry in entries for change in entry["changes"]}

    def of(self, survivor: Survivor) -> str | None:
        """The reason, or None where nobody gave one."""
        return self._known.get((survivor.path, survivor.function, survivor.change))

    def unused(self, found: list[FileScore]) -> list[tuple[str, str, str]]:
        """Reasons for changes that a test notices by now, or that are not made any more: file, function, change."""
        alive = {(each.path, each.function, each.change) for score in found for each in score.survivors}
        return [key for key in self._known if key not in alive]


def table(found: list[FileScore]) -> Iterator[str]:
    """The scores in Markdown."""
    yield "| File | Mutants | Killed | Survived | Score |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for score in found:
        name, rate = f"`{score.path}`", percent(score.killed, score.mutants)
        yield f"| {name} | {score.mutants} | {score.killed} | {len(score.survivors)} | {rate:.1f} % |"
    mutants, killed, survived = _sums(found)
    yield f"| **Total** | **{mutants}** | **{killed}** | **{survived}** | **{percent(killed, mutants):.1f} %** |"


def _sums(found: list[FileScore]) -> tuple[int, int, int]:
    return (
        sum(score.mutants for score in found),
        sum(score.killed for score in found),
        sum(len(score.survivors) for score in found),
    )


def survivors(found: list[FileScore], reasons: Reasons) -> Iterator[str]:
    """Each survivor in Markdown, those of one reason together."""
    for score in found:
        if not score.survivors:
            continue
        yield f"\n### `{score.path}`\n"
        by_reason: dict[str, list[Survivor]] = {}
        for each in score.survivors:
            by_reason.setdefault(reasons.of(each) or "No reason is given yet.", []).append(each)
        for why, group in by_reason.items():
            yield f"- {why}"
            yield from (f"  - line {each.line}, `{each.function}`: `` {each.change} ``" for each in group)


def problems(found: list[FileScore], reasons: Reasons) -> Iterator[str]:
    """What keeps the run from passing."""
    mutants, killed, _ = _sums(found)
    if not mutants:
        yield "there are no mutants here; `make mutation` makes them and tries them"
    for score in found:
        if score.untried:
            yield f"{score.path}: {score.untried} mutants were not tried; let `make mutation` run to its end"
    if percent(killed, mutants) < BAR:
        yield f"the tests kill {percent(killed, mutants):.1f} % of the mutants; it must be at least {BAR:g} %"
    for each in (each for score in found for each in score.survivors):
        if reasons.of(each) is None:
            where = "no test notices" if each.reached else "no test comes by"
            yield f"{each.path}:{each.line}: {where}, and no reason is given: {each.function}: {each.change}"
    for path, function, change in reasons.unused(found):
        yield f"tools/mutation_survivors.toml: this reason is no longer needed, take it out: {path}: {function}: {change}"


def main(arguments: list[str] | None = None) -> int:
    """Write the report; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Write docs/mutation.md from the last mutation run.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    root: Path = parser.parse_args(arguments).root
    found = scores(root)
    reasons = Reasons(root / "tools" / "mutation_survivors.toml")
    report = root / "docs" / "mutation.md"
    head = report.read_text(encoding="utf-8").partition(MARK)[0]
    text = "\n".join([MARK, "", "## Score", "", *table(found), "", "## Survivors", *survivors(found, reasons)])
    report.write_text(f"{head}{text}\n", encoding="utf-8")
    print("\n".join(table(found)))
    wrong = list(problems(found, reasons))
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
