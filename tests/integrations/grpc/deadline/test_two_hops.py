"""100 ms for a call through two services: the second is told what the first has left, and not called where that is nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pytest

from tests.integrations.grpc.deadline.first import KINDS, Ask, Work
from tests.integrations.grpc.deadline.second import Second
from tests.watch.waiting import wait_until

pytestmark = pytest.mark.may_leak("threads")
TIMEOUT_S: Final = 0.1
WAYS: Final = [
    *[(kind, protocol) for kind in ("gRPC threads", "gRPC tasks") for protocol in ("grpc", "http")],
    *[(kind, "grpc") for kind in ("ASGI", "WSGI")],  # HTTP behind HTTP: tests/chain
]
RUNS: Final = 20
IN_TIME: Final = 19
ROUNDS: Final = 3
LATE_S: Final = 0.05
AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Hops:
    """Both services, running."""

    ask: Ask
    work: Work
    second: Second

    def all_ended(self) -> bool:
        """Whether nobody is at work for a client that has left."""
        return not self.work.in_hand


@pytest.fixture(scope="module", params=WAYS, ids=" to ".join)
def running(request: pytest.FixtureRequest) -> Iterator[Hops]:
    """Each first service with each second one."""
    kind, protocol = request.param
    work, second = Work(), Second()
    with second.serving(protocol) as address, KINDS[kind](work, address) as ask:
        wait_until(lambda: ask(20.0) == "OK", "both are up, and have opened their connections")
        yield Hops(ask, work, second)


@pytest.fixture
def hops(running: Hops) -> Hops:
    """The services, with nothing in hand and nothing to remember."""
    wait_until(running.all_ended, "nothing is in hand")
    running.second.told_s.clear()
    return running


def test_after_30_ms_the_second_is_told_of_70_ms_at_most(hops: Hops) -> None:
    hops.work.duration_s = 0.03
    # On a busy machine the time runs out before the second is asked; then ask again.
    wait_until(lambda: hops.ask(TIMEOUT_S) == "OK", "a call gets through")
    assert hops.second.told_s
    assert all(0 < told_s <= 0.07 for told_s in hops.second.told_s), hops.second.told_s


def test_after_120_ms_the_second_is_not_called_and_the_caller_hears_of_the_deadline_in_time(hops: Hops) -> None:
    hops.work.duration_s = 0.12
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            late_s = sorted(pool.map(lambda _: _lateness_s(hops), range(RUNS)))
        if late_s[IN_TIME - 1] <= LATE_S:
            break
    wait_until(hops.all_ended, "threads that nobody waits for have come to their calls")
    assert hops.second.told_s == []
    assert late_s[IN_TIME - 1] <= LATE_S, late_s


def _lateness_s(hops: Hops) -> float:
    """Ask once: how long after its deadline the caller hears of it, beside a timer that is set at the same instant.

    What that is late, this machine is: neither we nor gRPC can be better.
    """
    rung_s: list[float] = []
    began_s = time.monotonic()
    timer = threading.Timer(TIMEOUT_S, lambda: rung_s.append(time.monotonic()))
    timer.start()
    assert hops.ask(TIMEOUT_S) == "DEADLINE_EXCEEDED"
    heard_s = time.monotonic()
    timer.join()
    assert heard_s - began_s >= 0.9 * TIMEOUT_S, "it was given up before its time"
    return heard_s - max(rung_s[0], began_s + TIMEOUT_S)
