"""The interpreter is the one asked for, or the first that is new enough; else one line says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FIND_PYTHON = Path(__file__).resolve().parents[2] / "tools" / "find-python"

Find = Callable[..., subprocess.CompletedProcess[str]]

NEW = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
OLD = '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n'
SHIM_WITHOUT_A_VERSION = "#!/bin/sh\necho command not found >&2\nexit 127\n"


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Run the script where these commands are the only ones there are."""

    def run(commands: dict[str, str], asked_for: str = "") -> subprocess.CompletedProcess[str]:
        for name, script in commands.items():
            (tmp_path / name).write_text(script, encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        environment = {**os.environ, "PATH": str(tmp_path), "PYTHON": asked_for}
        return subprocess.run([str(FIND_PYTHON)], env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_python3_where_it_is_new_enough(find: Find) -> None:
    result = find({"python3": NEW, "python3.12": NEW})
    assert (result.returncode, result.stdout, result.stderr) == (0, "python3\n", "")


def test_a_newer_one_where_python3_is_too_old(find: Find) -> None:
    result = find({"python3": OLD, "python3.13": SHIM_WITHOUT_A_VERSION, "python3.12": NEW})
    assert (result.returncode, result.stdout, result.stderr) == (0, "python3.12\n", "")


def test_the_one_asked_for(find: Find) -> None:
    assert find({"python3": NEW, "python3.12": NEW}, asked_for="python3.12").stdout == "python3.12\n"


def test_the_one_asked_for_is_not_replaced_by_another(find: Find) -> None:
    result = find({"python3": NEW, "older": OLD}, asked_for="older")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: PYTHON=older is not Python 3.11 or newer: Python 3.9.1\n"


@pytest.mark.parametrize(
    ("commands", "seen"), [({}, "not found"), ({"python3": OLD}, "Python 3.9.1")], ids=["none", "only an old one"]
)
def test_none_is_new_enough(find: Find, commands: dict[str, str], seen: str) -> None:
    result = find(commands)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no Python 3.11 or newer found")
    assert seen in result.stderr
