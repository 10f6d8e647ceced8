"""What only threads cannot do: be stopped. They are abandoned, counted, and never too many."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Deadline, DeadlineExceeded, Pipeline, current_deadline
from resilience.batch import BatchCaller, Kind, PoolExhausted
from resilience.batch.abandoned import Abandoned
from resilience.batch.pool import ThreadPool
from resilience.testing import ManualClock
from tests.batch.acts import TIMEOUT_S, Acts

Make = Callable[..., BatchCaller]


def test_a_call_that_hangs_is_abandoned_counted_and_reported(make: Make, released: threading.Event) -> None:
    caller = make(timeout_s=0.25, concurrency=4)
    results = caller.call(Acts(released).call, ["a", "hangs", "b", "fails"])
    assert [(result.ok, getattr(result, "abandoned", False)) for result in results] == [
        (True, False),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert (results.report.abandoned, caller.status()["abandoned"]) == (1, {"now": 1, "total": 1})
    released.set()
    for _ in range(1000):
        if caller.status()["abandoned"]["now"] == 0:
            break
        threading.Event().wait(0.01)
    assert caller.status()["abandoned"] == {"now": 0, "total": 1}


def test_abandoned_threads_never_exceed_their_bound(make: Make, released: threading.Event) -> None:
    caller = make(call_timeout_s=0.05, concurrency=2, abandoned_max=3, grace_s=0.0)
    acts = Acts(released)
    results = caller.call(acts.call, ["hangs"] * 20)
    kinds = [failure.kind for failure in results.errors()]
    assert kinds.count(Kind.TIMEOUT) == 5  # three were replaced, and two hold the threads that are left
    assert kinds.count(Kind.REFUSED) == 15
    assert {type(failure.error) for failure in results.errors()} == {DeadlineExceeded, PoolExhausted}
    assert (caller.status()["threads"], acts.peak) == (5, 5)
    refused = caller.call(acts.call, ["a"])
    assert [failure.kind for failure in refused.errors()] == [Kind.REFUSED]


def test_threads_that_come_back_are_used_again(make: Make, released: threading.Event) -> None:
    caller = make(call_timeout_s=0.05, concurrency=2, abandoned_max=1, grace_s=0.0)
    acts = Acts(released)
    caller.call(acts.call, ["hangs"] * 5)
    released.set()
    for _ in range(1000):
        if caller.status()["abandoned"]["now"] == 0:
            break
        threading.Event().wait(0.01)
    patient = make(concurrency=2)
    patient._pool = caller._pool
    assert len(patient.call(acts.call, range(20)).values()) == 20
    assert caller.status()["threads"] <= 3


def test_code_within_finds_its_deadline_and_can_heed_it(make: Make) -> None:
    def heeds(request: str) -> str:
        found = current_deadline()
        assert found is not None
        while True:
            found.check()
            threading.Event().wait(0.005)

    results = make(timeout_s=0.1, grace_s=5.0).call(heeds, ["a"])
    (failure,) = results.errors()
    assert (failure.kind, failure.abandoned) == (Kind.TIMEOUT, False)


def test_batches_of_one_caller_share_its_threads(make: Make) -> None:
    caller, acts = make(concurrency=4, threads=3), Acts()
    found: list[Any] = []

    def fan() -> None:
        found.append(caller.call(acts.call, range(50)))

    threads = [threading.Thread(target=fan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [len(results.values()) for results in found] == [50] * 4
    assert acts.peak <= 3


def test_what_waits_for_a_thread_is_dropped_at_its_time_limit(make: Make, released: threading.Event) -> None:
    caller, acts = make(concurrency=2, threads=1, timeout_s=0.1, abandoned_max=0), Acts(released)
    results = caller.call(acts.call, ["hangs", "a"])
    assert acts.calls == ["hangs"]
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [(Kind.TIMEOUT, True), (Kind.TIMEOUT, False)]


def test_what_waits_in_vain_is_refused() -> None:
    released, refused = threading.Event(), threading.Event()
    pool = ThreadPool("pool", 1, Abandoned(0))
    began = threading.Event()

    def hangs() -> None:
        began.set()
        released.wait(TIMEOUT_S)

    job = pool.submit(hangs, lambda: None)
    assert job is not None
    assert began.wait(TIMEOUT_S)
    waiting = pool.submit(lambda: None, refused.set)
    assert waiting is not None
    assert pool.abandon(job)
    assert refused.is_set()
    assert pool.submit(lambda: None, lambda: None) is None
    released.set()
    for _ in range(1000):
        if pool.submit(lambda: None, lambda: None) is not None:
            break
        threading.Event().wait(0.01)
    pool.close(TIMEOUT_S)


def test_an_idle_pool_has_no_threads_left_after_a_moment(make: Make) -> None:
    caller = make()
    caller.call(Acts().call, range(5))
    assert caller.status()["threads"] > 0
    for _ in range(1000):
        if caller.status()["threads"] == 0:
            break
        threading.Event().wait(0.01)
    assert caller.status()["threads"] == 0
    assert len(caller.call(Acts().call, range(5)).values()) == 5


def test_a_caller_that_is_a_block_ends_its_threads() -> None:
    with BatchCaller("prices") as caller:
        caller.call(Acts().call, range(5))
    for _ in range(1000):
        if caller.status()["threads"] == 0:
            break
        threading.Event().wait(0.001)
    assert caller.status()["threads"] == 0


def test_an_enclosing_pipeline_counts_a_hung_call_as_late(make: Make, released: threading.Event) -> None:
    deadline = Deadline(0.1, name="stock")
    caller = make(pipeline=Pipeline("stock", deadline), timeout_s=0.1)
    results = caller.call(Acts(released).call, ["hangs"])
    assert [failure.kind for failure in results.errors()] == [Kind.TIMEOUT]


FORKED = """
import os, threading
from resilience.batch import BatchCaller
caller = BatchCaller("prices", concurrency=4)
assert caller.call(str, range(8)).values() == [str(n) for n in range(8)]
child = os.fork()
if child == 0:
    assert caller.call(str, range(8)).values() == [str(n) for n in range(8)]
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == ("0", 0), done.stderr


HANGS_AT_THE_END = """
import threading
from resilience.batch import BatchCaller
results = BatchCaller("prices", timeout_s=0.05).call(lambda request: threading.Event().wait(), ["a"])
print(results[0].kind.value, results[0].abandoned)
"""


def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS_AT_THE_END], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.returncode) == ("timeout True", 0), done.stderr


def test_batches_within_batches_do_not_wait_for_each_other(make: Make) -> None:
    """Neither of one caller, nor of two that call each other."""
    first, second = make("first", concurrency=2, timeout_s=TIMEOUT_S), make("second", concurrency=2, timeout_s=TIMEOUT_S)
    most, inside = Acts(), Acts()

    def leaf(number: int) -> int:
        inside.call(number)
        return 1

    def by_itself(number: int) -> int:
        most.call(number)
        return sum(first.call(leaf, range(4)).values())

    def by_another(number: int) -> int:
        return sum(second.call(by_itself, range(3)).values())

    assert first.call(by_itself, range(5)).values() == [4] * 5
    assert first.call(by_another, range(5)).values() == [12] * 5
    assert (most.peak <= 2, inside.peak <= 4) == (True, True)
    first.close()
    for _ in range(1000):
        if first.status()["threads"] == 0:
            break
        threading.Event().wait(0.01)
    assert first.status()["threads"] == 0


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_machine_without_another_thread_costs_no_more_than_it_must(
    make: Make, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    begun = 0
    plain = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        nonlocal begun
        if begun == most:
            raise RuntimeError("can't start new thread")
        begun += 1
        plain(thread)

    caller = make(concurrency=4)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        results = caller.call(Acts().call, range(8))
    if most:
        assert [result.ok for result in results] == [True] * 8
    else:
        assert {(type(failure.error), failure.kind) for failure in results.errors()} == {(PoolExhausted, Kind.REFUSED)}
    assert len(results) == 8
    assert caller.status()["threads"] == most
    assert len(caller.call(Acts().call, range(8)).values()) == 8


def test_a_limit_seen_late_is_not_made_later_by_the_grace(make: Make, clock: ManualClock, released: threading.Event) -> None:
    caller = make(timeout_s=1.0, grace_s=1.0, clock=clock)
    acts = Acts(released)
    found: list[Any] = []
    batch = threading.Thread(target=lambda: found.append(caller.call(acts.call, ["hangs"])))
    batch.start()
    while not acts.inside:
        threading.Event().wait(0.001)
    clock.advance(5.0)
    for _ in range(200):  # each is seen within a millisecond
        clock.advance(0.001)
        batch.join(0.01)
        if not batch.is_alive():
            break
    assert not batch.is_alive()
    assert found[0].errors()[0].abandoned
    assert found[0].report.took_s < 1.0 + 5.0
