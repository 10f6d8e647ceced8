"""`resilience init`: a commented configuration file to start from."""

from __future__ import annotations

import os
import stat
import sys
from importlib import resources
from pathlib import Path

import click

from resilience.command.entry import TROUBLE
from resilience.command.reading import STANDARD_INPUT
from resilience.command.schema import SCHEMA_FILE, schema_text
from resilience.command.screen import Screen, printable


class NotWritten(click.ClickException):
    """A file that could not be written."""

    exit_code = TROUBLE


def starter_text() -> str:
    """The starter file."""
    return resources.files("resilience.command").joinpath("starter.yaml").read_text(encoding="utf-8")


@click.command(short_help="Write a commented file to start from.")
@click.argument("path", metavar="[PATH]", default="resilience.yaml", type=click.Path(allow_dash=True))
@click.option("--force", is_flag=True, help="Replace files that exist.")
def init(path: str, force: bool) -> None:
    """Write a commented configuration file to start from, and beside it its JSON Schema for editors.

    PATH is resilience.yaml unless given; - is standard output, without a schema. Files that exist are not replaced.

    \b
    Exit status: 0  written
                 2  a file exists, or cannot be written
    """
    if path == STANDARD_INPUT:
        click.echo(starter_text(), nl=False)
        return
    file = Path(path)
    schema = file.with_name(SCHEMA_FILE) if file.name else file
    if _is_folder(file) or file.name == SCHEMA_FILE:
        raise NotWritten(f"{printable(path)} cannot be a configuration file; name one such as resilience.yaml")
    wanted = {file: starter_text(), schema: schema_text()}
    for target, text in wanted.items():
        if _is_irregular(target):
            raise NotWritten(f"{printable(str(target))} is not a regular file, and is not replaced")
        if os.path.lexists(target) and not force and not (target is schema and _holds(target, text)):
            raise NotWritten(f"{printable(str(target))} exists; --force replaces it")
    for target, text in wanted.items():
        _write(target, text)
    screen = Screen(sys.stdout)
    screen.line(f"wrote {file}, and {schema.name} beside it for editors")
    screen.line(f"next: resilience check {file}")


def _is_folder(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # such as a name that is too long: writing it will tell
        return False


def _is_irregular(file: Path) -> bool:
    """Whether it is a device, a pipe or a folder: a file put in its place would end what others use it for."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except (OSError, ValueError):  # it is not there, or cannot be: writing it will tell
        return False


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all: a service may be watching it."""
    real = Path(os.path.realpath(file))
    try:
        half = real.with_name(f".{real.name}.{os.getpid()}")
        opened = half.open("x", encoding="utf-8")  # never through a link that somebody else has put there
        try:
            with opened:
                opened.write(text)
            half.chmod(_mode(real, otherwise=half))
            half.replace(real)
        finally:
            half.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NotWritten(f"{printable(str(file))} cannot be written: {reason}") from None


def _mode(file: Path, otherwise: Path) -> int:
    """The permissions of a file that is replaced, or those that a new one was made with."""
    return (file if file.exists() else otherwise).stat().st_mode & 0o777
