"""The command as a process: its entry points, streams that end or lack characters, terminals, and packages that are missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from resilience import __version__
from resilience.command.entry import main
from tests.command.running import run
from tests.watch.files import as_somebody_without_rights

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "resilience"]
BAD = "version: 1\nlimiters:\n  größe値: {rate: 5}\n"
WITHOUT_IT = "import sys; sys.modules[{0!r}] = None; import resilience.command.entry as entry; sys.exit(entry.main())"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.yaml").write_text(BAD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def process(*words: str, command: list[str] = COMMAND, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *words], env={**os.environ, **env}, capture_output=True, timeout=120, check=False)


def test_the_script_is_declared_and_leads_to_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["resilience"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
    assert {requirement.partition(">")[0] for requirement in project["optional-dependencies"]["cli"]} == {"click", "rich"}


def test_a_file_is_checked_in_plain_utf_8_when_piped() -> None:
    ran = process("check", "it.yaml", PYTHONIOENCODING="utf-8")
    assert (ran.returncode, ran.stderr) == (1, b"")
    name = "a name is at most 64 ASCII letters, digits, '_', '-' and '.', and begins with a letter or '_'"
    assert ran.stdout.decode().splitlines() == [
        f"it.yaml:3:3: error: limiters.'größe値': {name}",
        "    3 |   größe値: {rate: 5}",
        "      |   ^^^^^^^",
        "it.yaml:3:18: error: limiters.'größe値'.rate: must be a rate such as 100/s, 600/m or 5/10s, got '5'; say per what: 5/s",
        "    3 |   größe値: {rate: 5}",
        "      |                   ^",
        "1 file checked: 2 errors, no warnings",
    ]


def test_a_terminal_that_lacks_characters_gets_them_escaped() -> None:
    ran = process("check", "it.yaml", PYTHONIOENCODING="ascii:strict")
    assert (ran.returncode, ran.stderr) == (1, b"")
    lines = ran.stdout.decode("ascii").splitlines()
    line, carets = next((line, lines[index + 1]) for index, line in enumerate(lines) if line.startswith("    3 | "))
    assert line == r"    3 |   gr\xf6\xdfe\u5024: {rate: 5}"
    assert line[carets.index("^") :].startswith(r"gr\xf6")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_packages_it_says_in_one_line_what_to_install(missing: str) -> None:
    ran = process("check", "it.yaml", command=[sys.executable, "-c", WITHOUT_IT.format(missing)])
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.decode() == f"resilience: the command needs {missing}: pip install 'resilience-middleware[cli]'\n"


def test_a_service_imports_nothing_of_the_command() -> None:
    code = "import sys, resilience; print(sorted({'click', 'rich', 'resilience.command'} & set(sys.modules)))"
    ran = process(command=[sys.executable, "-c", code])
    assert (ran.stdout, ran.stderr) == (b"[]\n", b"")


@pytest.mark.parametrize("words", [["check", "it.yaml"], ["schema"]])
def test_a_reader_that_has_gone_ends_it_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        ran = subprocess.run([*COMMAND, *words], stdout=stdout, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_said_in_one_line() -> None:
    with Path("/dev/full").open("wb") as stdout:
        ran = subprocess.run([*COMMAND, "check", "it.yaml"], stdout=stdout, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (2, b"resilience: the output cannot be written: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_closed_standard_output_leaves_the_status() -> None:
    ran = process("check", "it.yaml", command=["sh", "-c", '"$@" >&-', "sh", *COMMAND])
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("redirection", "fault"), [("<&-", "it is closed"), ("0>written", "Bad file descriptor")], ids=["closed", "for writing"]
)
@pytest.mark.parametrize(
    ("words", "status"), [("check -", 1), ("diff it.yaml -", 2), ("explain -", 2)], ids=["check", "diff", "explain"]
)
def test_a_standard_input_that_cannot_be_read_is_said_as_of_a_file(words: str, status: int, redirection: str, fault: str) -> None:
    Path("it.yaml").write_text("version: 1\n", encoding="utf-8")
    ran = process(*words.split(), command=["sh", "-c", f'"$@" {redirection}', "sh", *COMMAND])
    assert ran.returncode == status
    assert f"<stdin>: error: cannot be read: {fault}\n" in (ran.stdout + ran.stderr).decode()
    assert b"Traceback" not in ran.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_that_must_not_be_read_is_said_as_of_a_file(tmp_path: Path) -> None:
    os.mkfifo("pipe.yaml")
    Path("pipe.yaml").chmod(0o000)
    tmp_path.chmod(0o755)
    with as_somebody_without_rights():
        ran = run("check", "pipe.yaml")
    assert (ran.status, ran.err) == (1, "")
    assert ran.out.startswith("pipe.yaml: error: cannot be read: Permission denied\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_on_a_terminal_there_are_colours_unless_no_color_is_set(no_color: str, coloured: bool) -> None:
    master, slave = os.openpty()
    env = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm-256color"}
    try:
        ran = subprocess.run(
            [*COMMAND, "check", "it.yaml"], env=env, stdin=slave, stdout=slave, stderr=slave, timeout=120, check=False
        )
    finally:
        os.close(slave)
    with os.fdopen(master, "rb") as terminal:
        written = terminal.read1(65536)
    assert ran.returncode == 1
    assert b"error: " in written
    assert (b"\x1b[" in written) == coloured


def test_the_version() -> None:
    assert process("--version").stdout.decode() == f"resilience {__version__}\n"
