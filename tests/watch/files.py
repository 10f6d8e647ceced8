"""A configuration file of a test, and the ways in which people and programs change one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

A, B, C = (
    b"version: 1\n"
    b"limiters:\n  api: {rate: %d/s, burst: %d}\n"
    b"pipelines:\n  api: [{limiter: api}]\n"
    b'routes:\n  - {match: {path: "/**"}, pipeline: api}\n' % (rate, rate)
    for rate in (100, 200, 300)
)


def rename_over(path: Path, content: bytes) -> None:
    """Write beside it and rename, as careful programs do. The rename shows: it comes a tick of the file system's clock later."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(0o640)
    _let_a_tick_pass(beside)
    beside.replace(path)


def _let_a_tick_pass(path: Path) -> None:
    """Until a change of the file is dated later than its content."""
    while path.stat().st_ctime_ns == path.stat().st_mtime_ns:
        path.chmod(0o640)


def save_as_vim_does(path: Path, content: bytes) -> None:
    """The old file becomes the backup, a new one is written under its name, and the backup goes."""
    backup = path.with_name(f"{path.name}~")
    path.replace(backup)
    path.write_bytes(content)
    backup.unlink()


class ConfigMap:
    """A folder as Kubernetes mounts one: `..data` is a link to the present version, and is replaced by a rename.

    The path to read is `FOLDER/resilience.yaml`, a link through `..data`.
    """

    def __init__(self, folder: Path, content: bytes) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._number = 0
        self.path = folder / "resilience.yaml"
        self.swap(content)
        self.path.symlink_to(Path("..data") / "resilience.yaml")

    def swap(self, content: bytes) -> None:
        """Put another version in the place of the present one, which is deleted."""
        self._number += 1
        version, link = self._folder / f"..version_{self._number}", self._folder / "..data_tmp"
        version.mkdir()
        (version / "resilience.yaml").write_bytes(content)
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")
        old = self._folder / f"..version_{self._number - 1}"
        if old.exists():
            (old / "resilience.yaml").unlink()
            old.rmdir()


def write_in_place(path: Path, content: bytes) -> None:
    """Write over it without truncating first: same inode, and the rest of a longer file stays."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_somebody_without_rights() -> Iterator[None]:
    """Root may read everything; nobody else may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
