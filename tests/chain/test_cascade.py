"""A service that is cut to 30 % serves its 30 %: its callers do not take its refusals for a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chain.hops import Hop, Service, chain
from tests.chain.load import offer, offer_for
from tests.integrations.outgoing.peer import closed_port
from tests.soak.sizes import by_length
from tests.watch.waiting import wait_until

RATE_PER_S = 50
OVERLOAD_S = by_length(2.0, 60.0)
ROUTES = """\
routes:
  - {match: {path: /-/seen}, pipeline: none}
  - {match: {path: "/**"}, pipeline: inbound}
"""
CUT = f"""\
version: 1
limiters:
  api: {{rate: {RATE_PER_S}/s, burst: {RATE_PER_S}}}
breakers:
  dependency: {{min_calls: 10, open_for: 1h}}
pipelines:
  inbound: [{{limiter: api}}]
  next: [{{breaker: dependency}}]
{ROUTES}"""


def calling(breaker: str) -> str:
    """The configuration of a service that calls it through a breaker."""
    return f"""\
version: 1
deadlines:
  api: {{default: 20s}}
breakers:
  b: {{{breaker}}}
pipelines:
  inbound: [{{deadline: api}}]
  next: [{{breaker: b}}]
{ROUTES}"""


def breaker_of(hop: Hop) -> dict[str, Any]:
    """The state of the breaker towards B."""
    found: dict[str, Any] = hop.seen()["status"]["breakers"]["b"]
    return found


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hop]:
    """B: its breaker towards a dead dependency, which it can do without, has opened. Nothing but its limiter refuses."""
    with closed_port() as dead, chain(tmp_path_factory.mktemp("b"), [Service("wsgi", CUT, degrades=True)], dead) as (b,):
        wait_until(lambda: offer(b, 10)[429], "B refuses")
        status = b.seen()["status"]
        assert status["breakers"]["dependency"]["state"] == "open"
        assert status["health"]["default"]["factor"] == pytest.approx(0.3)
        yield b


@pytest.mark.soak
def test_a_service_cut_to_30_percent_serves_them_and_its_caller_s_breaker_stays_closed(
    cut: Hop, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    per_s = burst = 0.3 * RATE_PER_S
    with chain(tmp_path, [Service("asgi", calling("min_calls: 20"))], cut.url) as (a,):
        offer(a, 20)  # it is up
        answers, took_s = offer_for(a, OVERLOAD_S)
        served_per_s = answers[200] / took_s
        record_property(
            "size", f"{served_per_s:.1f}/s served of {answers.total() / took_s:.0f}/s, bound {per_s:g}/s and {burst:g} at once"
        )
        assert set(answers) == {200, 429}
        assert answers.total() > 2 * per_s * OVERLOAD_S, "too few calls were offered to tell"
        assert 0.8 * per_s * OVERLOAD_S <= answers[200] <= per_s * took_s + burst + 1
        assert breaker_of(a)["state"] == "closed"
    assert cut.seen()["status"]["health"]["default"]["factor"] == pytest.approx(0.3)


def test_a_breaker_that_takes_refusals_for_failures_gives_up_those_30_percent_too(cut: Hop, tmp_path: Path) -> None:
    """What the test above would see if it were so by default."""
    config = calling("min_calls: 20, open_for: 1h, failed_statuses: [429, 500..599]")
    with chain(tmp_path, [Service("asgi", config)], cut.url) as (a,):
        wait_until(lambda: offer(a, 20)[503] == 20, "A refuses everything")
        assert breaker_of(a)["state"] == "open"
