"""Each group is measured in processes of its own, so that none leaves anything behind for the next; several, and the median counts.

Two processes of one program differ by some percent, since their memory lies differently: that no number of rounds averages out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import FULL, SMOKE, Row, Table, median_rows
from benchmarks.rows import GROUPS, Group

ROOT: Final = Path(__file__).resolve().parent.parent
MARK: Final = "benchmark-table "
LONGEST_S: Final = 900


class MeasuringFailed(Exception):
    """A group ended without a table. Its text is what the process said last."""


def measured(group: Group, *, is_smoke: bool) -> tuple[Table, dict[str, tuple[float, float]]]:
    """The table of a group over all its processes, and between what its figures lay.

    Raises:
        MeasuringFailed: a process ended without a table.
    """
    tables = [_one(group, is_smoke=is_smoke) for _ in range(1 if is_smoke else group.processes)]
    names = [name for name in tables[0].figures if all(name in table.figures for table in tables)]
    figures = {name: [table.figures[name] for table in tables] for name in names}
    medians = {name: statistics.median(found) for name, found in figures.items()}
    spread = {name: (min(found), max(found)) for name, found in figures.items()}
    return Table(median_rows(table.rows for table in tables), medians), spread


def _one(group: Group, *, is_smoke: bool) -> Table:
    command = [sys.executable, "-m", "benchmarks.processes", group.name, *(["--smoke"] if is_smoke else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasuringFailed(f"{group.name}: no table within {LONGEST_S} s") from error
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        raise MeasuringFailed(f"{group.name}: exit status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    table: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
    return Table({name: Row(**row) for name, row in table["rows"].items()}, table["figures"])


def main() -> None:
    """Measure one group here, and print its table for the process that asked."""
    table = GROUPS[sys.argv[1]].run(SMOKE if "--smoke" in sys.argv else FULL)
    print(MARK + json.dumps(asdict(table)))


if __name__ == "__main__":
    main()
