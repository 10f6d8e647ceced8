"""Servers with many processes: every worker follows the file, and no request sees half of a change.

Real time: the short form changes the file for seconds, the long one as long as is promised.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from resilience.config.source import fingerprint
from tests.soak.sizes import by_length
from tests.watch.files import ConfigMap, rename_over
from tests.watch.served import FIRST, is_shut, text_of
from tests.watch.servers import COMMANDS, Answer, Server, ask, every
from tests.watch.waiting import LIMIT_S

SWAPS = by_length(12, 100)
LOAD_S = by_length(3.0, 20.0)
FOLLOWS_WITHIN_S = by_length(LIMIT_S, 2.0)
"""The long form holds the promise to its word; it runs alone on its machine."""
CLIENTS, PACE_S = 24, 0.01
"""Together a few hundred requests a second."""


class Load:
    """Requests without an end, in threads, and all their answers."""

    def __init__(self, servers: list[Server], paths: tuple[str, ...]) -> None:
        self.answers: list[Answer] = []
        self.errors: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(servers[number % len(servers)], paths[number % len(paths)]))
            for number in range(CLIENTS)
        ]

    def _ask(self, server: Server, path: str) -> None:
        connection = server.connect()
        try:
            while not self._over.wait(PACE_S):
                self.answers.append(ask(connection, path))
        except BaseException as error:
            self.errors.append(error)
        finally:
            connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)


@pytest.mark.soak
def test_every_worker_follows_a_config_map_that_is_swapped_ten_times_a_second(tmp_path: Path) -> None:
    folder = ConfigMap(tmp_path / "config", text_of(FIRST))
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(name, folder.path, tmp_path)) for name in COMMANDS]
        workers = {server: server.workers() for server in servers}
        with Load(servers, ("/",)) as load:
            for number in every(0.1, SWAPS / 10):
                folder.swap(text_of(FIRST + number))
            swapped_s = time.monotonic()
            last = fingerprint(text_of(FIRST + SWAPS))
            took_s = {server.name: server.wait_for_all(workers[server], last) - swapped_s for server in servers}
        for server in servers:
            assert {answer.limit for answer in server.ask_often()} == {FIRST + SWAPS}, server.name
            assert all(len(server.loads()[pid]) > 1 for pid in workers[server])
            assert "ERROR" not in server.log(), server.log()
    assert load.errors == []
    assert all(answer.limit == answer.deadline_s for answer in load.answers), "a mixture"
    assert len({answer.limit for answer in load.answers}) > 1, "some were asked while it changed"
    assert max(took_s.values()) <= FOLLOWS_WITHIN_S, took_s


@pytest.mark.soak
def test_a_file_that_is_replaced_ten_times_a_second_under_load(tmp_path: Path) -> None:
    """No error, and no refusal but those of the configurations that shut the route."""
    path = tmp_path / "resilience.yaml"
    path.write_bytes(text_of(FIRST))
    with Server("uvicorn", path, tmp_path) as server:
        workers = server.workers()
        with Load([server], ("/", "/tight")) as load:
            for number in every(0.1, LOAD_S):
                rename_over(path, text_of(FIRST + number))
            replaced_s = time.monotonic()
            last = fingerprint(text_of(FIRST + round(LOAD_S * 10)))
            took_s = server.wait_for_all(workers, last) - replaced_s
        loads = server.loads()
    assert load.errors == []
    for answer in load.answers:
        if answer.policy == "api":
            assert (answer.status, answer.deadline_s) == (200, answer.limit)
        elif answer.status == 429:
            assert answer.limit == 1, "refused by a configuration that leaves the route open"
        else:
            assert answer.status == 200
            assert answer.limit == (1 if is_shut(answer.deadline_s) else 10_000)
    statuses = {answer.status for answer in load.answers if answer.policy == "tight"}
    assert statuses == {200, 429}, "both kinds of configuration were in force"
    assert all(len(loads[pid]) >= LOAD_S for pid in workers), "it was followed all the time"
    assert took_s <= FOLLOWS_WITHIN_S
