"""Processes that fork while files are watched: `python -m tests.watch.family SCENARIO FILE`. Exit status 0: all went well."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import resilience
from resilience import Toolkit
from resilience.edges import open_source
from resilience.testing import ManualClock
from tests.watch.files import A, B, C, rename_over
from tests.watch.waiting import wait_until

EVERY_S = 0.05
CHILD_LIMIT_S = 25


def in_child(fork: Callable[[], int], work: Callable[[], None]) -> int:
    """Fork, and do `work` in the child, which ends with status 0 if it returned. Returns the child's id."""
    pid = fork()
    if pid:
        return pid
    signal.alarm(CHILD_LIMIT_S)  # a child that waits for a lock for ever is ended by this
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def ends(pids: list[int]) -> list[int]:
    """How the children ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def follows(toolkit: Toolkit, number: int) -> None:
    """Return when version `number` or a later one is in force."""
    wait_until(lambda: toolkit.active.version >= number, f"version {number} is in force")


def children(path: Path) -> None:
    """Children and grandchildren follow the file, and so does their parent."""
    toolkit = resilience.load(path, watch=True, every_s=EVERY_S)

    def child() -> None:
        grandchild = in_child(os.fork, lambda: follows(toolkit, 2))
        follows(toolkit, 2)
        assert ends([grandchild]) == [0]

    pids = [in_child(os.fork, child) for _ in range(3)]
    rename_over(path, B)
    follows(toolkit, 2)
    assert ends(pids) == [0] * 3
    rename_over(path, C)
    follows(toolkit, 3)


def pool(path: Path) -> None:
    """The workers of a multiprocessing pool follow the file."""
    _inherited.append(resilience.load(path, watch=True, every_s=EVERY_S))
    with multiprocessing.get_context("fork").Pool(2) as workers:
        answers = workers.map_async(_await_second_version, range(2))
        rename_over(path, B)
        assert answers.get(CHILD_LIMIT_S) == [True] * 2


_inherited: list[Toolkit] = []


def _await_second_version(number: int) -> bool:
    follows(_inherited[0], 2)
    return True


def storm(path: Path) -> None:
    """No child is born with a lock that somebody else held: each can reload, call and read the status."""
    toolkit = resilience.load(path, watch=True, every_s=EVERY_S)
    over = threading.Event()

    def replace() -> None:
        contents = iter([B, A] * 10_000)
        while not over.is_set():
            rename_over(path, next(contents))

    def reload() -> None:
        while not over.is_set():
            toolkit.reload()

    def child() -> None:
        toolkit.reload()
        toolkit.pipeline("api").call(str)
        assert toolkit.status()["last_error"] is None
        with resilience.load(path) as same:
            assert same is toolkit
        follows(toolkit, toolkit.active.version + 1)

    threads = [threading.Thread(target=replace), threading.Thread(target=reload)]
    for thread in threads:
        thread.start()
    try:
        statuses = [status for _ in range(5) for status in ends([in_child(os.fork, child) for _ in range(2)])]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 10, statuses


class Stalling(ManualClock):
    """A clock that keeps whoever reads it waiting, from when it is told until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.stalls = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def now_us(self) -> int:
        if self.stalls:
            self.reached.set()
            self.go_on.wait(CHILD_LIMIT_S)
        return super().now_us()


def halfway(path: Path) -> None:
    """A fork in the middle of a reload waits for its end: no child has half of it."""
    clock = Stalling()
    toolkit = resilience.load(path, clock=clock)
    path.write_bytes(B)
    reloads = threading.Thread(target=toolkit.reload)
    clock.stalls = True
    reloads.start()
    clock.reached.wait(CHILD_LIMIT_S)
    threading.Timer(0.2, clock.go_on.set).start()

    def child() -> None:
        assert toolkit.active.version == 2
        toolkit.reload()
        assert toolkit.active.version == 3

    assert ends([in_child(os.fork, child)]) == [0]
    reloads.join()


def fork_without_a_word() -> int:
    """As servers written in C do: Python is not told."""
    return int(ctypes.PyDLL(None).fork())


def unnoticed(path: Path) -> None:
    """A child of which Python was not told follows the file from its first request, or look at the status, on.

    The thread sleeps meanwhile: no interpreter survives such a fork while another thread waits for its lock.
    """
    toolkit = resilience.load(path, watch=True, every_s=3600.0)
    source, _ = open_source(toolkit, None)
    wait_until(lambda: toolkit._job.due_us, "the thread has looked")

    def child(does: Callable[[], object]) -> None:
        rename_over(path, B)
        threading.Event().wait(0.2)
        assert toolkit.active.version == 1, "nobody looks"
        does()
        follows(toolkit, 2)

    for does in (toolkit.status, lambda: source.find("GET", "/"), toolkit.reload, lambda: resilience.load(path, watch=True)):
        path.write_bytes(A)
        threading.Event().wait(0.1)
        assert ends([in_child(fork_without_a_word, lambda does=does: child(does))]) == [0]  # type: ignore[misc]


def observed(path: Path) -> None:
    """An observer that forks does so in the watching thread itself."""
    statuses: list[int] = []

    class Forks:
        def on_event(self, event: resilience.Event) -> None:
            statuses.extend(ends([in_child(os.fork, child)]))

    def child() -> None:
        unsubscribe()
        follows(toolkit, toolkit.active.version + 1)

    toolkit = resilience.load(path, watch=True, every_s=EVERY_S)
    unsubscribe = resilience.subscribe(Forks())
    rename_over(path, B)
    wait_until(lambda: toolkit.active.version == 2, "the observer forks")
    for content in _endless(C, A):
        rename_over(path, content)
        if statuses:
            break
        threading.Event().wait(0.2)
    unsubscribe()
    assert statuses[0] == 0
    version = toolkit.active.version
    rename_over(path, B + b"# last\n")
    follows(toolkit, version + 1)


def _endless(*contents: bytes) -> Iterator[bytes]:
    while True:
        yield from contents


if __name__ == "__main__":
    scenarios = (children, pool, storm, halfway, unnoticed, observed)
    {scenario.__name__: scenario for scenario in scenarios}[sys.argv[1]](Path(sys.argv[2]))
