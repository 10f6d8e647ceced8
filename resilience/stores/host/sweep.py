"""Which folders of the store `host` nobody needs any more, and how they go without harm to whoever is about to use one.

A service that is gone for good leaves its folder, and one that puts each release somewhere else leaves one a release. Whoever uses
a folder holds a shared lock on it (`place.py`), so one whose lock can be had alone is nobody's. It stays for a day after it was
last used, so that a service which is started anew finds its buckets as they were.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from resilience.clock import SYSTEM_CLOCK
from resilience.stores.host.place import OPEN_FOLDER

KEPT_S: Final = 86_400
"""How long after its last use: no limit that refills within a day forgets anything."""
_FOLDER: Final = re.compile(r"v\d+-[0-9a-f]{24}|gone-[0-9a-f]{16}")


def sweep(own: str, now_s: float | None = None) -> None:
    """Remove the folders beside `own` that nobody has used for a day. What cannot be removed stays for the next time.

    Args:
        own: the path of a folder that is in use.
        now_s: the time by which files are dated; default the present.
    """
    now_s = SYSTEM_CLOCK.wall_s() if now_s is None else now_s
    with suppress(OSError):
        outer = os.open(Path(own).parent, OPEN_FOLDER)
        try:
            for name in os.listdir(outer):  # noqa: PTH208  # the open folder, whatever its path leads to by now
                if _FOLDER.fullmatch(name) and name != Path(own).name:
                    _remove_if_left(outer, name, now_s)
        finally:
            os.close(outer)


def _remove_if_left(outer: int, name: str, now_s: float) -> None:
    with suppress(OSError):
        fd = os.open(name, OPEN_FOLDER, dir_fd=outer)
        try:
            if now_s - os.fstat(fd).st_mtime > KEPT_S:
                _remove(outer, name, fd)
        finally:
            os.close(fd)


def _remove(outer: int, name: str, fd: int) -> None:
    """Take its lock and its name, then what is in it. Whoever opens that name from then on makes a new folder."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.stat(name, dir_fd=outer, follow_symlinks=False).st_ino != os.fstat(fd).st_ino:
        return
    gone = f"gone-{secrets.token_hex(8)}"
    os.rename(name, gone, src_dir_fd=outer, dst_dir_fd=outer)
    for file in os.listdir(fd):
        os.unlink(file, dir_fd=fd)
    os.rmdir(gone, dir_fd=outer)
