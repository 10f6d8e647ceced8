"""When a watched file is taken: real files, and time that moves when told."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from resilience import ConfigError
from resilience.config.source import fingerprint, has_end_mark
from resilience.testing import ManualClock
from resilience.watch import Known, Watcher
from resilience.watch import watcher as watcher_module
from resilience.watch.look import Look, look
from resilience.watch.watcher import Change, came_whole
from tests.watch.files import A, B, C, ConfigMap, as_somebody_without_rights, rename_over, save_as_vim_does, write_in_place

EVERY_S = 1.0
SOON_S = 0.05


class Watch:
    """A watcher as its owner drives it: each look at its time, and what it tells taken in."""

    def __init__(self, path: Path, in_force: bytes = A) -> None:
        self.path = path
        self.clock = ManualClock()
        self.watcher = Watcher(str(path))
        self.known = Known(fingerprint(in_force), has_end_mark(in_force))
        self.told: list[bytes | str] = []
        self.looks = 0
        self.look()
        self.clock.advance(EVERY_S)

    def look(self) -> None:
        """One look."""
        self.looks += 1
        if self.watcher.is_at_rest(self.clock.now_us()):
            return
        news = self.watcher.poll(self.clock, self.known)
        if news is None:
            return
        if isinstance(news.content, ConfigError):
            self.known = Known(news.key, self.known.has_end_mark)
            self.told.append(str(news.content))
        else:
            self.known = Known(news.key, has_end_mark(news.content))
            self.told.append(news.content)

    def run(self, duration_s: float) -> None:
        """Look at each due time within `duration_s`."""
        until_us = self.clock.now_us() + round(duration_s * 1e6)
        while self.clock.now_us() <= until_us:
            self.look()
            self.clock.advance(SOON_S if self.watcher.is_settling else EVERY_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds A."""
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A)
    return path


@pytest.fixture
def watch(path: Path) -> Watch:
    """That file, watched for a second."""
    return Watch(path)


def pieces(content: bytes, count: int) -> Iterator[bytes]:
    """`content` in so many parts."""
    size = -(-len(content) // count)
    for start in range(0, len(content), size):
        yield content[start : start + size]


# --- whole at once ------------------------------------------------------------------------------------------------------------


def test_a_file_renamed_into_place_is_taken_at_the_first_look(watch: Watch, path: Path) -> None:
    rename_over(path, B)
    watch.look()
    assert watch.told == [B]


def test_a_changed_link_is_taken_at_the_first_look(tmp_path: Path) -> None:
    one, other, link = tmp_path / "one.yaml", tmp_path / "other.yaml", tmp_path / "link.yaml"
    one.write_bytes(A)
    other.write_bytes(B)
    link.symlink_to(one.name)
    watch = Watch(link)
    beside = tmp_path / "beside"
    beside.symlink_to(other.name)
    beside.replace(link)
    watch.look()
    assert watch.told == [B]


def test_a_config_map_is_taken_at_the_first_look_a_hundred_times(tmp_path: Path) -> None:
    folder = ConfigMap(tmp_path / "config", A)
    watch = Watch(folder.path)
    versions = [A.replace(b"100/s", b"%d/s" % number) for number in range(201, 301)]
    for content in versions:
        folder.swap(content)
        watch.look()
        watch.clock.advance(0.1)
    assert watch.told == versions


def test_a_new_file_that_ends_with_the_end_mark_is_taken_at_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A + b"...\n")
    watch = Watch(path, A + b"...\n")
    save_as_vim_does(path, B + b"...\n")
    watch.look()
    assert watch.told == [B + b"...\n"]


def test_a_new_file_with_nothing_in_it_yet_is_waited_for(watch: Watch, path: Path) -> None:
    """Its rights were set before its content was written."""
    rename_over(path, b"")
    watch.look()
    path.write_bytes(B)
    watch.run(1.3)
    assert watch.told == [B]


def test_what_changed_while_it_was_read_is_not_whole(path: Path) -> None:
    seen = look(str(path))
    moving, other = replace(seen, is_steady=False), replace(seen, real="elsewhere")
    assert came_whole(seen, other)
    assert not came_whole(moving, other)
    change = Change(moving, 0)
    for now_us in range(50_000, 5_000_000, 50_000):
        change.note(moving, now_us)
        assert not change.is_over(now_us)
    change.note(seen, 5_000_000)
    assert change.is_over(5_000_000)


# --- written where it stands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [Path.write_bytes, write_in_place, save_as_vim_does], ids=["truncated", "over", "vim"])
def test_a_file_written_under_its_name_is_taken_after_a_moment_of_quiet(
    save: Callable[[Path, bytes], object], watch: Watch, path: Path
) -> None:
    save(path, B)
    watch.look()
    assert watch.watcher.is_settling
    watch.clock.advance(0.199)
    watch.look()
    assert watch.told == []
    watch.clock.advance(0.001)
    watch.look()
    assert watch.told == [B]
    assert not watch.watcher.is_settling


@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("make_anew", [False, True])
def test_half_a_file_is_never_taken(count: int, make_anew: bool, watch: Watch, path: Path) -> None:
    """However long it takes: the pieces come less than 0.2 s apart, and each beginning could be a file of its own."""
    content = b"version: 1\nlimiters:\n" + b"".join(b"  l%d: {rate: 1/s}\n" % number for number in range(40))
    if make_anew:
        path.unlink()
    with path.open("wb", buffering=0) as file:
        for piece in pieces(content, count):
            watch.run(0.15)
            file.write(piece)
    watch.run(2.0)
    assert watch.told == [content]


def test_nor_where_the_old_text_is_written_over_without_cutting_it_off(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    old, new = (b"version: 1\n" + b"# %s\n" % mark * 30 + b"...\n" for mark in (b"old", b"new"))
    path.write_bytes(old)
    watch = Watch(path, old)
    with path.open("r+b", buffering=0) as file:
        for piece in pieces(new, 10):
            file.write(piece)
            watch.run(0.15)
    watch.run(1.0)
    assert watch.told == [new]


@pytest.mark.parametrize("looks_before", [0, 1])
def test_time_that_a_look_takes_is_no_quiet(looks_before: int, watch: Watch, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that keeps the interpreter comes between the reading of the clock and that of the file."""

    def slow_look(name: str) -> Look:
        watch.clock.advance(0.19)
        path.write_bytes(B[:40])
        return look(name)

    path.write_bytes(B[:20])
    for _ in range(looks_before):
        watch.look()
        watch.clock.advance(SOON_S)
    with monkeypatch.context() as patched:
        patched.setattr(watcher_module, "look", slow_look)
        watch.look()
    watch.clock.advance(0.15)
    watch.look()
    assert watch.told == []
    path.write_bytes(B)
    watch.run(1.3)
    assert watch.told == [B]


@pytest.mark.parametrize("appended", [8, 20])
def test_half_of_a_new_file_is_not_taken_after_two_seconds_of_writing(appended: int, watch: Watch, path: Path) -> None:
    """Written where it stands on and on, and then put aside for another one that is written slowly, line by line."""
    with path.open("ab", buffering=0) as file:
        for _ in range(appended):
            file.write(b"# more\n")
            watch.run(0.15)
    path.replace(path.with_name("aside"))
    with path.open("wb", buffering=0) as file:
        for line in B.splitlines(keepends=True) * 3:
            file.write(line)
            watch.run(0.15)
    assert watch.told == []
    watch.run(1.0)
    assert watch.told == [B * 3]


def test_a_file_that_is_touched_on_and_on_is_taken_after_two_seconds(watch: Watch, path: Path) -> None:
    path.write_bytes(B)
    began_us = watch.clock.now_us()
    taken_us: list[int] = []
    for _ in range(50):
        watch.look()
        taken_us += [watch.clock.now_us()] * (len(watch.told) - len(taken_us))
        watch.clock.advance(SOON_S)
        path.touch()
    assert watch.told == [B]
    assert [at_us - began_us for at_us in taken_us] == [2_000_000]


@pytest.mark.parametrize("save", [rename_over, save_as_vim_does, Path.write_bytes], ids=["renamed", "vim", "truncated"])
def test_what_stands_after_ten_saves_a_second_is_taken_when_they_end(
    save: Callable[[Path, bytes], object], watch: Watch, path: Path
) -> None:
    for number in range(100):
        save(path, (B, C)[number % 2])
        watch.run(0.1)
    save(path, B)
    watch.run(1.3)
    assert watch.told[-1] == B
    assert set(watch.told) <= {B, C}


def test_a_storm_of_new_files_is_followed_while_it_lasts(watch: Watch, path: Path) -> None:
    """Also where no look can tell a rename from a file that was just made."""
    for number in range(100):
        save_as_vim_does(path, (B, C)[number % 2])
        for _ in range(2):
            watch.look()
            watch.clock.advance(SOON_S)
    assert len(watch.told) >= 4, "at least every two seconds"


def test_a_file_that_is_touched_is_not_taken_again(watch: Watch, path: Path) -> None:
    for _ in range(10):
        path.touch()
        watch.run(1.0)
    rename_over(path, A)
    watch.run(1.0)
    assert watch.told == []


# --- what the file system does not tell ---------------------------------------------------------------------------------------


def test_the_same_size_and_a_preserved_time_are_seen(watch: Watch, path: Path) -> None:
    times = path.stat()
    path.write_bytes(B)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    watch.run(1.0)
    assert watch.told == [B]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no memory file system to be had")
def test_a_change_that_no_time_tells_is_found_by_reading_again() -> None:
    """Stores into a mapped file of a memory file system leave every date as it was."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "resilience.yaml"
        path.write_bytes(A)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:] = A
            watch, before = Watch(path), path.stat()
            mapped[:] = B
            assert path.stat() == before
            watch.run(11.0)
    assert watch.told == [B]


@pytest.mark.skipif(sys.platform != "linux", reason="needs the process file system")
def test_a_file_system_that_notifies_nobody() -> None:
    """In procfs a file's dates and size say nothing, and inotify knows none of its changes."""
    path = Path("/proc/self/task") / str(os.getpid()) / "comm"
    name = path.read_bytes()
    try:
        path.write_bytes(b"version: 1")
        watch = Watch(path, b"version: 1\n")
        path.write_bytes(b"version: 2")
        watch.run(11.0)
        path.write_bytes(b"version: 1")
        watch.run(11.0)
    finally:
        path.write_bytes(name)
    assert watch.told == [b"version: 2\n", b"version: 1\n"]


def reads_of_this_process() -> int:
    """How often it has asked the system to read, without the reading that this takes."""
    numbers = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return int(numbers["syscr"])


@pytest.mark.skipif(not Path("/proc/thread-self/io").exists(), reason="this system does not count readings")
def test_idle_looks_read_every_ten_seconds_only(watch: Watch) -> None:
    def reads_in(looks: int) -> int:
        before = reads_of_this_process()
        for _ in range(looks):
            watch.look()
            watch.clock.advance(EVERY_S)
        return reads_of_this_process() - before

    watch.run(9.0)  # the last of these looks has read
    assert reads_in(9) == reads_in(0)
    assert reads_in(1) > reads_in(0)


def test_a_clock_that_goes_back_only_starts_the_wait_anew(watch: Watch, path: Path) -> None:
    path.write_bytes(B)
    watch.look()
    watch.clock.step_back(1_000.0)
    watch.look()
    watch.clock.advance(0.199)
    watch.look()
    assert watch.told == []
    watch.clock.advance(0.001)
    watch.look()
    assert watch.told == [B]


# --- not there, not readable --------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_is_told_once_and_is_back_when_it_is_back(watch: Watch, path: Path) -> None:
    path.unlink()
    watch.run(5.0)
    assert watch.told == [f"{path}: cannot be read: No such file or directory"]
    path.write_bytes(A)
    watch.run(1.3)
    assert watch.told[1:] == [A]


def test_a_gap_that_lasts_a_moment_is_not_told(watch: Watch, path: Path) -> None:
    path.unlink()
    watch.look()
    watch.clock.advance(0.15)
    watch.look()
    path.write_bytes(B)
    watch.run(1.3)
    assert watch.told == [B]


def test_a_folder_that_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    path = folder / "resilience.yaml"
    folder.mkdir()
    path.write_bytes(A)
    watch = Watch(path)
    for content in (B, C):
        path.unlink()
        folder.rmdir()
        folder.mkdir()
        path.write_bytes(content)
        watch.run(1.3)
    folder.rename(tmp_path / "gone")
    watch.run(1.3)
    (tmp_path / "gone").rename(folder)
    watch.run(1.3)
    assert watch.told == [B, C, f"{path}: cannot be read: No such file or directory", C]


def test_a_folder_in_the_place_of_the_file(watch: Watch, path: Path) -> None:
    path.unlink()
    path.mkdir()
    watch.run(1.3)
    assert watch.told == [f"{path}: is not a regular file"]


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(watch: Watch, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    watch.run(1.3)
    assert watch.told == [f"{path}: is not a regular file"]


def test_a_file_that_must_not_be_read_is_told_and_the_right_to_read_mends_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "resilience.yaml"
        path.write_bytes(A)
        watch = Watch(path)
        path.chmod(0o000)
        with as_somebody_without_rights():
            watch.run(5.0)
        assert watch.told == [f"{path}: cannot be read: Permission denied"]
        path.chmod(0o644)
        with as_somebody_without_rights():
            watch.run(1.3)
        assert watch.told[1:] == [A]


def test_a_loop_of_links(watch: Watch, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)
    watch.run(1.3)
    assert watch.told == [f"{path}: cannot be read: Too many levels of symbolic links"]


# --- the end mark -------------------------------------------------------------------------------------------------------------


def test_a_file_that_ended_with_the_end_mark_must_end_so_again(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_bytes(A + b"...\n")
    watch = Watch(path, A + b"...\n")
    rename_over(path, B)
    watch.run(5.0)
    (told,) = watch.told
    assert isinstance(told, str)
    last = len(B.splitlines())
    assert told.startswith(
        f"{path}:{last}:1: the file ends here without the line `...` that ends the file in force, so it may be cut"
    )
    rename_over(path, B + b"...  # that is all\n\n")
    watch.run(1.3)
    assert watch.told[1:] == [B + b"...  # that is all\n\n"]


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        (b"", False),
        (b"\n\n# nothing\n", False),
        (b"version: 1\n", False),
        (b"version: 1\n...", True),
        (b"version: 1\n...\n# the end\n\n", True),
        (b"version: 1\r\n...\r\n", True),
        (b"version: 1\n... # the end", True),
        (b"version: 1\n ...\n", False),
        (b"version: 1\n....\n", False),
        (b"...\nversion: 1\n", False),
    ],
)
def test_what_an_end_mark_is(content: bytes, ends: bool) -> None:
    assert has_end_mark(content) is ends


# --- what was told is not told again ------------------------------------------------------------------------------------------


def test_many_bad_files_in_a_row_and_then_a_good_one(watch: Watch, path: Path) -> None:
    bad = [b"version: %d\n" % number for number in range(2, 30)]
    for content in bad:
        path.write_bytes(content)
        watch.run(1.3)
    path.write_bytes(A)
    watch.run(1.3)
    assert watch.told == [*bad, A], "what is in force again is told, so that the error can be taken back"


def test_the_same_bad_content_is_told_once(watch: Watch, path: Path) -> None:
    path.write_bytes(b"version: 2\n")
    watch.run(30.0)
    rename_over(path, b"version: 2\n")
    watch.run(30.0)
    assert watch.told == [b"version: 2\n"]


def test_what_its_owner_read_by_itself_is_not_told_and_what_came_after_is(watch: Watch, path: Path) -> None:
    path.write_bytes(B)
    watch.known = Known(fingerprint(B), has_end_mark=False)
    path.write_bytes(A)
    watch.run(1.3)
    assert watch.told == [A]
