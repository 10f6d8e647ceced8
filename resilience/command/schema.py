"""`resilience schema`: the JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import json
from typing import Final

import click

from resilience.config.json_schema import json_schema

SCHEMA_FILE: Final = "resilience.schema.json"
"""What the schema is called beside a configuration file; the starter file names it so."""


def schema_text() -> str:
    """The schema as a file holds it, in ASCII."""
    return f"{json.dumps(json_schema(), indent=2)}\n"


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    With it an editor completes keys and marks mistakes while you type. Keep it beside the configuration file, and name it there
    on the first line:

    \b
        resilience schema > resilience.schema.json
        # yaml-language-server: $schema=resilience.schema.json
    """
    click.echo(schema_text(), nl=False)
