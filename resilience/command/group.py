"""The command and its subcommands."""

from __future__ import annotations

import click

from resilience import __version__
from resilience.command.check import check
from resilience.command.diff import diff
from resilience.command.explain import explain
from resilience.command.failed import failed
from resilience.command.init import init
from resilience.command.schema import schema


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def resilience() -> None:
    """Look at configuration files before they go live, and after tasks that failed.

    Colours are for terminals; NO_COLOR turns them off.
    """


for command in (check, diff, explain, failed, init, schema):
    resilience.add_command(command)
