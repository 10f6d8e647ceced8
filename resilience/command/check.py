"""`resilience check`: every error of the files at once, and what their authors may not have meant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from resilience.command.findings import Finding, as_json, github_command, show
from resilience.command.reading import STANDARD_INPUT, Reading, read
from resilience.command.screen import BAD, DOUBTFUL, GOOD, Screen
from resilience.command.snippet import lines_of

FOUND: Final = 1
"""The exit status when a file has errors, or warnings where they count as errors."""


@click.command(short_help="Check configuration files.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github", "json"]),
    default="text",
    show_default=True,
    help="text for people, github for annotations in a workflow, json for programs.",
)
@click.pass_context
def check(context: click.Context, files: tuple[str, ...], strict: bool, form: str) -> None:
    """Check configuration files; FILE - is standard input.

    Reports every error and warning with line and column. A file is looked at for warnings once it has no errors.

    \b
    Exit status: 0  no errors (warnings are allowed without --strict)
                 1  a file has errors, or cannot be read
                 2  the command was called in a wrong way
    """
    if files.count(STANDARD_INPUT) > 1:
        raise click.UsageError("standard input (-) can be read once only")
    readings = [read(path) for path in files]
    findings = [finding for reading in readings for finding in reading.findings]
    if form == "text":
        _show(readings, findings, strict=strict)
    elif form == "github":
        for finding in findings:
            click.echo(github_command(finding))
    else:
        click.echo(as_json(findings))
    if any(strict or not finding.is_warning for finding in findings):
        context.exit(FOUND)


def _show(readings: Sequence[Reading], findings: Sequence[Finding], *, strict: bool) -> None:
    screen = Screen(sys.stdout)
    for reading in readings:
        show(screen, reading.findings, lines_of(reading.content))
    errors = sum(not finding.is_warning for finding in findings)
    warnings = len(findings) - errors
    style = BAD if errors or (warnings and strict) else DOUBTFUL if warnings else GOOD
    summary = f"{_count(len(readings), 'file')} checked: {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    screen.line((summary, style), " (--strict: warnings fail)" if warnings and strict else "")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
