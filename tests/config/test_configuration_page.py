"""The reference of the configuration file is as the declarations have it, and every example in it is read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config_reference
from resilience.config import Document, parse
from resilience.config.json_schema import json_schema
from resilience.config.nodes import ScalarNode
from resilience.config.report import START
from resilience.config.scalars import parse_count, parse_flag, parse_number
from resilience.config.schema import MATCH, PIPELINE, SECTIONS, STORE, TOP_LEVEL, Key
from resilience.config.values import parse_duration, parse_range, parse_rate, parse_share
from tests.config.editor import complaints
from tests.config.reading import SOURCE

PAGE = config_reference.PAGE.read_text(encoding="utf-8")
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
AGAIN = "if the change is meant, run: make reference"


def rows(table: str) -> dict[str, list[str]]:
    """The cells of a table of the page by the first of them."""
    text = config_reference.tables()[table]
    cells = [line.strip("| \n").split(" | ") for line in text.splitlines()[2:]]
    return {row[0]: row for row in cells}


def test_the_tables_are_those_of_the_declarations() -> None:
    assert config_reference.filled(PAGE) == PAGE, AGAIN


def test_the_published_schema_is_that_of_the_declarations() -> None:
    text = config_reference.SCHEMA.read_text(encoding="utf-8")
    assert text == config_reference.schema_text(), AGAIN
    assert json.loads(text) == json_schema()


def test_the_tool_says_so_too() -> None:
    tool = Path(config_reference.__file__)
    result = subprocess.run([sys.executable, "-W", "error", str(tool)], capture_output=True, text=True, timeout=60, check=False)
    said = "the description of the configuration file is as its declarations have it\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, said, "")


def test_a_stale_page_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, schema = tmp_path / "configuration.md", tmp_path / "schema.json"
    page.write_text(PAGE.replace("| `burst` |", "| `bursts` |"), encoding="utf-8")
    for name, value in (("ROOT", tmp_path), ("PAGE", page), ("SCHEMA", schema)):
        monkeypatch.setattr(config_reference, name, value)
    monkeypatch.setattr(sys, "argv", ["config_reference.py"])
    assert config_reference.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "configuration.md: is stale; run: make reference",
        "schema.json: is stale; run: make reference",
    ]
    monkeypatch.setattr(sys, "argv", ["config_reference.py", "--write"])
    assert config_reference.main() == 0
    assert page.read_text(encoding="utf-8") == PAGE
    assert json.loads(schema.read_text(encoding="utf-8")) == json_schema()


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(config_reference.Unfilled, match=r"there are tables of .*limiters"):
        config_reference.filled(PAGE.replace("<!-- table: limiters -->", ""))


def test_every_key_has_its_line() -> None:
    assert [name.strip("`") for name in rows("file")] == list(TOP_LEVEL)
    assert [name.strip("`") for name in rows("routes")] == [*(f"match.{key.name}" for key in MATCH), PIPELINE.name]
    for section in SECTIONS:
        names = [f"{key.name}.{inner.name}" for key in section.keys for inner in key.keys]
        names += [key.name for key in section.keys if not key.keys]
        assert sorted(name.strip("`") for name in rows(section.name)) == sorted(names)


def test_a_line_has_type_unit_default_range_meaning_and_example() -> None:
    assert rows("breakers")["`failure_rate`"] == [
        "`failure_rate`",
        "share in `%`, or from 0 to 1",
        "`50%`",
        "above 0%, at most 100%",
        "share of failed calls that opens (at 0 % every call would open it)",
        "`25%`",
    ]
    assert rows("limiters")["`rate`"][2] == "required"
    assert rows("deadlines")["`max`"][2:4] == ["", "above 0s, at most 24h"]
    assert rows("limiters")["`status`"][3] == "429 or 503"
    for section in SECTIONS:
        for row in rows(section.name).values():
            assert row[1], row
            assert row[4], row
            assert row[5] != "``", row


@pytest.mark.parametrize("key", [*MATCH, PIPELINE, STORE], ids=lambda key: key.name)
def test_examples_beside_the_sections_are_read(key: Key) -> None:
    needed = "match: {path: /a}" if key is PIPELINE else "pipeline: none"
    given = f"{key.name}: {key.example}"
    if key.name == "methods":
        given = f"path: /a, {given}"
    rule = given if key is PIPELINE else f"match: {{{given}}}"
    body = given if key is STORE else f"routes: [{{{rule}, {needed}}}]"
    text = f"version: 1\nlimiters: {{x: {{rate: 5/s}}}}\npipelines: {{api: [{{limiter: x}}]}}\n{body}\n"
    assert isinstance(parse(text, SOURCE), Document)
    assert complaints(text) == []


def test_the_page_has_whole_files() -> None:
    assert len(FILES) == 7


@pytest.mark.parametrize("text", FILES)
def test_a_file_on_the_page_is_read_without_a_warning(text: str) -> None:
    parsed = parse(text, SOURCE)
    assert parsed.warnings == ()
    assert complaints(text) == []


@pytest.mark.parametrize("path", [config_reference.PAGE, config_reference.ROOT / "examples" / "asgi_app" / "resilience.yaml"])
def test_a_modeline_leads_to_the_schema(path: Path) -> None:
    (schema,) = set(MODELINE.findall(path.read_text(encoding="utf-8")))
    assert (path.parent / schema).resolve() == config_reference.SCHEMA


def scalar(text: str) -> ScalarNode:
    return ScalarNode(START, text)


def test_values_are_written_as_the_page_says() -> None:
    table = PAGE.partition("## How values are written")[2].partition("\n\nThe file")[0]
    written = {
        row[0]: row
        for row in (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ") or "`" in line)
    }
    examples = {form: re.findall(r"`([^`]+)`", row[2]) for form, row in written.items() if len(row) == 3}
    assert [parse_duration(text) for text in examples["duration"]] == [0.25, 1.5, 60, 7200]
    assert [parse_rate(text) for text in examples["rate"]] == [100, 10, 0.5]
    assert [parse_share(text) for text in examples["share"]] == [0.7, 0.7]
    assert [parse_range(text) for text in examples["range"]] == [(0.1, 2)]
    count, number = examples["whole number, number"]
    assert (parse_count(scalar(count)), parse_number(scalar(number))) == (20, 0.1)
    refused = re.findall(r"`([^`]+)`", written["whole number, number"][1])
    assert refused == ["1e3", "010", "1_000", ".5"]
    for text in refused:
        with pytest.raises(ValueError, match="must be a number"):
            parse_number(scalar(text))
    assert [parse_flag(scalar(text)) for text in examples["truth"]] == [True]
