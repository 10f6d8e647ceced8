"""The README's section on the command: what it shows is what a shell shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resilience.command.group import resilience

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Command line\n")[2].partition("\n## ")[0]
CONSOLE = re.findall(r"```console\n(.*?)```", SECTION, flags=re.DOTALL)
SHOWN = re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", "".join(CONSOLE), flags=re.MULTILINE)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(("typed", "answer"), SHOWN, ids=[typed for typed, _ in SHOWN])
def test_a_command_answers_as_shown(tmp_path: Path, typed: str, answer: str) -> None:
    (tmp_path / "resilience.yaml").write_text(re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[0], encoding="utf-8")
    script = tmp_path / "resilience"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m resilience "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }
    env.pop("FORCE_COLOR", None)
    ran = subprocess.run(
        ["sh", "-c", typed], cwd=tmp_path, env=env, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )
    assert (ran.stdout, ran.stderr) == (answer, "")


def test_every_subcommand_is_in_the_table_and_three_are_shown() -> None:
    rows = re.findall(r"^\| `resilience (\w+)", SECTION, flags=re.MULTILINE)
    assert sorted(rows) == sorted(resilience.commands)
    assert [re.findall(r"resilience (\w+)", typed)[0] for typed, _ in SHOWN] == ["check", "diff", "explain"]
