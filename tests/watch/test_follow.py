"""A toolkit that follows its file: looked at as the thread does it, but by a clock that moves when told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import resilience
from resilience import ConfigLoaded, ConfigRefused, RateLimited, Toolkit
from resilience.clock import to_us
from resilience.telemetry.changes import ChangeReporter
from resilience.testing import ManualClock, RecordingObserver
from tests.watch.files import rename_over, save_as_vim_does

GOOD = "version: 1\nlimiters:\n  api: {rate: 100/s, burst: 3}\npipelines:\n  api: [{limiter: api}]\nroutes: []\n"
BETTER = GOOD.replace("burst: 3", "burst: 5")
MERGE_BOMB = (
    "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True))
    + "version: 1\n<<: *g\n"
)
BAD = {
    "garbage": "\x00\x01\x02 not yaml : : [",
    "empty": "",
    "bomb": MERGE_BOMB,
    "nan": GOOD.replace("burst: 3", "burst: .nan"),
    "negative": GOOD.replace("burst: 3", "burst: -1"),
    "true": GOOD.replace("burst: 3", "burst: true"),
    "exponent": GOOD.replace("burst: 3", "burst: 1e3"),
    "octal": GOOD.replace("burst: 3", "burst: 010"),
    "duplicate": GOOD.replace("burst: 3", "burst: 3, burst: 3"),
    "misspelt": GOOD.replace("burst: 3", "bursts: 3"),
    "dangling": GOOD.replace("[{limiter: api}]", "[{limiter: apo}]"),
}


class Followed:
    """A toolkit and its file, with the watch in the hands of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.toolkit = resilience.load(path, clock=self.clock)
        self.toolkit._begin_to_watch(to_us(1.0))
        self.due_us: int | None = 0
        self.looks = 0

    def run(self, duration_s: float) -> None:
        """Look at each due time within `duration_s`."""
        until_us = self.clock.now_us() + to_us(duration_s)
        while self.due_us is not None and self.due_us <= until_us:
            self.clock.advance(max(0, self.due_us - self.clock.now_us()) / 1e6)
            self.due_us = self.toolkit._look(self.clock)
            self.looks += 1
        self.clock.advance(max(0, until_us - self.clock.now_us()) / 1e6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that can be used."""
    path = tmp_path / "resilience.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.fixture
def followed(path: Path) -> Iterator[Followed]:
    """The file, followed; a look has just been made, so that a change waits for the next as long as it can."""
    followed = Followed(path)
    followed.run(3.0)
    yield followed
    followed.toolkit.close()


def put(path: Path, text: str) -> None:
    """As vim saves."""
    save_as_vim_does(path, text.encode())


def test_a_change_is_in_force_within_two_seconds(followed: Followed) -> None:
    put(followed.path, BETTER)
    followed.run(1.3)
    assert followed.toolkit.status()["version"] == 2
    assert followed.toolkit.status()["limiters"]["api"]["capacity"] == 5.0


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_file_changes_nothing_is_seen_within_two_seconds_and_mended(
    bad: str, followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    toolkit, reporter = followed.toolkit, ChangeReporter()
    active = toolkit.active
    spend(toolkit, 3)
    unsubscribe = resilience.subscribe(reporter)
    put(followed.path, bad)
    with caplog.at_level(logging.ERROR, "resilience"):
        followed.run(1.3)
    error = toolkit.status()["last_error"]
    assert error.startswith(f"{followed.path}:")
    assert error.removeprefix(f"{followed.path}:").partition(":")[0].isdigit(), "the line"
    told = [record.getMessage() for record in caplog.records if record.name == "resilience"]
    assert told[0].startswith(f"configuration {followed.path} is refused:\n{error[:200]}")
    assert (reporter.configs_loaded, reporter.configs_refused) == (0, 1)
    assert toolkit.active is active

    looks = followed.looks
    followed.run(10.0)
    assert followed.looks - looks == 10, "one a second again"
    assert reporter.configs_refused == 1, "told once"
    put(followed.path, BETTER)
    followed.run(1.3)
    assert (toolkit.status()["last_error"], toolkit.status()["version"]) == (None, 2)
    assert (reporter.configs_loaded, reporter.configs_refused) == (1, 1)
    unsubscribe()


def spend(toolkit: Toolkit, count: int) -> None:
    """Empty the bucket, which is not refilled by what follows."""
    for _ in range(count):
        toolkit.pipeline("api").call(str)
    with pytest.raises(RateLimited):
        toolkit.pipeline("api").call(str)


def test_the_bomb_is_small() -> None:
    assert len(MERGE_BOMB) < 341


def test_going_back_to_what_is_in_force_takes_the_error_back(followed: Followed) -> None:
    with RecordingObserver() as observer:
        put(followed.path, BAD["misspelt"])
        followed.run(1.3)
        put(followed.path, GOOD)
        followed.run(1.3)
    assert followed.toolkit.status()["last_error"] is None
    assert [type(event) for event in observer.events] == [ConfigRefused, ConfigLoaded]


def test_many_bad_files_and_then_a_good_one(followed: Followed) -> None:
    with RecordingObserver() as observer:
        for bad in [*BAD.values(), *BAD.values()]:
            put(followed.path, bad)
            followed.run(1.3)
        put(followed.path, BETTER)
        followed.run(1.3)
    assert [type(event) for event in observer.events] == [ConfigRefused] * 2 * len(BAD) + [ConfigLoaded]
    assert followed.toolkit.status()["limiters"]["api"]["capacity"] == 5.0


def put_new(path: Path) -> None:
    path.write_text(GOOD, encoding="utf-8")


def swap_for_folder(path: Path) -> None:
    path.rename(path.with_suffix(".kept"))
    path.mkdir()


def swap_back(path: Path) -> None:
    path.rmdir()
    path.with_suffix(".kept").rename(path)


@pytest.mark.parametrize(
    ("spoil", "mend", "error"),
    [
        (Path.unlink, put_new, "cannot be read: No such file or directory"),
        (swap_for_folder, swap_back, "is not a regular file"),
    ],
    ids=["gone", "a folder"],
)
def test_a_file_that_cannot_be_read(
    spoil: Callable[[Path], None], mend: Callable[[Path], None], error: str, followed: Followed
) -> None:
    spoil(followed.path)
    with RecordingObserver() as observer:
        followed.run(10.0)
        assert followed.toolkit.status()["last_error"] == f"{followed.path}: {error}"
        assert followed.toolkit.status()["version"] == 1
        assert len(observer.events) == 1
    mend(followed.path)
    followed.run(1.3)
    assert followed.toolkit.status()["last_error"] is None


def test_touching_the_file_loads_nothing_and_refills_nothing(followed: Followed) -> None:
    spend(followed.toolkit, 3)
    before = followed.toolkit.active
    for _ in range(5):
        followed.path.touch()
        rename_over(followed.path, GOOD.encode())
        followed.toolkit._look(followed.clock)
        followed.toolkit._look(followed.clock)
    assert followed.toolkit.active is before
    with pytest.raises(RateLimited):
        followed.toolkit.pipeline("api").call(str)


def test_a_bad_file_that_reload_has_refused_is_not_told_again(followed: Followed) -> None:
    put(followed.path, BAD["empty"])
    with RecordingObserver() as observer:
        with pytest.raises(resilience.ConfigError):
            followed.toolkit.reload()
        followed.run(10.0)
    assert len(observer.events) == 1


def test_a_good_file_that_reload_has_taken_is_not_taken_again(followed: Followed) -> None:
    put(followed.path, BETTER)
    followed.toolkit.reload()
    followed.run(10.0)
    assert followed.toolkit.status()["version"] == 2


def test_a_file_without_its_end_mark_is_told_and_reload_takes_it_as_it_is(path: Path) -> None:
    path.write_text(f"{GOOD}...\n", encoding="utf-8")
    followed = Followed(path)
    put(path, BETTER)
    followed.run(2.0)
    assert ":6:1: the file ends here without the line `...`" in followed.toolkit.status()["last_error"]
    followed.toolkit.reload()
    assert (followed.toolkit.status()["last_error"], followed.toolkit.status()["version"]) == (None, 2)
    put(path, GOOD)
    followed.run(2.0)
    assert followed.toolkit.status()["version"] == 3, "what is in force has no mark, so none is asked for"
    followed.toolkit.close()


def test_the_file_stays_the_same_when_the_working_directory_changes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    followed = Followed(Path(path.name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    put(path, BETTER)
    followed.run(2.0)
    assert followed.toolkit.status()["version"] == 2
    followed.toolkit.close()


def test_a_closed_toolkit_looks_no_more(followed: Followed) -> None:
    put(followed.path, BETTER)
    followed.toolkit.close()
    assert followed.toolkit._look(followed.clock) is None
    assert followed.toolkit.status()["version"] == 1
    with pytest.raises(resilience.ConfigError, match="this toolkit is closed; load the file again"):
        followed.toolkit.reload()
    with pytest.raises(resilience.ConfigError, match="this toolkit is closed"):
        followed.toolkit.watch()


@pytest.mark.parametrize("every_s", [0.0, 0.049, 3_601.0, -1.0, float("nan"), float("inf")])
def test_how_often_to_look_has_bounds(every_s: float, path: Path) -> None:
    with pytest.raises(ValueError, match=r"every_s: must be between 0\.05 and 3600 seconds, got "):
        resilience.load(path, watch=True, every_s=every_s)
    with resilience.load(path) as toolkit:
        assert toolkit.status()["watched"] is False


def test_the_shortest_time_between_looks_that_anybody_asks_for_holds(followed: Followed) -> None:
    for every_s in (0.5, 2.0):
        followed.toolkit._begin_to_watch(to_us(every_s))
    looks = followed.looks
    followed.run(10.0)
    assert followed.looks - looks == pytest.approx(20, abs=1)
