"""A real Envoy as a child process, between clients and servers of the tests. It knows nothing of us; all of it is on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import envoy
import httpx

from tests.integrations.asgi.server import TIMEOUT_S
from tests.watch.waiting import wait_until

PROGRAM: Final = Path(envoy.__file__).with_name("_bin") / "envoy"
_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "envoy.extensions.filters.http.router.v3.Router"
_PROTOCOLS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Way:
    """One port of the proxy, and what is behind it.

    Args:
        port: of the server behind it.
        http2: whether that speaks HTTP/2, as gRPC does.
        route: what Envoy's `RouteAction` says beside the cluster, such as a timeout or a retry policy.
    """

    port: int
    http2: bool
    route: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def proxying(folder: Path, ways: Mapping[str, Way]) -> Iterator[dict[str, int]]:
    """Run an Envoy until the block is left. Yields its port for each way."""
    config, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    config.write_text(json.dumps(_config(ways)), encoding="utf-8")
    command = [str(PROGRAM), "-c", str(config), "--admin-address-path", str(admin), "--concurrency", "1", "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--disable-hot-restart"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or (admin.exists() and admin.read_text()), "Envoy has its ports")
        assert process.poll() is None, log.read_text()
        yield _ports(admin.read_text())
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            process.wait()


def _ports(admin: str) -> dict[str, int]:
    """The ports that the kernel gave it."""
    with httpx.Client(base_url=f"http://{admin}", trust_env=False, timeout=TIMEOUT_S) as client:
        wait_until(lambda: client.get("/ready").status_code == 200, "Envoy is ready")
        statuses = client.get("/listeners", params={"format": "json"}).json()["listener_statuses"]
    return {status["name"]: status["local_address"]["socket_address"]["port_value"] for status in statuses}


def _config(ways: Mapping[str, Way]) -> dict[str, Any]:
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "listeners": [_listener(name, way) for name, way in ways.items()],
            "clusters": [_cluster(name, way) for name, way in ways.items()],
        },
    }


def _listener(name: str, way: Way) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, **way.route}}
    manager = {
        "@type": f"type.googleapis.com/{_MANAGER}",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"type.googleapis.com/{_ROUTER}"}}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": _address(0), "filter_chains": [chain]}


def _cluster(name: str, way: Way) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(way.port)}}]}]
    cluster: dict[str, Any] = {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
    if way.http2:
        protocols = {"@type": f"type.googleapis.com/{_PROTOCOLS}", "explicit_http_config": {"http2_protocol_options": {}}}
        cluster["typed_extension_protocol_options"] = {_PROTOCOLS: protocols}
    return cluster


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
