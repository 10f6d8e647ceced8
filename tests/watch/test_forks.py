"""Every process of a family follows the file, however it came to be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watch.files import A
from tests.watch.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
SCENARIOS = ("children", "pool", "storm", "halfway", "unnoticed", "observed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
Families = dict[str, subprocess.Popen[str]]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Families]:
    """All families at once: most of their time is the start of an interpreter."""
    started: Families = {}
    for scenario in SCENARIOS:
        path = tmp_path_factory.mktemp(scenario) / "resilience.yaml"
        path.write_bytes(A)
        command = [sys.executable, "-m", "tests.watch.family", scenario, str(path)]
        started[scenario] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield started
    for family in started.values():
        family.kill()
        family.communicate()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_family_that_forks(scenario: str, families: Families) -> None:
    printed, _ = families[scenario].communicate(timeout=2 * LIMIT_S)
    assert families[scenario].returncode == 0, printed
    assert "Error" not in printed, printed
