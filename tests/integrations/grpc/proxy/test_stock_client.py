"""A gRPC client that knows nothing of us, in another language: `buf curl`, straight and through Envoy, by server reflection."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from examples.demo_kit.shorten import write_shortened
from examples.grpc_service.serve import CONFIG
from examples.grpc_service.stubs import protos, services
from tests.examples.inventory import SERVERS, inventory
from tests.integrations.asgi.server import TIMEOUT_S
from tests.integrations.grpc.proxy.conftest import NO_TIMEOUT
from tests.integrations.grpc.proxy.envoy import Way, proxying

BUF: Final = Path(sys.executable).with_name("buf")
GET_STOCK: Final = "shop.inventory.v1.Inventory/GetStock"


class Said(NamedTuple):
    """What it printed. `code` is its exit status: that of gRPC times eight."""

    code: int
    output: str
    errors: str

    @property
    def error(self) -> Any:
        """The error of the call, as it prints it."""
        return json.loads(self.errors)


@contextmanager
def running(server: str, folder: Path, changes: dict[str, str]) -> Iterator[dict[str, int]]:
    """The inventory, with some of its configuration changed: its ports straight and through Envoy."""
    config = folder / "resilience.yaml"
    write_shortened(CONFIG, config, changes)
    with inventory(server, config) as port, proxying(folder, {"inventory": Way(port, http2=True, route=NO_TIMEOUT)}) as proxied:
        yield {"straight": port, "through Envoy": proxied["inventory"]}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which buf keeps what it caches with the test, and asks nobody."""
    folder = tmp_path / "home"
    folder.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CACHE_HOME": str(folder), "BUF_CACHE_DIR": str(folder)}


def curl(home: dict[str, str], port: int, method: str, document: str) -> Said:
    """One call by `buf curl`."""
    command = [str(BUF), "curl", "--protocol", "grpc", "--data", document, f"http://127.0.0.1:{port}/{method}"]
    done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("server", SERVERS)
def test_it_is_served_and_refused_in_its_own_words(server: str, home: dict[str, str], tmp_path: Path) -> None:
    with running(server, tmp_path, {"{rate: 300/s, burst: 100,": "{rate: 2/m, burst: 2,"}) as ports:
        for way, port in ports.items():
            served = curl(home, port, GET_STOCK, '{"item": "sugar"}')
            assert (served.code, served.errors) == (0, ""), way
            assert json.loads(served.output) == {"item": "sugar", "left": "3"}
        for way, port in ports.items():
            refused = curl(home, port, GET_STOCK, '{"item": "sugar"}')
            assert refused.code == 8 * grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], way
            _is_our_refusal(refused.error)


def _is_our_refusal(error: Any) -> None:
    assert error["code"] == "resource_exhausted"
    assert error["message"].startswith("per_caller: over the limit of ")
    info, retry = ErrorInfo(), RetryInfo()
    values = {detail["type"]: detail["value"] for detail in error["details"]}
    assert set(values) == {"google.rpc.ErrorInfo", "google.rpc.RetryInfo"}
    info.ParseFromString(_bytes(values["google.rpc.ErrorInfo"]))
    retry.ParseFromString(_bytes(values["google.rpc.RetryInfo"]))
    assert (info.reason, info.domain, dict(info.metadata)) == ("QUOTA_EXCEEDED", "resilience", {"policy": "per_caller"})
    assert 0 < retry.retry_delay.seconds <= 30


def _bytes(text: str) -> bytes:
    """Of base64 without its padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("server", SERVERS)
def test_it_hears_of_a_deadline(server: str, home: dict[str, str], tmp_path: Path) -> None:
    with running(server, tmp_path, {"default: 1s,": "default: 300ms,"}) as ports:
        with grpc.insecure_channel(f"127.0.0.1:{ports['straight']}") as channel:
            services.FaultsStub(channel).Set(protos.SetRequest(fault=protos.FAULT_HANG), timeout=TIMEOUT_S)
        answers = [curl(home, port, GET_STOCK, '{"item": "sugar"}') for port in ports.values()]
    for late in answers:
        assert late.code == 8 * grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert late.error["code"] == "deadline_exceeded"
        assert [detail["type"] for detail in late.error["details"]] == ["google.rpc.ErrorInfo"]
        assert b"DEADLINE_EXCEEDED" in _bytes(late.error["details"][0]["value"])
