"""Tries that are given up leave their places in the client's pool of connections to others."""

from __future__ import annotations

import threading

import pytest

from resilience import Deadline, DeadlineExceeded, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import FLAVOURS, Flavour, Session, how
from tests.integrations.outgoing.peer import TIMEOUT_S, Answer, Peer, breaks_off, hangs_up, says, says_nothing, stalls

MEGABYTE = b"x" * 1_000_000


def test_the_connection_of_a_failed_try_is_used_again(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503, b"a short excuse"), says(503))

    async def scenario(session: Session) -> None:
        assert (await session.send("GET", peer.url)).status_code == 200

    flavour.run(scenario, pipeline=Pipeline("payments", Retry(clock=clock)), places=1)
    assert (len(peer.seen), peer.connections) == (3, 1)


@pytest.mark.parametrize(
    "answer",
    [says(503, MEGABYTE), stalls(status=503), stalls(status=503, length=0, part=b"", transfer_encoding="chunked"), hangs_up],
    ids=["long", "stalled", "stalled at its start", "no answer"],
)
def test_a_failed_try_whose_body_is_not_worth_reading_gives_its_place_back(flavour: Flavour, peer: Peer, answer: Answer) -> None:
    peer.will(answer)

    async def scenario(session: Session) -> None:
        assert (await session.send("GET", peer.url)).status_code == 200

    flavour.run(scenario, pipeline=Pipeline("payments", Retry(backoff_s=0.0)), places=1)
    assert (len(peer.seen), peer.connections) == (2, 2)


class BusyClock(ManualClock):
    """Uses the time of a wait for another request over the same pool."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.session: Session | None = None
        self.meanwhile: list[int] = []

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        if self.session is not None and not self.meanwhile:
            self.meanwhile.append(self.session.client.get(self._url).status_code)

    async def asleep(self, duration_s: float) -> None:
        await super().asleep(duration_s)
        if self.session is not None and not self.meanwhile:
            self.meanwhile.append((await self.session.client.get(self._url)).status_code)


def test_a_request_that_waits_for_its_next_try_holds_no_connection(flavour: Flavour, peer: Peer) -> None:
    clock = BusyClock(peer.url)
    peer.will(says(503, b"later"))

    async def scenario(session: Session) -> None:
        clock.session = session
        assert (await session.send("GET", peer.url)).status_code == 200

    flavour.run(scenario, pipeline=Pipeline("payments", Retry(clock=clock)), places=1)
    assert (clock.meanwhile, len(peer.seen)) == ([200], 3)


@pytest.mark.parametrize("answer", [says_nothing, stalls()], ids=["no head", "half a body"])
def test_requests_that_ran_out_of_time_give_their_places_back(flavour: Flavour, peer: Peer, answer: Answer) -> None:
    peer.will(answer, answer)

    async def scenario(session: Session) -> None:
        assert [await how(session.send("GET", peer.url)) for _ in range(2)] == [DeadlineExceeded] * 2
        assert await how(session.send("PUT", peer.url)) == 200

    impatient = Pipeline("payments", Deadline(0.08))
    flavour.run(scenario, pipeline=lambda method, host: impatient if method == "GET" else None, places=1)


def test_a_body_that_broke_off_gives_its_place_back(flavour: Flavour, peer: Peer) -> None:
    peer.will(*[breaks_off] * 2)

    async def scenario(session: Session) -> None:
        for _ in range(2):
            with pytest.raises(flavour.connection_errors):
                await session.send("GET", peer.url)
        assert await how(session.send("GET", peer.url)) == 200

    flavour.run(scenario, pipeline=Pipeline("payments", Deadline(TIMEOUT_S)), places=1)


@pytest.mark.parametrize("flavour", [flavour for flavour in FLAVOURS if not flavour.is_async], ids=str)
def test_threads_that_share_a_pool_all_come_through(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    """Every other answer is a failure, and its body too long to be read.

    No connection is kept: httpcore may find one idle and close it just when another thread begins to use it.
    """
    peer.will(*[says(503, MEGABYTE, connection="close"), says(200, connection="close")] * 24)
    session = flavour.session(pipeline=Pipeline("payments", Retry(100, backoff_s=0.0, budget=(1000, 1.0), clock=clock)), places=2)
    statuses = []

    def work() -> None:
        for _ in range(3):
            statuses.append(session.client.get(peer.url, timeout=TIMEOUT_S).status_code)  # noqa: PERF401

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    session.client.close()
    assert statuses == [200] * 24
