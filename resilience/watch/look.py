"""One look at a file: what it holds, and what the file system says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from resilience.config.source import fingerprint, read_observed, reason
from resilience.errors import ConfigError


class Stamp(NamedTuple):
    """What tells two states of a file apart without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp that is in `status`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def stamp(path: str) -> Stamp | str:
    """The stamp of the file that `path` leads to over all links; the system's word for why there is none."""
    try:
        return Stamp.of(os.stat(path))  # noqa: PTH116 - all that an idle watch does; a Path would double its cost
    except (OSError, ValueError) as error:
        return reason(error)


def are_two_files(one: Stamp | str, other: Stamp | str) -> bool:
    """Whether both are files and not the same one, whatever they hold."""
    return isinstance(one, Stamp) and isinstance(other, Stamp) and one[:2] != other[:2]


def was_written_in_place(one: Stamp | str, other: Stamp | str) -> bool:
    """Whether both are the same file, written between the two looks."""
    return isinstance(one, Stamp) and isinstance(other, Stamp) and one[:2] == other[:2] and one[2:4] != other[2:4]


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one instant.

    Attributes:
        real: where the links led.
        stamp: of the file, or why there is none.
        content: its bytes, or why they cannot be had.
        key: stands for `content`; equal for equal contents.
        is_steady: nothing changed while it was read, and the path still leads to what was read.
    """

    real: str
    stamp: Stamp | str
    content: bytes | ConfigError
    key: str
    is_steady: bool


def look(path: str) -> Look:
    """Read the file at `path` once. The links are followed once, so that what was read is one file."""
    real = os.path.realpath(path)
    try:
        content, before, after = read_observed(real, path)
    except ConfigError as error:
        return Look(real, stamp(path), error, str(error), is_steady=True)
    last = Stamp.of(after)
    return Look(real, last, content, fingerprint(content), is_steady=Stamp.of(before) == last == stamp(path))
