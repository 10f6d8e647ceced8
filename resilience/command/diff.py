"""`resilience diff`: what a change of the file changes, policy by policy, and what becomes of the state."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from resilience.command.changes import (
    ADDED,
    CHANGED,
    REMOVED,
    Change,
    RouteLine,
    Setting,
    pipeline_changes,
    policy_changes,
    refusal_changes,
    route_changes,
)
from resilience.command.entry import TROUBLE
from resilience.command.findings import show
from resilience.command.reading import STANDARD_INPUT, read
from resilience.command.requests import pattern, target
from resilience.command.screen import BAD, DOUBTFUL, GOOD, NAME, QUIET, WHERE, Part, Screen
from resilience.command.snippet import lines_of

DIFFERENT: Final = 1
"""The exit status when something changes."""
_STYLES: Final = {ADDED: GOOD, REMOVED: BAD, CHANGED: DOUBTFUL, " ": QUIET}
_VERBS: Final = {ADDED: "added", REMOVED: "removed", CHANGED: "changed"}


@click.command(short_help="Show what a change changes, and what becomes of the state.")
@click.argument("old", metavar="OLD", type=click.Path(allow_dash=True))
@click.argument("new", metavar="NEW", type=click.Path(allow_dash=True))
@click.pass_context
def diff(context: click.Context, old: str, new: str) -> None:
    """Show what changes from OLD to NEW, and what happens to the state of a running service.

    Values are compared as they hold, so a default that is written out is no change. One of the files can be - for standard input:

    \b
        git show HEAD:resilience.yaml | resilience diff - resilience.yaml

    \b
    Exit status: 0  nothing changes
                 1  something changes
                 2  a file has errors, or the command was called in a wrong way
    """
    if old == new == STANDARD_INPUT:
        raise click.UsageError("standard input (-) can be read once only")
    readings = [read(old), read(new)]
    before, after = (reading.document for reading in readings)
    if before is None or after is None:
        for reading in readings:
            if reading.document is None:
                show(Screen(sys.stderr), reading.findings, lines_of(reading.content))
        context.exit(TROUBLE)
    screen = Screen(sys.stdout)
    screen.line((f"{before.source} -> {after.source}", WHERE))
    changes = [*policy_changes(before, after), *pipeline_changes(before, after)]
    answers = list(refusal_changes(before, after))
    routes = route_changes(before, after)
    for change in (*changes, *answers):
        _show(screen, change)
    _show_routes(screen, routes)
    rest = "".join(("; routes change" if routes else "", "; answers to refusals change" if answers else ""))
    screen.line()
    screen.line(_summary(changes, rest, same_text=before.sha256 == after.sha256))
    if changes or rest:
        context.exit(DIFFERENT)


def _show(screen: Screen, change: Change) -> None:
    file = " of the old file" if change.sign == REMOVED else ""
    where = "" if change.position is None else f" (line {change.position.line}{file})"
    sign, name = (f"{change.sign} ", f"bold {_STYLES[change.sign]}"), (change.name, f"bold {NAME}")
    screen.line()
    screen.line(sign, f"{change.noun} ", name, (where, QUIET), "" if change.sign == CHANGED else f": {_VERBS[change.sign]}")
    screen.columns([_row(setting) for setting in change.settings], "    ")
    for sentence in change.state:
        screen.line("    ", ("state: ", QUIET), sentence)


def _row(setting: Setting) -> Sequence[Part]:
    if setting.old is None or setting.new is None:
        return setting.key, setting.new or ""
    return setting.key, (setting.old, BAD), "->", (setting.new, GOOD)


def _show_routes(screen: Screen, lines: Sequence[RouteLine]) -> None:
    if not lines:
        return
    screen.line()
    screen.line((f"{CHANGED} ", f"bold {DOUBTFUL}"), "routes, the first match wins")
    rows = []
    for line in lines:
        style = _STYLES[line.sign]
        note = "" if not line.moved else "moved here" if line.sign == ADDED else "moved from here"
        rows.append([(f"{line.sign} {pattern(line.rule)}", style), (f"-> {target(line.rule)}", style), (note, QUIET)])
    screen.columns(rows, "    ")
    screen.line("    ", ("state: ", QUIET), "requests under way keep the pipeline with which they began")


def _summary(changes: Sequence[Change], rest: str, *, same_text: bool) -> str:
    if not changes and not rest:
        return "nothing changes: the files are the same" if same_text else "nothing changes: the files say the same in other words"
    counts = {verb: sum(change.sign == sign for change in changes) for sign, verb in _VERBS.items()}
    counted = ", ".join(f"{count} {verb}" for verb, count in counts.items() if count)
    return f"policies and pipelines: {counted or 'none changes'}{rest}"
