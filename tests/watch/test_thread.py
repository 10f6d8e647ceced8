"""The thread that looks at files: one a process, as long as there is a file to look at."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilience
from resilience import ConfigLoaded, Event, Toolkit
from resilience.clock import Clock, SystemClock
from resilience.edges import open_source
from resilience.watch import THREAD, Job
from resilience.watch import thread as thread_module
from resilience.watch.thread import NAME, WatchThread
from tests.watch.files import A, B, C, rename_over
from tests.watch.waiting import LIMIT_S, wait_until

EVERY_S = 0.05


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds A."""
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A)
    return path


@pytest.fixture
def watch_thread() -> Iterator[WatchThread]:
    """A thread of the test's own."""
    watch_thread = WatchThread()
    yield watch_thread
    watch_thread.stop()


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def version(toolkit: Toolkit) -> int:
    return toolkit.active.version


def wait_for_version(toolkit: Toolkit, number: int) -> None:
    wait_until(lambda: version(toolkit) >= number, f"version {number} is in force")


# --- as users see it ----------------------------------------------------------------------------------------------------------


def test_a_watched_file_is_followed_until_the_toolkit_is_closed(path: Path) -> None:
    toolkit = resilience.load(path, watch=True, every_s=EVERY_S)
    assert toolkit.status()["watched"]
    (thread,) = watch_threads()
    assert thread.daemon
    for number, content in enumerate((B, C), start=2):
        rename_over(path, content)
        wait_for_version(toolkit, number)
    toolkit.close()
    assert watch_threads() == []
    assert not thread.is_alive()


def test_a_file_is_not_watched_unless_somebody_asks(path: Path) -> None:
    with resilience.load(path) as toolkit:
        assert watch_threads() == []
        assert not toolkit.status()["watched"]
        with resilience.load(path, watch=True):
            assert toolkit.status()["watched"], "for all who use it"
        assert len(watch_threads()) == 1, "until the last of them closes it"
    assert watch_threads() == []


def test_many_toolkits_share_one_thread(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.yaml" for number in range(10)]
    for path in paths:
        path.write_bytes(A)
    toolkits = [resilience.load(path, watch=True, every_s=EVERY_S) for path in paths]
    assert len(watch_threads()) == 1
    for path in paths:
        rename_over(path, B)
    for toolkit in toolkits:
        wait_for_version(toolkit, 2)
    for toolkit in toolkits[1:]:
        toolkit.close()
    assert len(watch_threads()) == 1
    rename_over(paths[0], C)
    wait_for_version(toolkits[0], 3)
    toolkits[0].close()
    assert watch_threads() == []


def test_a_path_given_to_an_integration_is_watched_and_a_toolkit_stays_as_it_is(path: Path) -> None:
    with resilience.load(path) as toolkit:
        _, leave = open_source(toolkit, None)
        assert not toolkit.status()["watched"]
        leave()
        _, close = open_source(path, None)
        assert toolkit.status()["watched"]
        close()
    assert watch_threads() == []


def test_a_toolkit_may_be_closed_by_an_observer_of_its_own_reload(path: Path) -> None:
    toolkit = resilience.load(path, watch=True, every_s=EVERY_S)
    closed_in: list[threading.Thread] = []

    class Closes:
        def on_event(self, event: Event) -> None:
            if isinstance(event, ConfigLoaded):
                toolkit.close()
                closed_in.append(threading.current_thread())

    (thread,) = watch_threads()
    unsubscribe = resilience.subscribe(Closes())
    rename_over(path, B)
    thread.join(LIMIT_S)
    unsubscribe()
    assert closed_in == [thread]
    assert not thread.is_alive()
    assert resilience.load(path) is not toolkit
    resilience.load(path).close()
    resilience.load(path).close()


def test_toolkits_come_and_go_in_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A)
    errors: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(50):
                with resilience.load(path, watch=True, every_s=EVERY_S) as toolkit:
                    toolkit.reload()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert errors == []
    assert watch_threads() == []


def test_a_process_ends_while_files_are_watched(path: Path) -> None:
    """At once, without a word, and though nobody has closed anything."""
    script = f"import resilience, time; resilience.load({str(path)!r}, watch=True, every_s={EVERY_S}); time.sleep(0.2)"
    ended = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, timeout=LIMIT_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


# --- whatever goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("the disk is on fire"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_is_told_once_and_ends_nothing(
    error: BaseException, watch_thread: WatchThread, caplog: pytest.LogCaptureFixture
) -> None:
    looks: dict[str, int] = {"broken": 0, "sound": 0}
    done = threading.Event()

    def broken(clock: Clock) -> int:
        looks["broken"] += 1
        raise error

    def sound(clock: Clock) -> int:
        looks["sound"] += 1
        job.due_us = clock.now_us()
        if looks["broken"] >= 3:
            done.set()
        return clock.now_us()

    job = Job("broken.yaml", broken, lambda: None)
    with caplog.at_level(logging.ERROR, "resilience"):
        watch_thread.add(job)
        watch_thread.add(Job("sound.yaml", sound, lambda: None))
        assert done.wait(LIMIT_S)
    assert [record.getMessage() for record in caplog.records] == [
        "broken.yaml: could not be looked at; the next look is in a second"
    ]


def test_what_is_told_again_after_it_was_well(watch_thread: WatchThread, caplog: pytest.LogCaptureFixture) -> None:
    outcomes = iter([OSError("1"), OSError("1"), None, OSError("1"), OSError("2")])
    done = threading.Event()

    def look(clock: Clock) -> int | None:
        job.due_us = clock.now_us()
        error = next(outcomes, StopIteration())
        if isinstance(error, StopIteration):
            done.set()
            return None
        if error is not None:
            raise error
        return clock.now_us()

    def at_once(clock: Clock) -> int | None:
        job.due_us = 0
        return None if done.is_set() else clock.now_us()

    job = Job("a.yaml", look, lambda: None)
    with caplog.at_level(logging.ERROR, "resilience"):
        watch_thread.add(job)
        watch_thread.add(Job("b.yaml", at_once, lambda: None))
        assert done.wait(LIMIT_S)
    assert len(caplog.records) == 3


def test_a_look_that_hangs_does_not_hold_up_the_end(watch_thread: WatchThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "_WAIT_S", 0.05)
    began, go_on = threading.Event(), threading.Event()

    def hang(clock: Clock) -> None:
        began.set()
        go_on.wait(LIMIT_S)

    job = Job("slow.yaml", hang, lambda: None)
    watch_thread.add(job)
    assert began.wait(LIMIT_S)
    watch_thread.remove(job)
    (thread,) = watch_threads()
    go_on.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_job_that_is_never_due_waits_for_its_signal(watch_thread: WatchThread) -> None:
    looked, hung_up = threading.Event(), threading.Event()

    def look(clock: Clock) -> None:
        looked.set()

    job = Job("a.yaml", look, hung_up.set)
    watch_thread.add(job)
    assert looked.wait(LIMIT_S)
    watch_thread.hang_up(job)
    assert hung_up.wait(LIMIT_S)


def test_a_wake_up_during_a_look_is_not_lost(watch_thread: WatchThread) -> None:
    looks: list[int] = []
    looked_again = threading.Event()

    def look(clock: Clock) -> None:
        looks.append(clock.now_us())
        if len(looks) == 1:
            job.wake()
        else:
            looked_again.set()

    job = Job("a.yaml", look, lambda: None)
    watch_thread.add(job)
    assert looked_again.wait(LIMIT_S)
    wait_until(lambda: job.due_us is None, "the second look is over")
    assert len(looks) == 2


@pytest.mark.parametrize("first_every_s", [None, 3600.0])
def test_a_file_that_is_asked_for_during_a_look_is_followed_as_asked(first_every_s: float | None, path: Path) -> None:
    """Be it that it was not watched until then, or not so often."""
    with resilience.load(path) as toolkit:
        asked = threading.Event()

        def look(clock: Clock) -> int | None:
            due_us = toolkit._look(clock)
            if not asked.is_set():
                toolkit.watch(EVERY_S)
                asked.set()
            return due_us

        toolkit._job.look = look
        THREAD.add(toolkit._job)
        if first_every_s is not None:
            toolkit.watch(first_every_s)
        assert asked.wait(LIMIT_S)
        rename_over(path, B)
        wait_for_version(toolkit, 2)


def test_a_fork_does_not_wait_for_a_look_that_asks_for_the_thread(watch_thread: WatchThread) -> None:
    """As an observer does that looks at a status."""
    began, ended = threading.Event(), threading.Event()

    def look(clock: Clock) -> None:
        if not began.is_set():
            began.set()
            wait_until(lambda: watch_thread._thread is None, "the fork waits for this look")
            watch_thread.ensure()
            ended.set()

    watch_thread.add(Job("a.yaml", look, lambda: None))
    assert began.wait(LIMIT_S)
    watch_thread.before_fork()
    has_ended = ended.is_set()
    watch_thread.after_fork_in_parent()
    assert has_ended, "before the fork, not after it"
    assert len(watch_threads()) == 1


def test_it_lets_others_go_first_while_it_reads_a_file_and_nobody_else_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleepers: list[str] = []
    monkeypatch.setattr(SystemClock, "sleep", lambda clock, duration_s: sleepers.append(threading.current_thread().name))
    with resilience.load(path, watch=True, every_s=EVERY_S) as toolkit:
        toolkit.reload()
        assert sleepers == []
        rename_over(path, B + b"# long\n" + b"health: {a: {}, b: {}, c: {}, d: {}, e: {}}\n")
        wait_for_version(toolkit, 3)
    assert set(sleepers) == {NAME}


def test_a_thread_that_could_not_be_started_is_started_later(
    watch_thread: WatchThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    looked = threading.Event()

    def look(clock: Clock) -> None:
        looked.set()

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        watch_thread.add(Job("a.yaml", look, lambda: None))
    assert "configuration files are not watched for now: can't start new thread" in caplog.text
    watch_thread.ensure()
    assert looked.wait(LIMIT_S)


def test_no_thread_is_started_for_nothing() -> None:
    THREAD.ensure()
    THREAD.after_fork_in_parent()
    assert watch_threads() == []
