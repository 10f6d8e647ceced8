"""Our servers on both kinds, with a real Envoy in front of them, for one module: what a loop still holds, others see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest

from resilience.testing import no_leaks_fixture
from tests.integrations.grpc.proxy.behind import CONFIG, Behind
from tests.integrations.grpc.proxy.envoy import Way, proxying
from tests.integrations.grpc.server.handlers import TASKS, THREADS
from tests.integrations.grpc.server.served import interceptor_of, serving

no_leaks = no_leaks_fixture(autouse=True)
ROUTE_TIMEOUT_S = 0.8
NO_TIMEOUT = {"timeout": "0s"}


@dataclass(frozen=True, slots=True)
class Stand:
    """One server: what it does, a channel straight to it, and the ports of the proxy in front of it."""

    behind: Behind
    direct: grpc.Channel
    port: int
    timed_port: int


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stand]]:
    """A server of each kind behind one Envoy: by a port without a timeout, and by one whose route has a timeout."""
    folder = tmp_path_factory.mktemp("proxy")
    config = folder / "resilience.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    with ExitStack() as stack:
        behinds = {kind: Behind(kind) for kind in (THREADS, TASKS)}
        guards = {kind: interceptor_of(kind, config=config) for kind in behinds}
        for guard in guards.values():
            stack.callback(guard.close)
        served = {kind: stack.enter_context(serving(kind, behinds[kind], guards[kind])) for kind in behinds}
        ways = {kind: Way(server.port, http2=True, route=NO_TIMEOUT) for kind, server in served.items()}
        timed = {
            f"{kind}, timed": Way(way.port, http2=True, route={"timeout": f"{ROUTE_TIMEOUT_S}s"}) for kind, way in ways.items()
        }
        ports = stack.enter_context(proxying(folder, ways | timed))
        yield {kind: Stand(behinds[kind], served[kind].channel, ports[kind], ports[f"{kind}, timed"]) for kind in served}


@pytest.fixture(params=[THREADS, TASKS])
def stand(request: pytest.FixtureRequest, stands: dict[str, Stand]) -> Stand:
    """Each kind of server in turn."""
    return stands[request.param]
