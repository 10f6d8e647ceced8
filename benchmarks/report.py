"""What a run shows: a table for each group, the targets, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table as Shown

from benchmarks.harness import Row, Table
from benchmarks.rows import GROUPS
from benchmarks.targets import Target, Verdict, targets_of

OUT: Final = Path(__file__).resolve().parent / "out"
_STYLES: Final = {Verdict.REACHED: "green", Verdict.MISSED: "bold red", Verdict.UNKNOWN: "yellow"}


@dataclass
class Report:
    """The tables of a run by group, what went wrong, and what it was made with."""

    is_smoke: bool
    kind: str
    versions: Mapping[str, str]
    tables: dict[str, Table] = field(default_factory=dict)
    spreads: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> list[tuple[Target, float | None, Verdict]]:
        """Each target of the groups that were asked for, with its figure and the verdict."""
        measured = {name: table.figures for name, table in self.tables.items()}
        figures = {group: measured.get(group, {}) for group in (*self.tables, *self.failures)}
        return [
            (target, figures[group].get(target.figure), target.judge(figures[group], is_smoke=self.is_smoke))
            for group in GROUPS
            if group in figures
            for target in targets_of(group, is_smoke=self.is_smoke)
        ]

    @property
    def has_failed(self) -> bool:
        """A group ended without a table, or a target was missed, or not measured though every peer was there."""
        if self.failures:
            return True
        return any(
            verdict is Verdict.MISSED or (verdict is Verdict.UNKNOWN and not lacks_peer(self.tables[target.group]))
            for target, _, verdict in self.targets
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`."""
        return {
            "machine": self.kind,
            "versions": dict(self.versions),
            "is_smoke": self.is_smoke,
            "groups": {name: {**asdict(table), "spread": self.spreads.get(name, {})} for name, table in self.tables.items()},
            "failures": self.failures,
            "targets": [
                {
                    "group": target.group,
                    "figure": target.figure,
                    "measured": figure,
                    "bound": target.bound,
                    "allowed": target.allowed(is_smoke=self.is_smoke),
                    "at_most": target.at_most,
                    "verdict": verdict.value,
                }
                for target, figure, verdict in self.targets
            ],
        }

    def write(self, name: str) -> Path:
        """Write the JSON; returns where."""
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{name}.json"
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        return path


def lacks_peer(table: Table) -> bool:
    """Whether a row of somebody else's could not be measured here."""
    return any(row.median is None and "resilience" not in name for name, row in table.rows.items())


def show_head(console: Console, report: Report) -> None:
    """What the run was made with."""
    console.print(report.kind, highlight=False)
    console.print(", ".join(f"{name} {found}" for name, found in report.versions.items()), highlight=False, style="dim")


def show_group(console: Console, name: str, table: Table, spread: Mapping[str, tuple[float, float]]) -> None:
    """Rows and figures of one group."""
    shown = Shown(title=f"{GROUPS[name].title} ({name})", title_justify="left", title_style="bold", expand=False)
    shown.add_column("")
    for heading in ("median", "quartiles", ""):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row_name, row in table.rows.items():
        shown.add_row(row_name, *cells(row))
    console.print(shown)
    for figure, value in table.figures.items():
        low, high = spread.get(figure, (value, value))
        between = "" if low == high else f"   from {low:.2f} to {high:.2f}"
        console.print(f"  {figure}: [bold]{value:.2f}[/bold]{between}", highlight=False)
    console.print()


def show_targets(console: Console, report: Report) -> None:
    """Each target with its figure, its bound and the verdict."""
    shown = Shown(title="Targets", title_justify="left", title_style="bold")
    for heading in ("group", "figure", "measured", "bound", ""):
        shown.add_column(heading, justify="right" if heading in {"measured", "bound"} else "left", no_wrap=heading != "figure")
    for target, figure, verdict in report.targets:
        sign = "≤" if target.at_most else "≥"
        measured = "-" if figure is None else f"{figure:.2f} {target.unit}"
        bound = f"{sign} {target.allowed(is_smoke=report.is_smoke):g} {target.unit}"
        shown.add_row(target.group, target.figure, measured, bound, f"[{_STYLES[verdict]}]{verdict.value}")
    console.print(shown)
    counts = {verdict: sum(found is verdict for _, _, found in report.targets) for verdict in Verdict}
    console.print(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count), highlight=False)


def cells(row: Row) -> tuple[str, str, str]:
    """A row as text: its median, its quartiles and its note."""
    if row.median is None:
        return "-", "", row.note
    digits = 3 if row.high < 10 else 1
    return f"{row.median:.{digits}f} {row.unit}", f"{row.low:.{digits}f} to {row.high:.{digits}f}", row.note
