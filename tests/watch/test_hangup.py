"""SIGHUP reloads at once, in the thread that watches files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import ConfigError, ConfigLoaded, ConfigRefused, Event, Toolkit
from resilience.testing import RecordingObserver
from tests.watch.files import A, B
from tests.watch.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds A."""
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A)
    return path


@pytest.fixture
def earlier() -> Iterator[list[int]]:
    """What a handler that was there before has been told."""
    told: list[int] = []
    kept = signal.signal(signal.SIGHUP, lambda number, frame: told.append(number))
    yield told
    signal.signal(signal.SIGHUP, kept)


@pytest.fixture
def toolkit(path: Path, earlier: list[int]) -> Iterator[Toolkit]:
    """A toolkit whose file nobody watches."""
    with resilience.load(path) as toolkit:
        yield toolkit


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def wait_for_version(toolkit: Toolkit, number: int) -> None:
    wait_until(lambda: toolkit.active.version >= number, f"version {number} is in force")


def test_the_file_is_read_at_once_in_another_thread(toolkit: Toolkit, path: Path, earlier: list[int]) -> None:
    loaded_in: list[threading.Thread] = []

    class Notes:
        def on_event(self, event: Event) -> None:
            loaded_in.extend([threading.current_thread()] * isinstance(event, ConfigLoaded))

    toolkit.reload_on_sighup()
    path.write_bytes(B)
    unsubscribe = resilience.subscribe(Notes())
    hang_up()
    wait_until(lambda: loaded_in, "the file is loaded")
    unsubscribe()
    assert toolkit.status()["limiters"]["api"]["capacity"] == 200.0
    assert loaded_in[0].name == "resilience-watch"
    assert earlier == [signal.SIGHUP], "the handler that was there before is still called"


def test_a_bad_file_is_told_and_the_next_signal_is_heard(toolkit: Toolkit, path: Path) -> None:
    toolkit.reload_on_sighup()
    path.write_bytes(b"version: 2\n")
    with RecordingObserver() as observer:
        hang_up()
        wait_until(lambda: observer.events, "the file is refused")
        assert toolkit.status()["last_error"].startswith(f"{path}:1:10: version: ")
        path.write_bytes(B)
        hang_up()
        wait_for_version(toolkit, 2)
        wait_until(lambda: len(observer.events) == 2, "the file is loaded")
    assert [type(event) for event in observer.events] == [ConfigRefused, ConfigLoaded]


def test_asking_twice_is_asking_once(toolkit: Toolkit, earlier: list[int]) -> None:
    toolkit.reload_on_sighup()
    handler = signal.getsignal(signal.SIGHUP)
    toolkit.reload_on_sighup()
    assert signal.getsignal(signal.SIGHUP) is handler
    hang_up()
    wait_for_version(toolkit, 2)
    assert earlier == [signal.SIGHUP]


def test_many_toolkits_hear_one_signal(toolkit: Toolkit, tmp_path: Path, earlier: list[int]) -> None:
    (tmp_path / "other.yaml").write_bytes(A)
    with resilience.load(tmp_path / "other.yaml") as other:
        for each in (toolkit, other):
            each.reload_on_sighup()
        hang_up()
        for each in (toolkit, other):
            wait_for_version(each, 2)
    hang_up()
    wait_for_version(toolkit, 3)
    assert other.active.version == 2
    assert earlier == [signal.SIGHUP] * 2


def test_the_earlier_handler_is_back_when_the_last_toolkit_is_closed(path: Path, earlier: list[int]) -> None:
    before = signal.getsignal(signal.SIGHUP)
    toolkit = resilience.load(path)
    toolkit.reload_on_sighup()
    assert signal.getsignal(signal.SIGHUP) is not before
    toolkit.close()
    assert signal.getsignal(signal.SIGHUP) is before


def test_a_handler_that_came_later_stays_and_may_go_on_to_ours(path: Path, earlier: list[int]) -> None:
    later: list[int] = []
    with resilience.load(path) as toolkit:
        toolkit.reload_on_sighup()
        ours: Any = signal.getsignal(signal.SIGHUP)

        def chained(number: int, frame: Any) -> None:
            later.append(number)
            ours(number, frame)

        signal.signal(signal.SIGHUP, chained)
        hang_up()
        wait_for_version(toolkit, 2)
        toolkit.reload_on_sighup()  # now ours is on top of it again, and it must not go round in a circle
        hang_up()
        wait_for_version(toolkit, 3)
        signal.signal(signal.SIGHUP, chained)
    assert signal.getsignal(signal.SIGHUP) is chained
    hang_up()
    assert (len(earlier), len(later)) == (3, 3)


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_the_signal_had_no_handler(disposition: signal.Handlers, path: Path) -> None:
    kept = signal.signal(signal.SIGHUP, disposition)
    try:
        with resilience.load(path) as toolkit:
            toolkit.reload_on_sighup()
            hang_up()
            wait_for_version(toolkit, 2)
        assert signal.getsignal(signal.SIGHUP) is disposition
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_only_the_main_thread_can_ask(toolkit: Toolkit) -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            toolkit.reload_on_sighup()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    (error,) = errors
    assert isinstance(error, RuntimeError)
    assert str(error) == "only the main thread can set a signal handler; call reload_on_sighup() there"


def test_a_toolkit_closed_elsewhere_leaves_a_handler_that_does_nothing(path: Path, earlier: list[int]) -> None:
    toolkit = resilience.load(path)
    toolkit.reload_on_sighup()
    thread = threading.Thread(target=toolkit.close)
    thread.start()
    thread.join()
    hang_up()
    assert earlier == [signal.SIGHUP]
    assert toolkit.active.version == 1
    with pytest.raises(ConfigError, match="closed"):
        toolkit.reload_on_sighup()
