"""Folders of services that are gone: which of them are removed, and that nobody who is alive or comes back loses anything."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from resilience.stores.host import HostStore, place, sweep
from resilience.stores.host.place import Place
from resilience.stores.host.sweep import KEPT_S
from resilience.stores.host.trouble import Unusable
from resilience.stores.settings import HostStoreSettings
from resilience.testing import ManualClock

LONG_AGO_S: Final = time.time() - KEPT_S - 60


def used_by(name: str, folder: Path, *files: str) -> Path:
    """The folder of a service that is gone."""
    found = Place(name, [str(folder)])
    for file in files:
        os.close(found.open(file, os.O_CREAT))
    return Path(found.path)


def date_back(path: Path) -> None:
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))


def test_what_nobody_has_used_for_a_day_goes(folder: Path) -> None:
    gone, lately = used_by("gone", folder, "limit.a", "turn.00"), used_by("lately", folder, "limit.a")
    date_back(gone)
    store = HostStore(HostStoreSettings("mine", str(folder)), ManualClock(), beats=False)
    store.buckets.prepare("limit", None)
    store.beat()
    assert not gone.exists()
    assert (lately / "limit.a").exists(), "a service that is started anew finds its buckets"
    own = store.status()["folder"]
    assert sorted(path.name for path in gone.parent.iterdir()) == sorted([lately.name, Path(own).name])
    store.close()


def test_a_service_that_lives_keeps_its_folder_however_long_it_was_quiet(folder: Path) -> None:
    living = Place("living", [str(folder)])
    date_back(Path(living.path))
    sweep.sweep(Place("mine", [str(folder)]).path)
    assert living.is_there()


def test_a_folder_is_dated_while_it_is_in_use(folder: Path) -> None:
    clock = ManualClock()
    store = HostStore(HostStoreSettings("mine", str(folder)), clock, beats=False)
    store.buckets.prepare("limit", None)
    own = Path(store.status()["folder"])
    for advance_s, is_dated in ((0.0, True), (3_599.0, False), (1.0, True)):
        date_back(own)
        clock.advance(advance_s)
        store.beat()
        assert (own.stat().st_mtime > LONG_AGO_S + KEPT_S / 2) is is_dated
    store.close()


@pytest.mark.parametrize("name", ["v1-short", "somebody", "v1-" + "0" * 24 + "x", ".v1-" + "0" * 24])
def test_what_is_called_otherwise_is_nobody_s_business(folder: Path, name: str) -> None:
    own = Place("mine", [str(folder)])
    other = Path(own.path).parent / name
    other.mkdir(0o700)
    date_back(other)
    sweep.sweep(own.path)
    assert other.is_dir()


def test_a_link_is_not_followed(folder: Path) -> None:
    own = Place("mine", [str(folder)])
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "file").touch()
    date_back(folder / "elsewhere")
    link = Path(own.path).parent / ("v1-" + "0" * 24)
    link.symlink_to(folder / "elsewhere")
    sweep.sweep(own.path)
    assert (folder / "elsewhere" / "file").exists()
    assert link.is_symlink()


def test_what_was_left_half_removed_goes_the_next_time(folder: Path) -> None:
    own = Place("mine", [str(folder)])
    half = Path(own.path).parent / ("gone-" + "0" * 16)
    half.mkdir(0o700)
    (half / "limit.a").touch()
    date_back(half)
    sweep.sweep(own.path)
    assert not half.exists()


def test_a_folder_in_which_somebody_keeps_something_else_is_left(folder: Path) -> None:
    own, kept = Place("mine", [str(folder)]), used_by("gone", folder)
    (kept / "sub").mkdir()
    date_back(kept)
    sweep.sweep(own.path)
    assert [path.name for path in Path(own.path).parent.glob("*/sub")] == ["sub"]


def test_no_folder_is_there_any_more(folder: Path) -> None:
    sweep.sweep(str(folder / "missing" / "v1-0"))


def test_whoever_opens_a_folder_that_is_being_removed_has_a_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each instant of the removal: its lock is taken, its name is taken, it is gone."""
    old = used_by("mine", folder, "limit.a")
    own = Place("other", [str(folder)])
    opened: list[Place] = []

    class Slow:
        """A clock by which the removal ends while it is waited for."""

        @staticmethod
        def sleep(duration_s: float) -> None:
            os.close(locked)

    monkeypatch.setattr(place, "SYSTEM_CLOCK", Slow)
    locked = os.open(old, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    opened.append(Place("mine", [str(folder)]))
    assert opened[0].path == str(old)
    assert opened[0].inode_of("limit.a"), "it was not removed in the end"
    opened.clear()
    date_back(old)
    rename = os.rename

    def renamed_late(*args: object, **kwargs: object) -> None:
        with pytest.raises(Unusable, match="is being removed by another process"):
            Place("mine", [str(folder)])
        call: Callable[..., None] = rename
        call(*args, **kwargs)
        opened.append(Place("mine", [str(folder)]))

    monkeypatch.setattr(place, "SYSTEM_CLOCK", ManualClock())
    monkeypatch.setattr(os, "rename", renamed_late)
    sweep.sweep(own.path)
    assert opened[0].is_there()
    assert not opened[0].inode_of("limit.a")


def test_whoever_is_quicker_than_the_sweep_keeps_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = used_by("mine", folder, "limit.a")
    date_back(old)
    flock, opened = fcntl.flock, list[Place]()

    def opened_before(fd: int, what: int) -> None:
        if what & fcntl.LOCK_EX and not opened:
            opened.append(Place("mine", [str(folder)]))
        flock(fd, what)

    monkeypatch.setattr(fcntl, "flock", opened_before)
    sweep.sweep(Place("other", [str(folder)]).path)
    assert opened[0].is_there()
    assert opened[0].inode_of("limit.a")


def test_a_file_system_without_locks_is_used_and_never_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = used_by("old", folder)
    date_back(old)

    def refuse(fd: int, what: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    sweep.sweep(Place("mine", [str(folder)]).path)
    assert old.is_dir()


def test_files_are_dated_by_the_clock_on_the_wall(folder: Path) -> None:
    old = used_by("old", folder)
    own = Place("mine", [str(folder)]).path
    sweep.sweep(own, old.stat().st_mtime + KEPT_S - 1)
    assert old.is_dir()
    sweep.sweep(own, old.stat().st_mtime + KEPT_S + 1)
    assert not old.exists()
