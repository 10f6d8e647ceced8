"""What the tests of the command share: running it in this process, as a person would see it in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from resilience.command.group import resilience


class Ran(NamedTuple):
    """How a run ended and what it wrote."""

    status: int
    out: str
    err: str


def run(*words: str | Path, stdin: str | bytes | None = None, env: dict[str, str | None] | None = None) -> Ran:
    """Run the command. An exception that escapes it fails the test."""
    plain = {"NO_COLOR": None, "FORCE_COLOR": None, "COLUMNS": None}
    runner = CliRunner(env={**plain, **(env or {})})
    result = runner.invoke(resilience, [str(word) for word in words], input=stdin, prog_name="resilience", catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


def write(folder: Path, body: str, name: str = "resilience.yaml") -> str:
    """Write a file of this body under a version line, and return its path."""
    path = folder / name
    path.write_text(f"version: 1\n{textwrap.dedent(body)}", encoding="utf-8")
    return str(path)


def starts_with(lines: Sequence[str], beginning: str) -> list[str]:
    """The lines that begin so, after their indentation."""
    return [line.strip() for line in lines if line.strip().startswith(beginning)]
