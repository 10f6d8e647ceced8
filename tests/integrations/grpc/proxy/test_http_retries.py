"""Envoy's own retries of HTTP requests wait as long as our `Retry-After` says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

import resilience
from examples.demo_kit.processes import ROOT
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.integrations.asgi.types import Receive, Scope, Send
from tests.integrations.asgi.server import TIMEOUT_S, serving
from tests.integrations.grpc.proxy.envoy import Way, proxying
from tests.watch.waiting import wait_until

CONFIG: Final = """\
version: 1
limiters:
  api: {rate: 1/s, burst: 1, health: none}
breakers:
  dependency: {window: 1, open_for: 1s, open_growth: 1, probes: 1}
pipelines:
  limited: [{limiter: api}]
  broken: [{breaker: dependency}]
routes:
  - {match: {path: /limited}, pipeline: limited}
  - {match: {path: /broken}, pipeline: broken}
  - {match: {path: "/**"}, pipeline: none}
"""
PAGE: Final = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
OBEDIENT: Final = yaml.safe_load(PAGE.partition("```yaml\n")[2].partition("```")[0])["retry_policy"]
"""As we recommend it."""
HASTY: Final = {name: value for name, value in OBEDIENT.items() if name != "rate_limited_retry_back_off"}


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One request that reached the service, and its answer."""

    at_s: float
    status: int
    retry_after_s: int | None


@dataclass(slots=True)
class Service:
    """A guarded ASGI application; `/broken` fails until it is mended. All that reaches it is noted, outside the guard."""

    toolkit: resilience.Toolkit
    seen: list[Exchanged] = field(default_factory=list)
    is_mended: bool = False

    def app(self) -> Any:
        """The application."""
        guarded = ResilienceMiddleware(self._answer, config=self.toolkit)

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            at_s = time.monotonic()

            async def note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    after = dict(message["headers"]).get(b"retry-after")
                    self.seen.append(Exchanged(at_s, message["status"], None if after is None else int(after)))
                await send(message)

            await guarded(scope, receive, note)

        return noting

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500 if scope["path"] == "/broken" and not self.is_mended else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    config = tmp_path / "resilience.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    with resilience.load(config) as toolkit:
        yield Service(toolkit)


def ask(port: int, path: str) -> httpx.Response:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=TIMEOUT_S) as client:
        return client.get(path)


@pytest.mark.parametrize(("path", "refusal"), [("/limited", 429), ("/broken", 503)])
def test_its_retry_comes_when_we_have_asked_for_it_and_is_served(path: str, refusal: int, service: Service, tmp_path: Path) -> None:
    with serving(service.app(), lifespan="off") as server:
        ways = {
            "obedient": Way(server.port, http2=False, route={"timeout": "0s", "retry_policy": OBEDIENT}),
            "hasty": Way(server.port, http2=False, route={"timeout": "0s", "retry_policy": HASTY}),
        }
        with proxying(tmp_path, ways) as ports:

            def is_refused_and_then_served() -> bool:
                """On a busy machine, the second may come after the refusal has lapsed."""
                service.is_mended = False
                # Without the one line about Retry-After, all of the proxy's tries are over at once.
                wait_until(lambda: ask(ports["hasty"], path).status_code == refusal, "it is refused")
                service.is_mended = True
                service.seen.clear()
                assert ask(ports["obedient"], path).status_code == 200
                return len(service.seen) > 1

            wait_until(is_refused_and_then_served, "a request is refused before it is served")
    refused, served = service.seen
    assert (refused.status, served.status) == (refusal, 200)
    assert refused.retry_after_s is not None
    assert served.at_s - refused.at_s >= refused.retry_after_s >= 1


def test_a_refusal_passes_unharmed_where_the_proxy_retries_nothing(service: Service, tmp_path: Path) -> None:
    with serving(service.app(), lifespan="off") as server, proxying(tmp_path, {"plain": Way(server.port, http2=False)}) as ports:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: ask(ports["plain"], "/limited"), range(4)))
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
        assert refused.headers["ratelimit-policy"] == '"api";q=1;w=1'
        assert refused.headers["ratelimit"].startswith('"api";r=0;t=')
        assert int(refused.headers["retry-after"]) >= 1
