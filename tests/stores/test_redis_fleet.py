"""A fleet over Redis, in real processes: one limit, one health, and what happens when one of them is killed or stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.sizes import by_length
from tests.stores.fleet import Worker
from tests.stores.limits import eventually
from tests.stores.servers import Server

START_S = 60.0
"""A machine that is busy with other things may take so long to start a few processes: it is no part of what is measured."""
CONFIG = """\
version: 1
health: {{default: {{every: {every}}}}}
limiters: {{api: {{rate: 1/h, burst: 100}}}}
breakers: {{payments: {{}}}}
pipelines: {{api: [{{limiter: api}}], payments: [{{breaker: payments}}]}}
store: {{redis: {{url: '{url}', name: {name}, mode: {mode}, quorum: {quorum}}}}}
"""


class Fleet:
    """Workers over one file."""

    def __init__(self, path: Path, url: str, name: str) -> None:
        self._path = path
        self._url = url
        self._name = name
        self.workers: list[Worker] = []

    def start(self, count: int = 3, *, every: str = "1m", mode: str = "strict", quorum: int = 1) -> list[Worker]:
        text = CONFIG.format(every=every, url=self._url, name=self._name, mode=mode, quorum=quorum)
        self._path.write_text(text, encoding="utf-8")
        self.workers = [Worker(self._path) for _ in range(count)]
        for worker in self.workers:
            eventually(lambda worker=worker: worker.tell("health")["shared"], START_S)  # type: ignore[misc]
        return self.workers

    def factors(self) -> list[float]:
        return [worker.factor for worker in self.workers]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


@pytest.fixture
def fleet(tmp_path: Path, server: Server, name: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "resilience.yaml", server.url, name)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("mode", ["strict", "lease"])
def test_workers_share_one_limit(fleet: Fleet, mode: str) -> None:
    workers = fleet.start(mode=mode)
    admitted = sum(worker.tell("calls 1") for worker in workers)
    eventually(lambda: all(worker.tell("status")["store"]["workers"] == 3 for worker in workers))
    for worker in workers:
        worker.say("calls 150")
    admitted += sum(worker.hear() for worker in workers)
    alone = sum(worker.tell("status")["decided_without_store"] for worker in workers)  # where this machine is too busy
    assert 100 - 20 * (mode == "lease") <= admitted <= 100 + alone, "what is on its way between two of them is spent by neither"


def test_an_opening_in_one_is_seen_by_all_within_a_second(fleet: Fleet) -> None:
    first, *others = fleet.start()
    for number in range(1, by_length(2, 10) + 1):
        first.tell("force open")
        eventually(lambda number=number: heard(others, number, True), 1.0)  # type: ignore[misc]
        assert [worker.factor for worker in others] == [0.3, 0.3]
        first.tell("force none")
        eventually(lambda number=number: heard(others, number, False), 1.0)  # type: ignore[misc]


def heard(workers: list[Worker], number: int, is_on: bool) -> bool:
    """Whether all have heard that the incident of this number is on, or over."""
    told = [worker.tell("health") for worker in workers]
    return all((health["fleet_incident"], health["in_incident"]) == (number, is_on) for health in told)


def test_the_mark_of_one_that_is_killed_lapses(fleet: Fleet) -> None:
    first, *others = fleet.start()
    first.tell("force open")
    eventually(lambda: all(worker.factor == 0.3 for worker in others))
    first.signal(signal.SIGKILL)
    assert eventually(lambda: not others[0].tell("health")["in_incident"], 8.0) > 3.0
    eventually(lambda: not others[1].tell("health")["in_incident"], 2.0)
    assert others[0].factor == 0.3, "and then it climbs, a minute a step"


def test_recovery_climbs_everywhere_at_once(fleet: Fleet) -> None:
    workers = fleet.start(every="1s")
    workers[0].tell("force open")
    eventually(lambda: fleet.factors() == [0.3] * 3)
    workers[0].tell("force none")
    last = 0.3
    for _ in range(by_length(4, 14)):
        eventually(lambda last=last: workers[0].factor > last, 3.0)  # type: ignore[misc]
        last = workers[0].factor
        eventually(lambda last=last: min(fleet.factors()) >= last, 1.0)  # type: ignore[misc]


def test_a_limit_in_a_store_of_its_own_follows_the_health_of_the_fleet(tmp_path: Path, server: Server, name: str) -> None:
    """Its buckets are in one store and the board is in another, whose epochs go with every question."""
    path = tmp_path / "resilience.yaml"
    text = CONFIG.format(every="1m", url=server.url, name=name, mode="strict", quorum=1)
    own = f"{{redis: {{url: '{server.url}', name: {name}own}}}}"
    path.write_text(text.replace("burst: 100", f"burst: 100, store: {own}"), encoding="utf-8")
    first, other = Worker(path), Worker(path)
    try:
        for worker in (first, other):
            eventually(lambda worker=worker: worker.tell("health")["shared"], START_S)  # type: ignore[misc]
        assert other.tell("calls 1") == 1
        first.tell("force open")
        eventually(lambda: other.tell("status")["rate_per_s"] == pytest.approx(0.3 / 3600), 1.0)
        admitted = sum(worker.tell("calls 100") for worker in (first, other))
        alone = sum(worker.tell("status")["decided_without_store"] for worker in (first, other))
        assert 30 <= admitted <= 30 + alone
    finally:
        first.close()
        other.close()


def test_a_quorum_of_two(fleet: Fleet) -> None:
    workers = fleet.start(quorum=2)
    workers[0].tell("force open")
    time.sleep(1.2)
    assert fleet.factors() == [1.0] * 3
    workers[1].tell("force open")
    eventually(lambda: fleet.factors() == [0.3] * 3)


def test_one_that_starts_takes_what_there_is(fleet: Fleet, tmp_path: Path) -> None:
    workers = fleet.start(1)
    workers[0].tell("force open")
    late = Worker(tmp_path / "resilience.yaml")
    workers.append(late)
    late.tell("health")  # it has started
    eventually(lambda: late.factor == 0.3)
    assert late.tell("health")["fleet_incident"] == 1


@pytest.mark.soak
def test_one_that_is_stopped_in_the_middle_starts_no_second_incident(fleet: Fleet) -> None:
    first, *others = fleet.start()
    first.tell("force open")
    eventually(lambda: all(worker.factor == 0.3 for worker in others))
    first.signal(signal.SIGSTOP)
    time.sleep(by_length(6.5, 10.0))
    eventually(lambda: not others[0].tell("health")["in_incident"], 2.0)
    first.signal(signal.SIGCONT)
    time.sleep(2.5)
    assert [worker.tell("health")["fleet_incident"] for worker in fleet.workers] == [1] * 3
    assert not any(worker.tell("health")["in_incident"] for worker in fleet.workers)
