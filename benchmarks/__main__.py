"""Measure, show and judge: `python -m benchmarks [group ...] [--smoke]`.

Exit status 1: a target was missed or not measured, or a group failed. `--smoke` holds the short form to wider bounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks import machine
from benchmarks.plot import write_plot
from benchmarks.processes import MeasuringFailed, measured
from benchmarks.report import OUT, Report, show_group, show_head, show_targets
from benchmarks.rows import GROUPS


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the groups that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the toolkit costs.")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"which of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--smoke", action="store_true", help="the short form, held to wider bounds")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    groups = [GROUPS[name] for name in asked.groups] or [group for group in GROUPS.values() if group.in_smoke or not asked.smoke]
    report = Report(asked.smoke, machine.kind(), machine.versions(name for group in groups for name in group.packages))
    console = Console(width=None if sys.stdout.isatty() else 150)
    show_head(console, report)
    for group in groups:
        try:
            report.tables[group.name], report.spreads[group.name] = measured(group, is_smoke=asked.smoke)
        except MeasuringFailed as error:
            report.failures[group.name] = str(error)
            console.print(str(error), style="bold red", markup=False)
            continue
        show_group(console, group.name, report.tables[group.name], report.spreads[group.name])
    show_targets(console, report)
    name = "smoke" if asked.smoke else "benchmarks"
    written = [report.write(name), write_plot(report, name)]
    console.print(f"written to {OUT.parent.name}/{OUT.name}: {', '.join(path.name for path in written if path)}", style="dim")
    return 1 if report.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
