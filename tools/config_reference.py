"""What describes the configuration file, made from its declarations: the tables of `docs/configuration.md`, and the JSON Schema.

python tools/config_reference.py            # exit 1 if a page is not as the declarations would have it
python tools/config_reference.py --write    # write them anew
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's package, not one that is installed

from resilience.config.json_schema import json_schema  # noqa: E402
from resilience.config.schema import (  # noqa: E402
    LAYERS,
    MATCH,
    PIPELINE,
    REFUSALS,
    SECTIONS,
    STORE,
    STORE_SECTIONS,
    TOP_LEVEL_DOCS,
    Key,
    Section,
    Shape,
)
from resilience.config.written import default_of, ranges_of  # noqa: E402
from resilience.layers.keys import HEADER_PREFIX  # noqa: E402
from resilience.settings import Kind  # noqa: E402

PAGE: Final = ROOT / "docs" / "configuration.md"
SCHEMA: Final = ROOT / "docs" / "resilience.schema.json"
_REGION: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_DURATION: Final = "duration in `ms`, `s`, `m` or `h`"
_KINDS: Final[Mapping[Kind, str]] = {
    Kind.DURATION: _DURATION,
    Kind.SHARE: "share in `%`, or from 0 to 1",
    Kind.RATE: "count per `ms`, `s`, `m` or `h`, or per so many of them",
    Kind.COUNT: "whole number",
    Kind.NUMBER: "number",
    Kind.FLAG: "`true` or `false`",
    Kind.TEXT: "text",
    Kind.NAMES: "list of texts",
}
_SHAPES: Final[Mapping[Shape, str]] = {
    Shape.WINDOW: f"{_DURATION}, or a whole number of calls",
    Shape.RANGE: "two durations in `ms`, `s`, `m` or `h`, or one",
    Shape.STATUSES: "list of HTTP statuses and ranges of them",
    Shape.NETWORKS: "list of IP addresses and networks",
    Shape.SIGNAL: "the name of a signal, or `none`",
    Shape.PATH: "pattern of a path",
    Shape.GRPC: "pattern of `/SERVICE/METHOD`",
    Shape.METHODS: "list of HTTP methods",
    Shape.PIPELINE: "the name of a pipeline, or `none`",
    Shape.LIMITER: "the name of a limiter, or `none`",
}


class Unfilled(Exception):
    """The page and the tables do not fit each other."""


def tables() -> dict[str, str]:
    """Every table by the name that the page calls it by."""
    return {
        "file": _table(("Key", "Meaning"), ((_code(name), _prose(doc)) for name, doc in TOP_LEVEL_DOCS.items())),
        "layers": _table(
            ("Layer", "The name of"), ((_code(noun), f"an entry of `{found.name}`") for noun, found in LAYERS.items())
        ),
        "routes": _keys([_row(f"match.{key.name}", key, "") for key in MATCH] + [_row(PIPELINE.name, PIPELINE, "required")]),
        "store": _keys([_row(STORE.name, STORE, _code(STORE.default)), *_store_rows()]),
        **{section.name: _keys(_rows(section)) for section in (*SECTIONS, REFUSALS)},
    }


def filled(page: str) -> str:
    """`page` with its tables as the declarations have them.

    Raises:
        Unfilled: a table has no place in the page, or a place no table.
    """
    made = tables()
    places = [name for _, name, _ in _REGION.findall(page)]
    if sorted(places) != sorted(made):
        raise Unfilled(f"the page has places for {', '.join(places)}; there are tables of {', '.join(made)}")
    return _REGION.sub(lambda region: f"{region[1]}\n{made[region[2]]}\n{region[3]}", page)


def schema_text() -> str:
    """The JSON Schema as its file holds it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _rows(section: Section) -> Iterable[tuple[str, ...]]:
    for key in section.keys:
        inner = [(f"{key.name}.{part.name}", part) for part in key.keys]
        for name, single in inner or [(key.name, key)]:
            default = "required" if key in section.required else _shown(default_of(section, single))
            yield _row(name, single, default)


def _store_rows() -> Iterable[tuple[str, ...]]:
    for section in STORE_SECTIONS:
        for row in _rows(section):
            yield (_code(f"{section.name}.{row[0].strip('`')}"), *row[1:])


def _row(name: str, key: Key, default: str) -> tuple[str, ...]:
    meaning = "; ".join(option.doc for option in key.options)
    meaning = f"{meaning} ({key.note})" if key.note else meaning
    return _code(name), _type(key), default, ", ".join(ranges_of(key)), _prose(meaning), _code(key.example)


def _type(key: Key) -> str:
    words = [_code(word) for word in key.words]
    if key.shape is Shape.NAMES:
        return f"list of {_listed(words)}"
    if key.shape is Shape.RETRY_ON:
        return f"list of HTTP statuses and ranges of them, {_listed(words)}"
    if key.shape is Shape.KEY_SOURCE:
        return _listed([*words, _code(f"{HEADER_PREFIX}NAME")])
    if key.shape is Shape.STORE:
        return _listed([*words, *(f"a mapping of {_code(section.name)}" for section in STORE_SECTIONS)])
    if key.shape is Shape.VALUE:
        option = key.options[0]
        return _listed([_code(choice) for choice in option.choices]) if option.kind is Kind.CHOICE else _KINDS[option.kind]
    return _SHAPES[key.shape]


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, list):
        return _code(f"[{', '.join(default)}]")
    return _code(str(default).lower() if isinstance(default, bool) else str(default))


def _code(text: str | None) -> str:
    return f"`{text}`"


def _prose(text: str) -> str:
    return text.replace("*", "\\*").replace("|", "\\|").replace("<", "&lt;")


def _keys(rows: Iterable[tuple[str, ...]]) -> str:
    return _table(("Key", "Type and unit", "Default", "Range", "Meaning", "Example"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Compare or write the pages."""
    parser = argparse.ArgumentParser(description="Compare what describes the configuration file with its declarations.")
    parser.add_argument("--write", action="store_true", help="write it anew")
    arguments = parser.parse_args()
    made = {PAGE: filled(PAGE.read_text(encoding="utf-8")), SCHEMA: schema_text()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if arguments.write:
            path.write_text(made[path], encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'written' if arguments.write else 'is stale; run: make reference'}")
    if not stale:
        print("the description of the configuration file is as its declarations have it")
    return 1 if stale and not arguments.write else 0


if __name__ == "__main__":
    sys.exit(main())
