"""`resilience init` and `resilience schema`: a file to start from, and what editors need to help with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from resilience.command.init import starter_text
from resilience.command.schema import SCHEMA_FILE
from resilience.config import parse
from resilience.config.json_schema import json_schema
from resilience.config.schema import MATCH_KEYS, ROUTE_KEYS, SECTIONS, TOP_LEVEL
from tests.command.running import run


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_starter_file_passes_the_check_without_a_warning() -> None:
    assert run("init") == (
        0,
        "wrote resilience.yaml, and resilience.schema.json beside it for editors\nnext: resilience check resilience.yaml\n",
        "",
    )
    assert run("check", "--strict", "resilience.yaml") == (0, "1 file checked: no errors, no warnings\n", "")
    assert names() == ["resilience.schema.json", "resilience.yaml"]


def test_it_shows_every_section_and_guards_requests_and_calls() -> None:
    document = parse(starter_text(), "starter.yaml")
    sections = (document.health, document.deadlines, document.limiters, document.breakers, document.retries)
    assert all(sections)
    assert {rule.pipeline for rule in document.routes} == {None, "api"}
    assert set(document.pipelines) == {"api", "payments"}


def test_its_comments_mention_keys_that_exist() -> None:
    known = {key.name for section in SECTIONS for key in section.keys} | {*TOP_LEVEL, *ROUTE_KEYS, *MATCH_KEYS}
    shown = re.findall(r"^ +# (\w+): ", starter_text(), flags=re.MULTILINE)
    assert shown == ["trusted_proxies", "shadow"]
    assert set(shown) <= known


@pytest.mark.parametrize("commented", ["trusted_proxies: [10.0.0.0/8]", "shadow: true"])
def test_what_it_holds_in_comments_can_be_put_in_force(commented: str) -> None:
    text = starter_text()
    assert text.count(f"# {commented}") == 1
    document = parse(text.replace(f"# {commented}", commented), "starter.yaml")
    assert document.warnings == ()


def test_its_first_line_leads_editors_to_the_schema_beside_it() -> None:
    run("init", "resilience.yaml")
    modeline = Path("resilience.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert modeline == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    assert json.loads(Path(SCHEMA_FILE).read_text(encoding="utf-8")) == json_schema()


def test_the_schema_is_printed_as_it_is_written() -> None:
    run("init")
    ran = run("schema")
    assert (ran.status, ran.out, ran.err) == (0, Path(SCHEMA_FILE).read_text(encoding="utf-8"), "")
    assert ran.out.isascii()


def test_the_starter_file_on_standard_output() -> None:
    assert run("init", "-") == (0, starter_text(), "")
    assert names() == []


def test_a_file_that_exists_is_not_replaced() -> None:
    Path("resilience.yaml").write_text("mine", encoding="utf-8")
    assert run("init") == (2, "", "Error: resilience.yaml exists; --force replaces it\n")
    assert (Path("resilience.yaml").read_text(encoding="utf-8"), names()) == ("mine", ["resilience.yaml"])


def test_a_link_that_leads_nowhere_is_not_replaced_either() -> None:
    Path("resilience.yaml").symlink_to("away.yaml")
    assert run("init").status == 2
    assert not Path("away.yaml").exists()


def test_another_schema_is_not_replaced_and_the_same_one_is_no_obstacle() -> None:
    Path(SCHEMA_FILE).write_text("{}", encoding="utf-8")
    assert run("init") == (2, "", f"Error: {SCHEMA_FILE} exists; --force replaces it\n")
    assert names() == [SCHEMA_FILE]
    Path(SCHEMA_FILE).write_text(run("schema").out, encoding="utf-8")
    assert run("init").status == 0


def test_force_replaces_what_a_link_leads_to_and_keeps_its_permissions() -> None:
    Path("real").mkdir()
    real = Path("real", "it.yaml")
    real.write_text("old", encoding="utf-8")
    real.chmod(0o640)
    Path("resilience.yaml").symlink_to(real)
    assert run("init", "--force").status == 0
    assert Path("resilience.yaml").is_symlink()
    assert (real.read_text(encoding="utf-8"), real.stat().st_mode & 0o777) == (starter_text(), 0o640)
    assert names("real") == ["it.yaml"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
@pytest.mark.parametrize("name", ["resilience.yaml", SCHEMA_FILE])
def test_force_replaces_no_pipe_and_no_device(name: str) -> None:
    os.mkfifo(name)
    assert run("init", "--force") == (2, "", f"Error: {name} is not a regular file, and is not replaced\n")
    assert Path(name).is_fifo()
    assert names() == [name]


def test_it_writes_through_no_link_that_lies_in_wait() -> None:
    Path("mine").write_text("mine", encoding="utf-8")
    half = Path(f".resilience.yaml.{os.getpid()}")
    half.symlink_to("mine")
    assert run("init") == (2, "", "Error: resilience.yaml cannot be written: File exists\n")
    assert (Path("mine").read_text(encoding="utf-8"), half.is_symlink()) == ("mine", True)


def test_a_new_file_has_the_permissions_that_new_files_have_here() -> None:
    Path("other").touch()
    run("init")
    assert Path("resilience.yaml").stat().st_mode == Path("other").stat().st_mode


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no/such/it.yaml", "Error: no/such/it.yaml cannot be written: No such file or directory"),
        (f"{'x' * 300}.yaml", f"Error: {'x' * 300}.yaml cannot be written: File name too long"),
        (".", "Error: . cannot be a configuration file; name one such as resilience.yaml"),
        (SCHEMA_FILE, f"Error: {SCHEMA_FILE} cannot be a configuration file; name one such as resilience.yaml"),
        ("\x1b[2J/it.yaml", "Error: \\x1b[2J/it.yaml cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(path: str, said: str) -> None:
    assert run("init", path) == (2, "", f"{said}\n")
    assert names() == []
