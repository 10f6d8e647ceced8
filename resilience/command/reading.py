"""Reads configuration files for the command: what can be used, or what is wrong with it and where."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resilience.command.findings import Finding
from resilience.config import Document, parse
from resilience.config.source import MAX_BYTES, read_bytes, reason
from resilience.config.values import shown
from resilience.errors import ConfigError

STANDARD_INPUT: Final = "-"


@dataclass(frozen=True, slots=True)
class Reading:
    """One file as it was read.

    Attributes:
        name: what it is called in messages.
        content: its bytes; empty where it could not be read.
        document: what it says; None where it cannot be used.
        findings: what is wrong with it, or else what its author may not have meant, in the order of the file.
    """

    name: str
    content: bytes
    document: Document | None
    findings: tuple[Finding, ...]


def read(path: str) -> Reading:
    """Read and check the file at `path`; `-` is standard input. Pipes are read too, so that a shell's `<(...)` works."""
    name = "<stdin>" if path == STANDARD_INPUT else path
    try:
        content = _bytes_of(path)
    except ConfigError as error:
        message = str(error).removeprefix(f"{shown(path)}: ").removeprefix(f"{path}: ")
        return Reading(name, b"", None, (Finding(name, message),))
    try:
        document = parse(content, name)
    except ConfigError as error:
        return Reading(name, content, None, tuple(Finding.of(problem) for problem in error.problems))
    warnings = tuple(Finding.of(warning, is_warning=True) for warning in document.warnings)
    return Reading(name, content, document, warnings)


def _bytes_of(path: str) -> bytes:
    """The content, and one byte more than is allowed when it is longer."""
    if path != STANDARD_INPUT and not _is_pipe(path):
        return read_bytes(path)
    try:
        if path != STANDARD_INPUT:
            with Path(path).open("rb") as pipe:
                return pipe.read(MAX_BYTES + 1)
        if sys.stdin is None:  # the shell has closed it
            raise ConfigError(f"{path}: cannot be read: it is closed")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason(error)}") from error


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except (OSError, ValueError):  # reading it says what is wrong
        return False
