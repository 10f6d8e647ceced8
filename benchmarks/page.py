"""Writes the last whole run into docs/benchmarks.md: `python -m benchmarks.page`, after `python -m benchmarks`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Row
from benchmarks.report import OUT, cells
from benchmarks.rows import GROUPS

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- the last run: written by `python -m benchmarks.page` -->\n"
END: Final = "<!-- the end of the last run -->\n"


def rendered(run: Mapping[str, Any]) -> str:
    """A run as Markdown, from its JSON."""
    return "\n".join(_lines(run)) + "\n"


def _lines(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"{run['machine']}. {', '.join(f'{name} {version}' for name, version in run['versions'].items())}."
    yield ""
    yield "| target | measured | bound | |"
    yield "|---|---:|---:|---|"
    for target in run["targets"]:
        measured = "-" if target["measured"] is None else f"{target['measured']:.2f}"
        bound = f"{'≤' if target['at_most'] else '≥'} {target['bound']:g}"
        verdict = "**missed**" if target["verdict"] == "MISSED" else target["verdict"]
        yield f"| {target['group']}: {target['figure']} | {measured} | {bound} | {verdict} |"
    for name, table in run["groups"].items():
        yield ""
        yield f"### {GROUPS[name].title} (`{name}`)"
        yield ""
        yield "| | median | quartiles | |"
        yield "|---|---:|---:|---|"
        for row_name, row in table["rows"].items():
            yield f"| {row_name} | {' | '.join(cells(Row(**row)))} |"
        if table["figures"]:
            yield ""
            yield "; ".join(f"{figure}: {value:.2f}" for figure, value in table["figures"].items()) + "."


def replaced(page: str, text: str) -> str:
    """The page with `text` between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no two lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> int:
    """Write the page anew."""
    path = OUT / "benchmarks.json"
    if not path.exists():
        print("there is no run to write down; `python -m benchmarks` makes one", file=sys.stderr)
        return 1
    run = json.loads(path.read_text(encoding="utf-8"))
    if set(run["groups"]) != set(GROUPS):
        print("the last run did not measure all groups; `python -m benchmarks` does", file=sys.stderr)
        return 1
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), rendered(run)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
