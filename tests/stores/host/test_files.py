"""Where the files are, who may read them, and what becomes of those that are not as they should be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from resilience.layers.limiter.questions import Away, Take
from resilience.layers.limiter.shared_bucket import Decided, pace_of
from resilience.stores.host import HostStore, mapped, place
from resilience.stores.host.place import Place, bases
from resilience.stores.host.trouble import Unusable
from resilience.stores.host.turns import COUNT
from resilience.stores.settings import HostStoreSettings, after_file
from resilience.testing import ManualClock
from tests.stores.host.conftest import MakeStore

ROOT: Final = Path(__file__).parents[3]
PACE: Final = pace_of(Fraction(1), 5, 0)
QUESTION: Final = Take("limit", None, PACE, PACE.capacity, 1)


def left(store: HostStore) -> int:
    """How many tokens are left after one more was taken."""
    answer = store.buckets.take(QUESTION)
    assert isinstance(answer, Decided), answer
    return answer.units // 1_000_000


def own_folder(folder: Path) -> Path:
    (found,) = (folder / f"resilience-{os.geteuid()}").iterdir()
    return found


def limit_file(folder: Path) -> Path:
    (found,) = own_folder(folder).glob("limit.*")
    return found


def test_only_this_user_can_enter(store: HostStore, folder: Path) -> None:
    store.buckets.prepare("keyed", 10)
    assert left(store) == 4
    store.beat()
    inside = [folder / f"resilience-{os.geteuid()}", own_folder(folder), *own_folder(folder).iterdir()]
    for path in inside:
        assert path.stat().st_uid == os.geteuid()
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_memory_comes_before_disks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "run"))
    monkeypatch.setattr(place, "gettempdir", lambda: str(folder / "tmp"))
    assert bases() == [str(folder / "run"), "/dev/shm", str(folder / "tmp")]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "no/absolute/path")
    assert bases() == ["/dev/shm", str(folder / "tmp")]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert bases() == ["/dev/shm", str(folder / "tmp")]


def test_a_container_without_shared_memory_uses_the_next_folder(folder: Path) -> None:
    found = Place("name", [str(folder / "missing"), str(folder)])
    assert Path(found.path).parent.parent == folder


def test_without_any_folder_each_is_told_with_what_is_wrong_with_it(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(Unusable) as caught:
        Place("name", [str(folder / "missing"), str(folder / "file")])
    assert str(caught.value) == (
        f"no folder for the files of the store host: {folder}/missing: No such file or directory; {folder}/file: Not a directory"
    )


def test_a_folder_that_others_can_enter_is_not_used(folder: Path) -> None:
    laid = folder / f"resilience-{os.geteuid()}"
    laid.mkdir()
    laid.chmod(0o770)
    with pytest.raises(Unusable, match=r"is open to other users \(mode 770\); remove it"):
        Place("name", [str(folder)])


def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path) -> None:
    (folder / "elsewhere").mkdir(0o700)
    (folder / f"resilience-{os.geteuid()}").symlink_to(folder / "elsewhere")
    with pytest.raises(Unusable, match=r"Not a directory|Too many levels"):
        Place("name", [str(folder)])
    assert not list((folder / "elsewhere").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_not_used(folder: Path) -> None:
    laid = folder / "resilience-0"
    laid.mkdir(0o700)
    os.chown(laid, 65_534, -1)
    with pytest.raises(Unusable, match="belongs to user 65534, not to 0 as it should"):
        Place("name", [str(folder)])


def test_services_have_different_folders_and_workers_of_one_the_same(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "linked").symlink_to("a")
    name = after_file(folder / "a" / "resilience.yaml")
    assert name == after_file(folder / "linked" / "resilience.yaml")
    assert name not in (after_file(folder / "b" / "resilience.yaml"), after_file(folder / "a" / "other.yaml"))
    (folder / "a" / "resilience.yaml").symlink_to(folder / "b" / "resilience.yaml")
    assert name == after_file(folder / "a" / "resilience.yaml"), "a link that changes where it leads keeps the name"


def test_the_same_path_in_another_container_is_another_service(folder: Path) -> None:
    (folder / "a").mkdir()
    name = after_file(folder / "a" / "resilience.yaml")
    (folder / "a").rename(folder / "old")
    (folder / "a").mkdir()
    assert name != after_file(folder / "a" / "resilience.yaml")


@pytest.mark.parametrize(
    "damage", ["link", "pipe", "folder of others", "empty", "garbage", "short", "old version", "old boot", "long"]
)
def test_what_is_not_as_it_should_be_is_replaced(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assert left(make_store()) == 4
    path, victim = limit_file(folder), folder / "victim"
    whole = path.read_bytes()
    victim.write_bytes(whole)
    if damage == "link":
        path.unlink()
        path.symlink_to(victim)
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path, 0o600)
    elif damage == "folder of others":
        path.chmod(0o666)
    elif damage == "old version":
        path.write_bytes(whole[:8] + (0).to_bytes(8, "little") + whole[16:])
    elif damage == "old boot":
        monkeypatch.setattr(mapped, "boot_id", lambda: 7)
    else:
        path.write_bytes({"empty": b"", "garbage": b"\x5a" * len(whole), "short": whole[:4096], "long": whole + bytes(8)}[damage])
    store = make_store()
    assert [left(store), left(store)] == [4, 3]
    assert victim.read_bytes() == whole
    assert stat.S_ISREG(path.lstat().st_mode)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600


def test_files_that_a_cleaner_removed_are_made_anew_by_all(make_store: MakeStore, folder: Path) -> None:
    one, other = make_store(), make_store()
    assert [left(one), left(other)] == [4, 3]
    shutil.rmtree(own_folder(folder))
    one.beat()
    other.beat()
    assert [left(one), left(other), left(one)] == [4, 3, 2]


def test_locks_that_a_cleaner_removed_are_made_anew_by_all(make_store: MakeStore, folder: Path) -> None:
    """A lock file is never written to, so it looks older than all others. Two who lock different files would not keep apart."""
    one, other = make_store(), make_store()
    assert [left(one), left(other)] == [4, 3]
    for lock in own_folder(folder).glob("turn.*"):
        lock.unlink()
    newcomer = make_store()
    assert left(newcomer) == 2
    for store in (one, other, newcomer):
        store.beat()
        assert left(store) >= 0
    inodes = {os.fstat(store.buckets._plain["limit"]._turns[0].fd).st_ino for store in (one, other, newcomer)}
    assert inodes == {place.Place("test", [str(folder)]).inode_of(f"turn.{number:02}") for number in numbers_of("limit")}


def numbers_of(limit: str) -> list[int]:
    """Which lock a limit without keys has."""
    return [hashlib.blake2b(limit.encode(), digest_size=12).digest()[0] % COUNT]


def test_a_store_that_loses_its_files_while_threads_decide_only_answers(folder: Path) -> None:
    store = HostStore(HostStoreSettings("test", str(folder)), ManualClock(), beats=False)
    raised: list[BaseException] = []
    is_over = threading.Event()

    def decide(number: int) -> None:
        try:
            while not is_over.is_set():
                store.buckets.take(Take(f"limit {number}", None, PACE, PACE.capacity, 1))
                store.status()
                store.buckets.status()
        except BaseException as error:
            raised.append(error)
            raise

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=decide, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(100):
            shutil.rmtree(folder / f"resilience-{os.geteuid()}", ignore_errors=True)
            store.beat()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before_s)
        store.close()
    assert raised == []


def test_one_file_that_is_replaced_is_followed(make_store: MakeStore, folder: Path) -> None:
    one, other = make_store(), make_store()
    assert [left(one), left(other)] == [4, 3]
    limit_file(folder).unlink()
    one.beat()
    assert left(one) == 4
    other.beat()
    assert left(other) == 3


LIMITED: Final = """
import json, resource, sys
from fractions import Fraction
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import pace_of
from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings
from resilience.testing import ManualClock

limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
clock = ManualClock()
store = HostStore(HostStoreSettings("test", sys.argv[1]), clock, beats=False)
pace = pace_of(Fraction(1), 5, 0)
store.buckets.prepare("limit", 100_000)
said = [repr(store.buckets.take(Take("limit", str(number), pace, pace.capacity, 1))) for number in range(3)]
trouble = store.buckets.status()["trouble"]
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    clock.advance(1.0)
after = repr(store.buckets.take(Take("limit", "a", pace, pace.capacity, 1)))
plain = repr(store.buckets.take(Take("single", None, pace, pace.capacity, 1)))
print(json.dumps({"said": said, "after": after, "plain": plain, "trouble": trouble, "now": store.buckets.status()["trouble"]}))
"""


def run(*arguments: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    done = subprocess.run(
        [*before, sys.executable, "-c", LIMITED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_file_that_cannot_have_its_room_is_told_of_and_tried_again(folder: Path) -> None:
    """The kernel refuses a file so long, as it does on a full disk; a process that wrote into such a mapping would be killed."""
    told = run(str(folder), str(1 << 20))
    assert all(answer.startswith("Away(reason=") and "there is no room for its" in answer for answer in told["said"])
    assert told["trouble"].endswith("lower max_keys, or give the folder more")
    assert told["after"].startswith("Decided(taken=1"), "as soon as there is room"
    assert told["now"] is None
    assert sorted(path.name.split(".")[0] for path in own_folder(folder).iterdir() if not path.name.startswith("turn")) == [
        "guard",
        "keys",
        "limit",
    ]


@contextmanager
def small_disk() -> Iterator[tuple[str, ...]]:
    """What to put before a command so that it runs with a full disk of 256 KB at the folder that it is given."""
    with TemporaryDirectory() as made:
        script = f'mount -t tmpfs -o size=256k,mode=700 small {made} && exec "$@" '
        prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")
        if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a small disk")
        yield (made, *prefix)


def test_a_full_disk_takes_no_process_down() -> None:
    with small_disk() as (path, *prefix):
        told = run(path, "0", before=tuple(prefix))
    assert all("No space left on device" in answer for answer in (*told["said"], told["after"]))
    assert told["plain"].startswith("Decided(taken=1"), "what has room is served"


def test_a_file_system_that_reserves_nothing_is_written_to(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    store = make_store()
    assert [left(store), left(store)] == [4, 3]
    found = limit_file(folder).stat()
    assert found.st_blocks * 512 >= found.st_size, "all of it has its place"


def test_what_cannot_be_had_is_tried_once_a_second(folder: Path, clock: ManualClock) -> None:
    store = HostStore(HostStoreSettings("test", str(folder / "missing")), clock, beats=False)
    answer = store.buckets.take(QUESTION)
    assert isinstance(answer, Away)
    assert "No such file or directory" in answer.reason
    (folder / "missing").mkdir()
    assert isinstance(store.buckets.take(QUESTION), Away)
    clock.advance(1.0)
    assert isinstance(store.buckets.take(QUESTION), Decided)
    assert store.status()["trouble"] is None
    store.close()
