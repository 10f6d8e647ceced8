"""Where the files of the store `host` are: in a folder that belongs to this user and that nobody else can enter."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Final

from resilience.clock import SYSTEM_CLOCK
from resilience.stores.host import descriptors
from resilience.stores.host.trouble import Unusable

VERSION: Final = 1
"""Part of every name: a process of a version that lays its files out in another way has files of its own."""
_TRIES: Final = 5
_PAUSE_S: Final = 0.001
_TIME_NAMESPACE: Final = "/proc/self/ns/time"
OPEN_FOLDER: Final = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def bases() -> list[str]:
    """Where the folder may be, best first. Memory before disks: a page that is being written to a disk can make a call wait."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [*([runtime] if Path(runtime).is_absolute() else []), "/dev/shm", gettempdir()]  # checked below


def _folder_name(name: str) -> str:
    """The folder for a name. Instants of two time namespaces cannot be compared, so they have different ones."""
    try:
        namespace = str(Path(_TIME_NAMESPACE).readlink())
    except OSError:
        namespace = ""
    digest = hashlib.blake2b(f"{name}\0{namespace}".encode("utf-8", "surrogatepass"), digest_size=12)
    return f"v{VERSION}-{digest.hexdigest()}"


class Place:
    """An open folder. Files in it are reached by its descriptor, so that nobody can put another folder in its way.

    Args:
        name: what the processes that share it call it, see `after_file`.
        within: folders to try, best first; default `bases()`.

    Raises:
        Unusable: none of them can be used; says why of each.
    """

    def __init__(self, name: str, within: Sequence[str] | None = None) -> None:
        problems = []
        for base in bases() if within is None else within:
            try:
                self.fd, self.path = _open_in(base, _folder_name(name))
                break
            except OSError as error:
                problems.append(f"{base}: {error.strerror or error}")
        else:
            raise Unusable("no folder for the files of the store host: " + "; ".join(problems))
        self.inode = os.fstat(self.fd).st_ino

    def is_there(self) -> bool:
        """Whether its path still leads to it. A cleaner of temporary files may have removed it."""
        try:
            return Path(self.path).lstat().st_ino == self.inode
        except OSError:
            return False

    def touch(self) -> None:
        """Date it anew: it is in use."""
        with suppress(OSError):
            os.utime(self.fd)

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file in it for reading and writing; never a link, and never one that others can write to.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be opened, or is no file of this user's alone.
        """
        wanted = flags | os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
        fd = os.open(name, wanted, 0o600, dir_fd=self.fd)
        try:
            _ours(os.fstat(fd), stat.S_ISREG)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_lock(self, name: str) -> int:
        """The same for a file that is only locked: it is made if there is none. `descriptors.close` closes it."""
        return descriptors.note(self.open(name, os.O_CREAT))

    def inode_of(self, name: str) -> int:
        """Which file has that name now; 0: none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_ino
        except OSError:
            return 0

    def rename(self, name: str, to: str) -> None:
        """Give a file in it another name, which may be that of a file that is replaced."""
        os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove a file from it, if it is there."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            return

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self.fd)


def _open_in(base: str, name: str) -> tuple[int, str]:
    """A folder within this user's own in `base`, with the lock on it that keeps it from being removed (`sweep.py`)."""
    outer_path = Path(base) / f"resilience-{os.geteuid()}"
    outer = _folder(str(outer_path))
    try:
        for _ in range(_TRIES):
            fd = _folder(name, outer)
            if _is_kept(fd, name, outer):
                return fd, str(outer_path / name)
            os.close(fd)
            SYSTEM_CLOCK.sleep(_PAUSE_S)
    finally:
        os.close(outer)
    raise OSError(errno.EBUSY, "its folder is being removed by another process")


def _folder(path: str, within: int | None = None) -> int:
    """Open a folder of this user's alone, which is made if there is none."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700, dir_fd=within)
    fd = os.open(path, OPEN_FOLDER, dir_fd=within)
    try:
        _ours(os.fstat(fd), stat.S_ISDIR)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_kept(fd: int, name: str, outer: int) -> bool:
    """Take the lock of a folder that is in use. False: it is about to be removed, or has been."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, on which nobody can have one alone either
        return True
    with suppress(OSError):
        return os.stat(name, dir_fd=outer, follow_symlinks=False).st_ino == os.fstat(fd).st_ino
    return False


def _ours(found: os.stat_result, is_kind: object) -> None:
    """See that it is what it should be, belongs to this user and is closed to all others."""
    if not callable(is_kind) or not is_kind(found.st_mode):
        raise OSError(errno.EINVAL, "is no plain file or folder")
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to user {found.st_uid}, not to {os.geteuid()} as it should")
    if found.st_mode & 0o077:
        raise OSError(errno.EPERM, f"is open to other users (mode {stat.S_IMODE(found.st_mode):o}); remove it")
