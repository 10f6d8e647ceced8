"""A file as editors read it before they look at its schema: YAML 1.2, where `on` and `010` are what they seem."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import yaml

from resilience.config.json_schema import json_schema


class _Core(yaml.SafeLoader):
    """PyYAML with the scalars of the YAML 1.2 core schema (section 10.3.2 of the specification)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it


for _tag, _spelling in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_spelling})\\Z"), None)


def _decimal(loader: _Core, node: yaml.ScalarNode) -> int:
    return int(node.value, 0) if node.value[:2] in ("0o", "0x") else int(node.value)  # `010` is ten here


_Core.add_constructor("tag:yaml.org,2002:int", _decimal)

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def read(text: str) -> Any:
    """The file as JSON values, keys as the texts they are."""
    return json.loads(json.dumps(yaml.load(text, _Core)))


def complaints(text: str) -> list[str]:
    """What an editor underlines: where, and what is wrong."""
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(read(text))]
