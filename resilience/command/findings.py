"""What was found in files, and the forms in which it is told: to people, to GitHub, to programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from resilience.command.screen import BAD, DOUBTFUL, QUIET, WHERE, Screen, printable
from resilience.command.snippet import snippet
from resilience.errors import Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or warning. Without `line` it is about the file as a whole."""

    file: str
    message: str
    line: int | None = None
    column: int | None = None
    key: str = ""
    is_warning: bool = False

    @classmethod
    def of(cls, problem: Problem, *, is_warning: bool = False) -> Finding:
        """What the reader of the file reports."""
        return cls(problem.source, problem.message, problem.line, problem.column, problem.key, is_warning)

    @property
    def severity(self) -> str:
        """The word for it."""
        return "warning" if self.is_warning else "error"

    @property
    def place(self) -> str:
        """`file:line:column`, as editors and terminals make a link of it."""
        return self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"

    @property
    def text(self) -> str:
        """The message with the key that it is about."""
        return f"{self.key}: {self.message}" if self.key else self.message


def show(screen: Screen, findings: Iterable[Finding], lines: Sequence[str]) -> None:
    """Write findings for people, each with its line of the file and a caret under the spot."""
    for finding in findings:
        style = DOUBTFUL if finding.is_warning else BAD
        screen.line((f"{finding.place}: ", WHERE), (f"{finding.severity}: ", f"bold {style}"), finding.text)
        if finding.line is None or finding.column is None or finding.line > len(lines):
            continue
        margin = f"{finding.line:>5} | "
        shown = snippet(lines[finding.line - 1], finding.column, screen.width - len(margin), screen.encoding)
        if shown is not None:
            screen.line((margin, QUIET), shown.line)
            screen.line((f"{'| ':>{len(margin)}}", QUIET), (shown.carets, style))


def github_command(finding: Finding) -> str:
    """A finding as a workflow command, which GitHub shows beside the line.

    Source: GitHub's documentation of workflow commands, "Setting an error message"; its toolkit's rules for escaping.
    """
    properties = {"file": finding.file, "line": finding.line, "col": finding.column, "title": f"resilience {finding.severity}"}
    given = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value is not None)
    return f"::{finding.severity} {given}::{_data(f'{finding.place}: {finding.text}')}"


def _data(text: str) -> str:
    kept = "".join(character if character in "\r\n" else printable(character) for character in text)
    return kept.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_json(findings: Sequence[Finding]) -> str:
    """All findings as one JSON object, in ASCII."""
    listed = []
    for finding in findings:
        fields = asdict(finding)
        del fields["is_warning"]
        listed.append({"severity": finding.severity, **fields})
    errors = sum(not finding.is_warning for finding in findings)
    return json.dumps({"errors": errors, "warnings": len(findings) - errors, "findings": listed}, indent=2)
