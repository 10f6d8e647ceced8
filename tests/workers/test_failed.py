"""The store of failed tasks: what is kept, listed, replayed once, purged; and disks that are full, read-only or something else."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resilience import CircuitOpen, Pipeline
from resilience.testing import ManualClock
from resilience.workers import (
    CurrentTask,
    FailedTask,
    FailedTaskStore,
    FailedTaskStoreError,
    ReplayOutcome,
    SQLiteStorage,
    TaskOptions,
    TaskState,
    WorkerPool,
    create_effects_table,
    current_task,
    first_time,
    task,
)
from resilience.workers.entry import CURRENT_TASK
from tests.workers.helpers import Blocked

SEEN: list[Any] = []
ROOT = Path(__file__).parents[2]


@task(name="test.note")
def note(*args: Any, **kwargs: Any) -> None:
    SEEN.append((args, kwargs, current_task()))


@task
def breaks(text: str) -> None:
    raise LookupError(text)


@task
async def anote(text: str) -> None:
    await asyncio.sleep(0)
    SEEN.append(text)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FailedTaskStore]:
    SEEN.clear()
    with FailedTaskStore(tmp_path / "failed.db", clock=ManualClock(), lease_s=60.0) as found:
        yield found


def failed(number: int = 1, name: str = "test.note", payload: str = '{"args":["a"],"kwargs":{"b":[1,null]}}') -> FailedTask:
    return FailedTask(f"{number:032x}", name, "mail", payload, f"key-{number}", "ValueError: no", "Traceback", 3, 1e9, 1e9 + number)


def clock_of(store: FailedTaskStore) -> ManualClock:
    assert isinstance(store.clock, ManualClock)
    return store.clock


def test_what_is_kept_is_listed_shown_and_there_for_the_next_process(store: FailedTaskStore, tmp_path: Path) -> None:
    for number in (2, 1, 3):
        store.keep(failed(number))
    store.keep(failed(4, "other"))
    assert [task.id[-1] for task in store.list()] == ["1", "2", "3", "4"]
    assert [task.id[-1] for task in store.list(limit=2)] == ["1", "2"]
    assert [task.id[-1] for task in store.list(name="other")] == ["4"]
    assert store.show(failed(2).id) == failed(2)
    assert store.show("nothing") is None
    store.close()
    with FailedTaskStore(tmp_path / "failed.db") as again:
        assert again.show(failed(2).id) == failed(2)
    assert stat.S_IMODE((tmp_path / "failed.db").stat().st_mode) == 0o600


def test_a_replay_has_the_arguments_and_the_key(store: FailedTaskStore) -> None:
    store.keep(failed())
    assert store.replay(failed().id).outcome is ReplayOutcome.DONE
    assert [(("a",), {"b": [1, None]}, CurrentTask(failed().id, "test.note", "key-1", 1))] == SEEN
    found = store.show(failed().id)
    assert found is not None
    assert (found.state, found.replays, found.attempts) == (TaskState.REPLAYED, 1, 4)
    assert store.replay(failed().id).outcome is ReplayOutcome.TAKEN
    assert len(SEEN) == 1
    assert store.list(state=TaskState.REPLAYED) == [found]
    assert store.list(state=TaskState.FAILED) == []


def test_a_replay_that_fails_is_failed_once_more(store: FailedTaskStore) -> None:
    store.keep(failed(1, breaks.__module__ + ".breaks", '{"args":["still"],"kwargs":{}}'))
    replay = store.replay(failed().id)
    assert (replay.outcome, repr(replay.error)) == (ReplayOutcome.FAILED, "LookupError('still')")
    found = store.show(failed().id)
    assert found is not None
    assert (found.state, found.error, found.attempts, found.replays) == (TaskState.FAILED, "LookupError: still", 4, 1)
    assert "raise LookupError(text)" in found.traceback
    assert store.replay(failed().id).outcome is ReplayOutcome.FAILED


@pytest.mark.parametrize(
    ("kept", "outcome", "why"),
    [
        (None, ReplayOutcome.GONE, "there is no failed task"),
        (failed(name="os.system"), ReplayOutcome.UNKNOWN, "no function is registered as 'os.system': decorate it with @task"),
        (failed(payload=""), ReplayOutcome.UNKNOWN, "its arguments are not known"),
        (failed(payload='{"args":['), ReplayOutcome.UNKNOWN, "its arguments cannot be read"),
        (failed(payload='{"args":{},"kwargs":{}}'), ReplayOutcome.UNKNOWN, "its arguments cannot be read"),
        (failed(payload="[" * 100_000), ReplayOutcome.UNKNOWN, "its arguments cannot be read"),
    ],
)
def test_what_cannot_be_replayed_says_why(
    store: FailedTaskStore, kept: FailedTask | None, outcome: ReplayOutcome, why: str
) -> None:
    if kept is not None:
        store.keep(kept)
    replay = store.replay(failed().id)
    assert replay.outcome is outcome
    assert why in str(replay.error)
    if kept is not None:
        assert store.show(failed().id) == kept


def test_coroutine_functions_are_replayed_in_a_task(store: FailedTaskStore) -> None:
    store.keep(failed(1, anote.__module__ + ".anote", '{"args":["a"],"kwargs":{}}'))
    assert "areplay" in str(store.replay(failed().id).error)
    assert asyncio.run(store.areplay(failed().id)).outcome is ReplayOutcome.DONE
    assert SEEN == ["a"]
    store.keep(failed(2))
    assert asyncio.run(store.areplay(failed(2).id)).outcome is ReplayOutcome.DONE, "plain functions too"
    store.keep(failed(3, anote.__module__ + ".anote", '{"args":[],"kwargs":{}}'))
    assert asyncio.run(store.areplay(failed(3).id)).outcome is ReplayOutcome.FAILED


def test_a_replay_goes_through_a_pipeline_where_it_is_told_to(store: FailedTaskStore) -> None:
    class Open:
        kind, name, votes_at_start, has_effects = "breaker", "db", False, False

        def admit(self, call: Any) -> None:
            raise CircuitOpen(policy="db", reason="open")

        def settle(self, *args: Any) -> None: ...

    store.keep(failed())
    assert isinstance(store.replay(failed().id, through=Pipeline("jobs", Open())).error, CircuitOpen)
    assert store.replay(failed().id, through=Pipeline("jobs")).outcome is ReplayOutcome.DONE


def test_only_one_of_many_that_replay_at_once_has_the_task(store: FailedTaskStore, tmp_path: Path) -> None:
    store.keep(failed())
    stores = [FailedTaskStore(tmp_path / "failed.db", clock=store.clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = [replay.outcome for replay in threads.map(lambda other: other.replay(failed().id), stores)]
    assert sorted(outcome.value for outcome in outcomes) == ["done", *["taken"] * 7]
    assert len(SEEN) == 1
    for other in stores:
        other.close()


def test_a_lease_that_has_run_out_leaves_the_task_to_the_next(store: FailedTaskStore) -> None:
    store.keep(failed())
    now_s = store.clock.wall_s()
    assert store.storage.claim(failed().id, "dead", now_s, now_s + 60.0) is not None
    assert [task.state for task in store.list(state=TaskState.REPLAYING)] == [TaskState.REPLAYING]
    clock_of(store).advance(59.0)
    assert store.replay(failed().id).outcome is ReplayOutcome.TAKEN
    clock_of(store).advance(1.0)
    assert [task.id for task in store.list(state=TaskState.FAILED)] == [failed().id]
    assert store.replay(failed().id).outcome is ReplayOutcome.DONE
    assert not store.storage.fail(failed().id, "dead", "late", "late", 0.0), "who has lost the claim changes nothing"
    assert not store.storage.succeed(failed().id, "dead", 0.0)


def test_purging(store: FailedTaskStore) -> None:
    for number in range(1, 7):
        store.keep(failed(number))
    store.replay(failed(1).id)
    store.replay(failed(2).id)
    now_s = store.clock.wall_s()
    store.storage.claim(failed(3).id, "at work", now_s, now_s + 60.0)
    assert store.purge() == 2
    assert store.purge([failed(3).id, failed(4).id, "nothing"]) == 1, "never one that is being replayed"
    assert store.purge(state=None, older_than_s=now_s - 1e9 - 5.5) == 1
    assert [task.id[-1] for task in store.list()] == ["3", "6"]
    assert store.purge(state=None) == 1


def test_two_failures_of_one_task_are_one_record(store: FailedTaskStore) -> None:
    store.keep(failed())
    store.keep(FailedTask(**{**_fields(failed()), "error": "KeyError: yes", "attempts": 5}))
    (found,) = store.list()
    assert (found.error, found.attempts) == ("KeyError: yes", 5)


def _fields(found: FailedTask) -> dict[str, Any]:
    return {name: getattr(found, name) for name in FailedTask.__dataclass_fields__}


def test_any_text_of_an_error_can_be_kept(store: FailedTaskStore) -> None:
    with WorkerPool(failed=store) as pool:
        error = pool.submit(breaks, "\ud800\x00 漢字 \u202e").exception(10)
    assert isinstance(error, LookupError)
    (found,) = store.list()
    assert found.error == "LookupError: \\ud800\\x00 漢字 \u202e"


def test_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them another name"):

        @task(name="test.note")
        def other() -> None: ...


# --- an effect once ---------------------------------------------------------------------------------------------------------------


def test_an_effect_is_committed_with_its_key_or_not_at_all(tmp_path: Path) -> None:
    shop = sqlite3.connect(tmp_path / "shop.db")
    create_effects_table(shop)
    shop.execute("CREATE TABLE charges (number TEXT)")
    shop.commit()

    def charge(*, dies: bool = False) -> None:
        with shop:
            if first_time(shop):
                shop.execute("INSERT INTO charges VALUES ('order-7')")
            if dies:
                raise InterruptedError

    mark = CURRENT_TASK.set(CurrentTask("1", "charge", "order-7"))
    with pytest.raises(InterruptedError):
        charge(dies=True)
    for _ in range(3):
        charge()
    assert shop.execute("SELECT count(*) FROM charges").fetchone() == (1,)
    CURRENT_TASK.reset(mark)
    with pytest.raises(LookupError, match="no task runs here"):
        first_time(shop)
    assert first_time(shop, "order-8")
    shop.rollback()
    assert first_time(shop, "order-8")
    shop.close()


def test_a_connection_that_commits_each_statement_is_refused(tmp_path: Path) -> None:
    shop = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    create_effects_table(shop, "seen")
    with pytest.raises(RuntimeError, match="begin a transaction first"):
        first_time(shop, "order-7", table="seen")
    shop.execute("BEGIN")
    assert first_time(shop, "order-7", table="seen")
    assert not first_time(shop, "order-7", table="seen")
    shop.execute("COMMIT")
    shop.execute("BEGIN")
    with pytest.raises(ValueError, match="table: must be a plain name"):
        first_time(shop, "order-7", table="x; DROP TABLE seen")
    with pytest.raises(ValueError, match="placeholder"):
        first_time(shop, "order-7", placeholder=":1")
    shop.close()


# --- disks ------------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "failed.db")
    storage._connected().execute("PRAGMA max_page_count = 8")
    store = FailedTaskStore(storage)
    with WorkerPool("mail", max_workers=1, queue=20, failed=store) as pool:
        errors = [pool.submit(breaks, "x" * 5_000).exception(10) for _ in range(12)]
        notes = [note for error in errors if error is not None for note in getattr(error, "__notes__", [])]
        assert "database or disk is full; make room, or move the file" in notes[0]
        status = pool.status()
        assert status["failed_kept"] + status["failed_not_kept"] == status["failed"] == 12
        assert status["failed_not_kept"] == len(notes) > 3
        storage._connected().execute("PRAGMA max_page_count = 10000")
    assert len(store.list()) == 12
    store.close()


def test_a_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    """A real limit of the system, in a process of its own."""
    code = """
import resource, signal, sys
from resilience.workers import FailedTask, FailedTaskStore, FailedTaskStoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FailedTaskStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
kept = 0
try:
    for number in range(1_000):
        store.keep(FailedTask(str(number), "n", "p", "x" * 1_000, "k", "e", "t", 1, 1.0, 1.0))
        kept += 1
except FailedTaskStoreError as error:
    print(kept, len(store.list(limit=1_000)), error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f.db"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, listed, told = done.stdout.split(maxsplit=2)
    assert int(kept) == int(listed) > 0
    assert "failed tasks cannot be stored: disk I/O error; is the disk full or broken?" in told or "is full" in told


def test_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    with pytest.raises(FailedTaskStoreError, match="the folder must exist and let this user write"):
        FailedTaskStore(tmp_path / "nowhere" / "failed.db")
    (tmp_path / "text.db").write_text("this is no database at all, but it is long enough to be looked at as one" * 20)
    with pytest.raises(FailedTaskStoreError, match="file is not a database; it is another file"):
        FailedTaskStore(tmp_path / "text.db")
    with pytest.raises(FailedTaskStoreError, match="cannot be stored"):
        FailedTaskStore(tmp_path)
    with sqlite3.connect(tmp_path / "new.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(FailedTaskStoreError, match="written by a newer version"):
        FailedTaskStore(tmp_path / "new.db")
    with pytest.raises(FailedTaskStoreError, match="there is no such file"):
        SQLiteStorage(tmp_path / "none.db", create=False)
    with pytest.raises(ValueError, match="lease_s"):
        FailedTaskStore(tmp_path / "failed.db", lease_s=0)


def test_a_read_only_store_reads_and_says_that_it_cannot_be_written(store: FailedTaskStore, tmp_path: Path) -> None:
    store.keep(failed())
    with FailedTaskStore(SQLiteStorage(tmp_path / "failed.db", read_only=True)) as reader:
        assert reader.list() == [failed()]
        with pytest.raises(FailedTaskStoreError, match="attempt to write a readonly database; the file and its folder must let"):
            reader.keep(failed(2))
    with WorkerPool(queue=5, failed=FailedTaskStore(SQLiteStorage(tmp_path / "failed.db", read_only=True))) as pool:
        error = pool.submit(breaks, "x").exception(10)
        assert error is not None
        assert "readonly" in error.__notes__[0]
        pool.configure(pool.plan.of("workers", pool.plan.settings, None, None, None, store))
    assert len(store.list()) == 2, "stored once there was a store that can be written"


def test_a_store_that_another_process_holds_is_waited_for(store: FailedTaskStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "failed.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    keeping = threading.Thread(target=store.keep, args=(failed(),))
    keeping.start()
    other.execute("COMMIT")
    keeping.join(10)
    other.close()
    assert store.list() == [failed()]


def test_a_forked_child_opens_the_file_for_itself(store: FailedTaskStore) -> None:
    store.keep(failed())
    pid = os.fork()
    if pid == 0:
        try:
            store.keep(failed(2))
            os._exit(0 if len(store.list()) == 2 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(store.list()) == 2


def test_a_pool_in_a_forked_child_starts_empty(tmp_path: Path) -> None:
    code = """
import os, threading
from resilience.workers import WorkerPool
pool = WorkerPool(max_workers=1)
gate = threading.Event()
pool.submit(gate.wait); waiting = pool.submit(print, "once", flush=True)
pid = os.fork()
if pid == 0:
    assert pool.status()["pending"] == 0
    print("child", pool.submit(len, "four").result(10), flush=True)
    pool.drain(); os._exit(0)
os.waitpid(pid, 0); gate.set(); pool.drain()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert sorted(done.stdout.splitlines()) == ["child 4", "once"]


def test_a_pool_that_nobody_drains_is_drained_at_exit() -> None:
    code = """
import time
from resilience.workers import WorkerPool
pool = WorkerPool(max_workers=2)
for number in range(20):
    pool.submit(lambda number=number: (time.sleep(0.01), print(number, flush=True)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert sorted(map(int, done.stdout.split())) == list(range(20))


def test_a_blocked_task_does_not_hold_up_the_store(store: FailedTaskStore) -> None:
    blocked = Blocked()
    with WorkerPool(min_workers=2, max_workers=2, failed=store) as pool:
        pool.submit(blocked)
        blocked.wait_begun()
        pool.submit(breaks, "x").exception(10)
        assert len(store.list()) == 1
        blocked.open.set()


@task(name="test.stop")
def stop(kind: str) -> None:
    raise {"interrupt": KeyboardInterrupt, "exit": SystemExit}[kind]


@task(name="test.astop")
async def astop(kind: str) -> None:
    await asyncio.sleep(0)
    stop(kind)


def test_whoever_interrupts_a_replay_is_heard(store: FailedTaskStore) -> None:
    store.keep(failed(1, "test.stop", '{"args":["interrupt"],"kwargs":{}}'))
    with pytest.raises(KeyboardInterrupt):
        store.replay(failed(1).id)
    kept = store.show(failed(1).id)
    assert kept is not None
    assert (kept.state, kept.error, kept.replays) == (TaskState.FAILED, "KeyboardInterrupt", 1)


def test_a_task_that_exits_does_not_end_who_replays_it(store: FailedTaskStore) -> None:
    for number, name in ((1, "test.stop"), (2, "test.astop")):
        store.keep(failed(number, name, '{"args":["exit"],"kwargs":{}}'))
    replays = [store.replay(failed(1).id), asyncio.run(store.areplay(failed(2).id))]
    assert [(replay.outcome, type(replay.error)) for replay in replays] == [(ReplayOutcome.FAILED, SystemExit)] * 2


def test_a_child_that_is_forked_while_the_store_is_in_use_can_use_it(store: FailedTaskStore) -> None:
    assert isinstance(store.storage, SQLiteStorage)
    with store.storage._lock:  # as another thread of the parent would hold it
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            try:
                store.keep(failed())
                os._exit(0)
            except BaseException:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.list() == [failed()]


@pytest.mark.parametrize("key", ["order-\ud800", "order-\x00"])
def test_a_key_that_no_database_takes_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key: must be a text that every database stores"):
        TaskOptions(idempotency_key=key)


def test_any_name_can_be_kept(store: FailedTaskStore) -> None:
    @task(name="odd-\ud800")
    def odd() -> None:
        raise LookupError

    with WorkerPool("pool-\udfff", failed=store) as pool:
        pool.submit(odd).exception(10)
    (kept,) = store.list()
    assert (kept.name, kept.pool) == ("odd-\\ud800", "pool-\\udfff")


def test_a_pool_that_cannot_be_drained_at_exit_does_not_keep_the_others_from_it() -> None:
    code = """
import time
from resilience.workers import WorkerPool
class Broken(WorkerPool):
    def drain(self, timeout_s=None):
        raise RuntimeError("it broke")
pools = [kind(max_workers=1) for kind in (Broken, WorkerPool) * 4]
for number, pool in enumerate(pools[1::2]):
    pool.submit(lambda number=number: (time.sleep(0.05), print(number, flush=True)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"]
    assert done.stderr.count("could not be drained when the interpreter ended") == 4
