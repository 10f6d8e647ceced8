"""Locks that are never waited for longer than 5 ms, that die with who has them, and that a fork does not share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from resilience.clock import SYSTEM_CLOCK
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided, pace_of
from resilience.stores.host import HostStore, descriptors, turns
from resilience.stores.host.mapped import MappedFile
from resilience.stores.host.place import Place
from resilience.stores.host.store import THREAD_NAME
from resilience.stores.host.table import BUSY
from resilience.stores.host.turns import PATIENCE_US, Taken, Turns
from resilience.stores.settings import HostStoreSettings
from resilience.testing import ManualClock
from tests.stores.host.conftest import MakeStore

ROOT: Final = Path(__file__).parents[3]
PACE: Final = pace_of(Fraction(1), 100, 0)
HOLDS: Final = """
import sys
from resilience.stores.host.place import Place
from resilience.stores.host.turns import COUNT, Taken, Turns
turns = Turns(Place("test", [sys.argv[1]]))
assert all([Taken(turns[number]).__enter__() for number in range(COUNT)])
print("held", flush=True)
sys.stdin.read()
"""


def question(key: str | None = None) -> Take:
    return Take("limit", key, PACE, PACE.capacity, 1)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock by which locks are waited for."""
    clock = ManualClock()
    monkeypatch.setattr(turns, "SYSTEM_CLOCK", clock)
    return clock


@pytest.mark.parametrize("key", [None, "somebody"])
def test_nobody_waits_longer_than_5_ms_for_a_process_that_is_stopped(
    store: HostStore, folder: Path, waits: ManualClock, key: str | None
) -> None:
    assert isinstance(store.buckets.take(question(key)), Decided)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        before_us = waits.now_us()
        assert store.buckets.take(question(key)) is BUSY
        assert waits.now_us() - before_us == PATIENCE_US
        for _ in range(10):
            assert store.buckets.take(question(key)) is BUSY
        assert waits.now_us() - before_us == PATIENCE_US, "once waited for in vain, it is only tried"
        assert store.buckets.status()["locks_not_had_in_time"] == 11
        holder.kill()
    assert isinstance(store.buckets.take(question(key)), Decided), "the kernel takes a lock back from whoever dies"


def test_a_lock_that_was_had_again_is_waited_for_again(folder: Path, waits: ManualClock) -> None:
    place = Place("test", [str(folder)])
    mine, other = Turns(place)[3], Turns(place)[3]
    with Taken(other) as is_theirs, Taken(mine) as is_mine:
        assert is_theirs
        assert not is_mine
        assert mine.is_late
    with Taken(mine) as is_mine:
        assert is_mine
    slept = len(waits.slept_s)
    with Taken(other), Taken(mine) as is_mine:
        assert not is_mine
        assert len(waits.slept_s) > slept


def test_a_process_that_is_stopped_holds_up_a_part_of_the_keys(store: HostStore, folder: Path, waits: ManualClock) -> None:
    store.buckets.prepare("limit", 100_000)
    keys = [f"{number}" for number in range(200)]
    assert all(isinstance(store.buckets.take(question(key)), Decided) for key in keys)
    table = store.buckets._keyed["limit"]
    for turn in table._turns:
        with Taken(turn):
            store.buckets.look()
            held_up = sum(store.buckets.take(question(key)) is BUSY for key in keys)
        assert 0 < held_up < 40


class _Alarm(Exception):
    """What a signal handler raises, as some do who give up on work that takes too long."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some come while a weak reference is taken down
def test_a_signal_handler_that_raises_leaves_no_lock_behind(store: HostStore) -> None:
    armed, rung = False, 0

    def ring(*signal_and_frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
    try:
        for turn in range(300):
            try:
                armed = True
                for _ in range(100):
                    store.buckets.take(question(f"{turn % 7}"))
                    store.buckets.take(question())
                armed = False
            except _Alarm:
                rung += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung > 20
    for key in (None, *map(str, range(7))):
        assert isinstance(store.buckets.take(question(key)), Decided)
    assert store.buckets.late == 0


def test_threads_of_one_process_keep_apart(store: HostStore) -> None:
    """For the kernel they are one: 8 threads take from one bucket, and nothing is lost or given twice."""
    assert isinstance(store.buckets.take(question()), Decided)
    taken: list[int] = []

    def work() -> None:
        answers = [store.buckets.take(question()) for _ in range(50)]
        taken.append(sum(answer.taken for answer in answers if isinstance(answer, Decided)))

    before_s, switch_s = sys.getswitchinterval(), 1e-6
    sys.setswitchinterval(switch_s)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before_s)
    assert sum(taken) == 99


def in_child(work: object) -> int:
    """The exit status of a forked child that does `work`: 0 where it returned true."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if callable(work) and work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_does_not_share_the_locks_of_its_parent(make_store: MakeStore, waits: ManualClock) -> None:
    store = make_store()
    assert isinstance(store.buckets.take(question()), Decided)
    turn = store.buckets._plain["limit"]._turns[0]
    with Taken(turn):
        assert in_child(lambda: store.buckets.take(question()) is BUSY) == 0, "it is the parent's"
    assert in_child(lambda: isinstance(store.buckets.take(question()), Decided)) == 0
    answer = store.buckets.take(question())
    assert isinstance(answer, Decided)
    assert answer.units == 97 * 1_000_000, "parent and child take from one bucket"


def test_what_another_thread_has_locked_is_not_held_by_a_forked_child(make_store: MakeStore, folder: Path) -> None:
    """In the child nobody would ever let go of it; so a parent that is killed would not free it."""
    store = make_store()
    assert isinstance(store.buckets.take(question()), Decided)
    had_by_a_thread = store.buckets._plain["limit"]._turns[0], store._files._opened
    place = Place("test", [str(folder)])
    guard = place.open_lock("guard")
    locks = {os.fstat(had_by_a_thread[0].fd).st_ino, os.fstat(guard).st_ino}
    opened = frozenset((had_by_a_thread[0].fd, guard))

    def child() -> bool:
        return not locks & {os.fstat(fd).st_ino for fd in opened} and isinstance(store.buckets.take(question()), Decided)

    assert in_child(child) == 0
    assert {os.fstat(fd).st_ino for fd in opened} == locks, "the parent has them still"
    descriptors.close(guard)


def test_a_child_that_is_forked_without_any_descriptor_left_lets_go_too(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    guard = Place("test", [str(folder)]).open_lock("guard")

    def child() -> bool:
        monkeypatch.setattr(os, "devnull", "/none")
        descriptors.note(guard)
        monkeypatch.setattr(descriptors, "_pid", 0)
        descriptors._let_go_of_the_parents()
        descriptors._let_go_of_the_parents()  # has nothing to do
        return not Path(f"/dev/fd/{guard}").exists()

    assert in_child(child) == 0
    descriptors.close(guard)


def test_a_thread_of_a_child_may_open_files_before_the_hook_is_called(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The child's own locks must not become something else's then: nothing would keep it and others apart."""
    place = Place("test", [str(folder)])
    parents = place.open_lock("guard")

    def child() -> bool:
        monkeypatch.setattr(descriptors, "_pid", 0)  # as before the hook
        own = place.open_lock("guard")
        descriptors._let_go_of_the_parents()  # the hook
        wanted = place.inode_of("guard")
        return os.fstat(own).st_ino == wanted != os.fstat(parents).st_ino

    assert in_child(child) == 0
    descriptors.close(parents)


def test_files_can_be_made_while_a_child_lives_that_was_forked_in_the_making_of_one(make_store: MakeStore, folder: Path) -> None:
    """Its copy of the open file would keep the lock, if the parent only closed its own."""
    copies: list[int] = []

    def fill(words: memoryview) -> None:
        place = Place("test", [str(folder)])
        (guard,) = (fd for fd in descriptors._open if os.fstat(fd).st_ino == place.inode_of("guard"))
        copies.append(os.dup(guard))  # as a child has it in which no hook has run

    MappedFile(Place("test", [str(folder)]), "some", 512, 9, fill).close()
    store = make_store()
    store.buckets.prepare("limit", None)
    assert store.buckets.status()["trouble"] is None
    os.close(copies[0])


def test_the_usual_decision_makes_no_call_while_it_has_the_lock(store: HostStore) -> None:
    """CPython changes threads at calls: whoever waits for the processor with a lock in hand has all others wait as well."""
    for key in (None, "somebody"):
        for _ in range(2):  # the first makes the bucket, the second finds it
            store.buckets.take(question(key))
        table = (store.buckets._plain if key is None else store.buckets._keyed)["limit"]
        called: list[str] = []

        def look(frame: FrameType, event: str, what: Any, turns: Any = table._turns, called: list[str] = called) -> None:
            if event in ("call", "c_call") and any(turn.held for turn in turns):
                called.append(f"{event} {getattr(what, '__name__', frame.f_code.co_name)}")

        sys.setprofile(look)
        answers = [store.buckets.take(question(key)) for _ in range(102)]
        sys.setprofile(None)
        assert [isinstance(answer, Decided) and answer.taken for answer in answers] == [1] * 98 + [0] * 4
        assert called == []


def test_a_fork_finds_no_thread_of_the_store(folder: Path) -> None:
    """It ends before a fork, of which newer versions of Python would warn, and goes on on both sides."""
    store = HostStore(HostStoreSettings("test", str(folder)), SYSTEM_CLOCK)

    def beats() -> bool:
        return any(thread.name == THREAD_NAME for thread in threading.enumerate())

    assert isinstance(store.buckets.take(question()), Decided)
    assert beats()

    def child() -> bool:
        started_none = not beats()
        store.resume()  # as `stores.live` does for those that it has opened
        return started_none and beats()

    assert in_child(child) == 0
    assert beats()
    store.close()
    assert not beats()


def test_a_lock_is_right_without_ctypes_too(folder: Path, monkeypatch: pytest.MonkeyPatch, waits: ManualClock) -> None:
    monkeypatch.setattr(turns, "_FLOCK", turns._flock)
    place = Place("test", [str(folder)])
    one, other = Turns(place)[0], Turns(place)[0]
    with Taken(one) as is_first:
        assert is_first
        with Taken(other) as is_second:
            assert not is_second
    with Taken(other) as is_second:
        assert is_second
