"""Where the command starts. It says in one line what is missing where its packages are not installed."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Final

_NEEDED: Final = ("click", "rich")
TROUBLE: Final = 2
"""The exit status when what was asked for could not be done: a usage error, or a file that cannot be read or written."""


def main() -> int:
    """Run the command with this process's arguments. Returns or exits with its status."""
    try:
        group = importlib.import_module("resilience.command.group")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        sys.stderr.write(f"resilience: the command needs {missing}: pip install 'resilience-middleware[cli]'\n")
        return TROUBLE
    _open_streams()
    try:
        group.resilience.main(prog_name="resilience")
    except OSError as error:  # files are reported where they are read: this is the output
        sys.stderr.write(f"resilience: the output cannot be written: {error.strerror or error}\n")
        _drop_output()
        return TROUBLE
    return 0


def _open_streams() -> None:
    """No character that a terminal's encoding lacks may end the command, nor a stream that the shell has closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Throw away what could not be written: the interpreter would try it again when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
