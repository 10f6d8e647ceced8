"""The demo as a process: told to stop, it stops what it started and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo_kit.processes import ROOT
from tests.examples.test_processes import is_running


@pytest.mark.parametrize(
    ("app", "number", "services"),
    [
        ("asgi_app", signal.SIGINT, 2),
        ("asgi_app", signal.SIGTERM, 2),
        ("asgi_app", signal.SIGHUP, 2),
        ("flask_app", signal.SIGTERM, 2),
        ("grpc_service", signal.SIGTERM, 3),
    ],
)
def test_a_demo_that_is_stopped_stops_its_services(app: str, number: signal.Signals, services: int, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, f"examples/{app}/demo.py", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pids = services_of(demo)
        assert len(pids) == services
        assert all(is_running(pid) for pid in pids)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=90)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130
    assert errors == "\nstopped; the services that were started are stopped too\n"
    assert not any(is_running(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def services_of(demo: subprocess.Popen[str]) -> list[int]:
    """The ids of the services' processes, as soon as the demo has told them and the load has begun."""
    assert demo.stdout is not None
    pids: list[int] = []
    for line in demo.stdout:
        if told := re.search(r"service is process (\d+)", line):
            pids.append(int(told[1]))
        if "requests a second are sent" in line:
            break
    return pids


def test_a_demo_explains_itself() -> None:
    command = [sys.executable, "examples/asgi_app/demo.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert "folder for the plot" in done.stdout
