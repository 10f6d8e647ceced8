"""Three services that try three times each make no 27 calls of one while the back end is down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice, repeat
from pathlib import Path

import pytest

from tests.chain.hops import Hop, Service, chain
from tests.chain.load import offer, offer_for
from tests.integrations.outgoing.peer import Peer, hangs_up, peering, says
from tests.soak.sizes import by_length

SETTLING_S = by_length(0.3, 5.0)
"""How long calls are offered before they are counted. The budgets are dry after a handful of failures: the sooner the stricter."""
COUNTED = by_length(100, 5_000)
PLENTY = 100_000
"""More answers than the back end will give."""
UNAVAILABLE = says(503, b"down")


def retrying(settings: str) -> str:
    """A configuration: `next` tries again, and nothing else holds it back."""
    return f"""\
version: 1
deadlines:
  api: {{default: 1h}}
retries:
  next: {{{settings}}}
pipelines:
  inbound: [{{deadline: api}}]
  next: [{{retry: next}}]
routes:
  - {{match: {{path: /-/seen}}, pipeline: none}}
  - {{match: {{path: "/**"}}, pipeline: inbound}}
"""


def three(config: str) -> list[Service]:
    """The services, all with the same configuration in a file each."""
    return [Service("asgi", config), Service("wsgi", config), Service("asgi", config)]


@pytest.mark.soak
def test_a_dead_back_end_is_spared(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with peering() as back_end, chain(tmp_path, three(retrying("attempts: 3")), back_end.url) as (first, *_):
        back_end.will(*islice(cycle([UNAVAILABLE, hangs_up]), PLENTY))
        offer_for(first, SETTLING_S)
        assert any(back_end.values("x-retry-attempt"))  # it was tried again, while that could have helped
        before = len(back_end.seen)
        answers = offer(first, COUNTED)
        seen = len(back_end.seen) - before
        record_property("size", f"{seen:,} calls for {COUNTED:,} that were offered, {seen / COUNTED:.3f} x, after {SETTLING_S:g} s")
        assert set(answers) == {502, 503}
        assert COUNTED <= seen <= 1.2 * COUNTED
        assert back_end.answers, "it has come back to life"


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hop, Peer]]:
    """The first of three services that are told to try again whatever others do, and a back end that is down."""
    config = retrying("attempts: 3, backoff: 1ms, when_nested: true, budget: {tokens: 1000}")
    with peering() as back_end, chain(tmp_path_factory.mktemp("unbounded"), three(config), back_end.url) as (first, *_):
        back_end.will(*repeat(UNAVAILABLE, PLENTY))
        yield first, back_end


def bodies_of(unbounded: tuple[Hop, Peer], method: str, calls: int = 1, headers: dict[str, str] | None = None) -> list[bytes]:
    """The bodies that the back end receives for so many calls."""
    first, back_end = unbounded
    before = len(back_end.seen)
    with first.client() as client:
        for _ in range(calls):
            assert client.request(method, "/orders", content=b"10 EUR", headers=headers).status_code == 503
    return back_end.bodies[before:]


# The back end serves all three tests: its threads are there when one ends.
@pytest.mark.may_leak("threads")
def test_it_is_the_budget_and_the_attempt_header_that_spare_it(unbounded: tuple[Hop, Peer]) -> None:
    """Without both, one call becomes 27: what is counted above can be seen here."""
    assert bodies_of(unbounded, "PUT") == [b"10 EUR"] * 27


@pytest.mark.may_leak("threads")
def test_a_post_reaches_the_back_end_once(unbounded: tuple[Hop, Peer]) -> None:
    assert bodies_of(unbounded, "POST", calls=10) == [b"10 EUR"] * 10


@pytest.mark.may_leak("threads")
def test_a_post_with_an_idempotency_key_is_sent_again_whole(unbounded: tuple[Hop, Peer]) -> None:
    assert bodies_of(unbounded, "POST", headers={"Idempotency-Key": "7"}) == [b"10 EUR"] * 27
