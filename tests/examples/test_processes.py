"""Services of a demo: started, waited for, and stopped whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from examples.demo_kit.processes import ROOT, Service, StartError


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_service_lives_as_long_as_its_block(tmp_path: Path) -> None:
    with Service("payments", "examples.asgi_app.payments:create_app", tmp_path) as service:
        asyncio.run(service.wait_ready())
        pid = service.pid
        assert httpx.get(f"{service.url}/healthz", trust_env=False).status_code == 200
        assert is_running(pid)
    assert not is_running(pid)
    assert service.pid == 0


def test_a_service_is_stopped_when_its_block_fails(tmp_path: Path) -> None:
    pids = []

    def fail() -> None:
        with Service("payments", "examples.asgi_app.payments:create_app", tmp_path) as service:
            pids.append(service.pid)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert not is_running(pids[0])


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    service = Service("broken", "examples.asgi_app.nowhere:create_app", tmp_path)
    with service, pytest.raises(StartError, match="nowhere") as caught:
        asyncio.run(service.wait_ready())
    assert "broken service ended at once" in str(caught.value)


@pytest.mark.parametrize(("app", "server"), [("asgi_app", "uvicorn"), ("flask_app", "gunicorn")])
def test_a_bad_configuration_is_shown_line_by_line(app: str, server: str, tmp_path: Path) -> None:
    bad = tmp_path / "resilience.yaml"
    bad.write_text("version: 1\nlimiters: {api: {rate: 100}}\n", encoding="utf-8")
    environment = {"RESILIENCE_CONFIG": str(bad)}
    service = Service("orders", f"examples.{app}.app:from_environment", tmp_path, environment, server=server)
    with service, pytest.raises(StartError, match=r"resilience.yaml:2:24: limiters\.api\.rate"):
        asyncio.run(service.wait_ready())


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.demo_kit.processes._STOP_WITHIN_S", 0.2)
    with Service("stubborn", "tests.examples.stubborn:create_app", tmp_path) as service:
        asyncio.run(service.wait_ready())
        pid = service.pid
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("module", "factory"),
    [
        ("examples.demo_kit.serve", "examples.asgi_app.payments:create_app"),
        ("examples.demo_kit.serve_wsgi", "examples.flask_app.app:from_environment"),
    ],
)
def test_a_server_ends_when_its_parent_is_gone(module: str, factory: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", module, factory]
        server = subprocess.Popen(
            [*command, str(listening.fileno())], cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[listening.fileno()]
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/healthz"
    try:
        assert httpx.get(url, trust_env=False, timeout=20).status_code == 200
        assert server.stdin is not None
        server.stdin.close()  # as the system does for a parent that was killed
        assert server.wait(timeout=20) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.wait()
