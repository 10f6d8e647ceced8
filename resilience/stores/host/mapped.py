"""A file of fixed size that several processes have mapped. Every byte of it has its place before it is mapped.

A write to a page of a mapped file for which there is no room left on the disk kills the process (SIGBUS), and nothing can catch it.
So the room is taken when the file is made, under another name, and a file that could not have it whole never gets its own name.
Nobody ever makes one shorter: one that must change is made anew, and takes over the name.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from resilience.clock import SYSTEM_CLOCK
from resilience.stores.host import descriptors
from resilience.stores.host.place import VERSION, Place
from resilience.stores.host.trouble import Unusable

HEAD_WORDS: Final = 8
_MAGIC: Final = int.from_bytes(b"RESILHST", "little")
_GUARD: Final = "guard"
_PAUSE_S: Final = 0.001
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
Words = memoryview  # of signed 64-bit words


def boot_id() -> int:
    """Which boot of the machine this is: instants of two of them cannot be compared. 0 where the system does not tell."""
    try:
        return int(Path(_BOOT_ID).read_text("ascii").strip().replace("-", ""), 16) & 0x7FFF_FFFF_FFFF_FFFF
    except (OSError, ValueError):
        return 0


class MappedFile:
    """A file as a row of 64-bit words. The first eight tell what it is.

    Args:
        place: the folder.
        name: the file's name in it.
        size_words: how long it is made if it must be.
        kind: what it holds; one of another kind, version or boot, or one that is damaged, is replaced.
        fill: puts the first content into a new one, before anybody else sees it.
        fits: whether one that is there will do; default any.
        patience_us: how long another process that makes files is waited for.

    Raises:
        Unusable: it can be neither opened nor made; says why.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        size_words: int,
        kind: int,
        fill: Callable[[Words], None],
        fits: Callable[[Words], bool] = lambda words: True,
        patience_us: int = 1_000_000,
    ) -> None:
        self.place = place
        self.name = name
        self._kind = kind
        self._patience_us = patience_us
        try:
            opened = self._existing(fits) or self._under_guard(size_words, fill, fits)
        except OSError as error:
            raise Unusable(f"{place.path}/{name}: {_explained(error, size_words * 8)}") from error
        self.map, self.inode = opened
        self.words: Words = memoryview(self.map).cast("q")

    def is_current(self) -> bool:
        """Whether its name still leads to it."""
        return self.place.inode_of(self.name) == self.inode

    def close(self) -> None:
        """Let go of it; it must not be used any more."""
        self.words.release()
        self.map.close()

    def _existing(self, fits: Callable[[Words], bool]) -> tuple[mmap.mmap, int] | None:
        """The file of that name if there is one that will do."""
        try:
            fd = self.place.open(self.name)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (
                errno.ELOOP,
                errno.EINVAL,
                errno.EPERM,
                errno.ENXIO,
            ):  # a link, a pipe, open to others: it is replaced
                return None
            raise
        try:
            found = os.fstat(fd)
            if found.st_size < HEAD_WORDS * 8 or found.st_size % 8:
                return None
            mapped = mmap.mmap(fd, found.st_size)
        finally:
            os.close(fd)
        words = memoryview(mapped).cast("q")
        good = tuple(words[:HEAD_WORDS]) == self._head(len(words)) and fits(words)
        words.release()
        if not good:
            mapped.close()
            return None
        return mapped, found.st_ino

    def _head(self, size_words: int) -> tuple[int, ...]:
        return (_MAGIC, VERSION, self._kind, boot_id(), size_words, 0, 0, ~_MAGIC)

    def _under_guard(self, size_words: int, fill: Callable[[Words], None], fits: Callable[[Words], bool]) -> tuple[mmap.mmap, int]:
        """Make the file, unless somebody else has meanwhile: one process at a time."""
        guard = self.place.open_lock(_GUARD)
        try:
            _wait_for(guard, self._patience_us)
            return self._existing(fits) or self._made(size_words, fill)
        finally:
            fcntl.flock(guard, fcntl.LOCK_UN)  # a child that was forked meanwhile may have it open
            descriptors.close(guard)

    def _made(self, size_words: int, fill: Callable[[Words], None]) -> tuple[mmap.mmap, int]:
        draft = f"{self.name}.new"  # only one is made at a time; one that is there was left by a process that was killed
        self.place.remove(draft)
        fd = self.place.open(draft, os.O_CREAT | os.O_EXCL)
        try:
            _allocate(fd, size_words * 8)
            mapped = mmap.mmap(fd, size_words * 8)
            words = memoryview(mapped).cast("q")
            fill(words)
            words[:HEAD_WORDS] = memoryview(b"".join(w.to_bytes(8, "little", signed=True) for w in self._head(size_words))).cast(
                "q"
            )
            words.release()
            inode = os.fstat(fd).st_ino
            self.place.rename(draft, self.name)
        except BaseException:
            self.place.remove(draft)
            raise
        finally:
            os.close(fd)
        return mapped, inode


def _allocate(fd: int, size: int) -> None:
    """Take the room for the whole file."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        else:
            return
    block = bytes(1 << 16)  # there is no such call on macOS, and some file systems do not do it
    for start in range(0, size, len(block)):
        os.pwrite(fd, block[: size - start], start)


def _wait_for(guard: int, patience_us: int) -> None:
    until_us = SYSTEM_CLOCK.now_us() + patience_us
    while True:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if SYSTEM_CLOCK.now_us() > until_us:
                raise OSError(errno.EBUSY, "another process is making files there") from None
            SYSTEM_CLOCK.sleep(_PAUSE_S)


def _explained(error: OSError, size: int) -> str:
    told = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
        return f"there is no room for its {size:,} bytes ({told}); lower max_keys, or give the folder more"
    return told
