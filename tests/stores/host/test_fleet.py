"""Four processes of one service, and what a breaker that opens in one does to the limits of all. Real processes, real time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soak.sizes import by_length
from tests.watch.waiting import wait_until

ROOT: Final = Path(__file__).parents[3]
PROCESSES: Final = 4
SEEN_WITHIN_S: Final = by_length(5.0, 1.0)
"""The long form holds the promise to its word; it runs alone on its machine."""
STOPPED_S: Final = by_length(7.0, 10.0)
TEXT: Final = """\
version: 1
store: {{host: {{directory: {folder}}}}}
health:
  default: {{every: 1s}}
limiters:
  api: {{rate: 100/s}}
breakers:
  dependency: {{window: 10, min_calls: 2, open_for: {open_for}, probes: 1}}
pipelines:
  api: [{{limiter: api}}]
  out: [{{breaker: dependency}}]
"""

pytestmark = [pytest.mark.soak, pytest.mark.slow]


class Member:
    """A process of the service."""

    def __init__(self, config: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.host.member", str(config)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )

    def __call__(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, if it is not dead."""
        self._process.kill()
        self._process.communicate()


Start = Callable[[str], list[Member]]


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts four processes whose breakers stay open for so long."""
    members: list[Member] = []

    def start(open_for: str) -> list[Member]:
        config = tmp_path / "resilience.yaml"
        config.write_text(TEXT.format(folder=folder, open_for=open_for))
        members.extend(Member(config) for _ in range(PROCESSES))
        assert [member("tell")["factor"] for member in members] == [1.0] * PROCESSES
        return members

    yield start
    for member in members:
        member.end()


def all_see(members: list[Member], what: Callable[[dict[str, Any]], bool], told: str) -> float:
    """Wait until all see it. Returns the seconds that it took."""
    return wait_until(lambda: all(what(member("tell")) for member in members), told)


def test_an_opening_is_seen_by_all_and_all_climb_together(start: Start) -> None:
    members = start("1s")
    members[0]("fail")
    took_s = all_see(members, lambda seen: seen["factor"] == 0.3, "all are cut")
    assert took_s <= SEEN_WITHIN_S
    assert {member("tell")["rate_per_s"] for member in members} == {30.0}
    for member in members[1:]:
        member("fail")
    assert {member("tell")["incident"] for member in members} == {1}
    time.sleep(1.1)  # real time passes for all four
    for member in members:
        member("succeed")
    all_see(members, lambda seen: seen["factor"] > 0.3, "all climb")
    seen = [member("tell") for member in members]
    assert len({told["start_us"] for told in seen}) == 1, "by one clock, from one instant"
    for told in seen:
        steps = (told["now_us"] - told["start_us"]) // 1_000_000
        assert told["factor"] in (pytest.approx(0.3 + 0.05 * steps), pytest.approx(0.25 + 0.05 * steps)), told


def test_the_opener_is_killed_and_another_is_stopped_and_wakes(start: Start) -> None:
    killed, stopped, *others = start("60s")
    killed("fail")
    stopped("fail")
    all_see([killed, stopped, *others], lambda seen: seen["factor"] == 0.3, "all are cut")
    killed.send(signal.SIGKILL)
    stopped.send(signal.SIGSTOP)
    began_s = time.monotonic()
    all_see(others, lambda seen: not seen["in_incident"], "the marks have lapsed")
    took_s = time.monotonic() - began_s
    assert 3.0 < took_s < 5.0 + SEEN_WITHIN_S
    time.sleep(max(0.0, STOPPED_S - took_s))
    before = others[0]("tell")
    assert before["incident"] == 1
    stopped.send(signal.SIGCONT)
    all_see([stopped], lambda seen: seen["start_us"] == before["start_us"], "the one that woke has heard of the end")
    time.sleep(1.0)  # for what it might start now to be seen
    assert [member("tell")["incident"] for member in (stopped, *others)] == [1] * 3
    assert len({member("tell")["start_us"] for member in (stopped, *others)}) == 1
