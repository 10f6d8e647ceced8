"""Every process of a family follows the file, however it came to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watch.files import A
from tests.watch.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.mark.parametrize("scenario", ["children", "pool", "storm", "halfway", "unnoticed", "observed"])
def test_a_family_that_forks(scenario: str, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A)
    family = subprocess.run(
        [sys.executable, "-m", "tests.watch.family", scenario, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
    )
    assert family.returncode == 0, family.stderr
    assert "Error" not in family.stderr, family.stderr
