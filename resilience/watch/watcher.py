"""When a file that changes is to be read: as soon as it is known to be whole, and never half.

A file that was renamed into place, or that a changed link leads to, is whole when it is first seen. One that is written where it
stands is taken when it has been quiet for a moment, and so is a new file that may have been made there: vim writes a new file under
the old name. A file system shows the difference: a rename moves the time of change (ctime) past the time of writing (mtime). Where
both fall into one tick of its clock, the moment is waited for.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from resilience.clock import US_PER_S, Clock
from resilience.config.source import has_end_mark
from resilience.errors import ConfigError, Problem
from resilience.watch.look import Look, Stamp, are_two_files, look, stamp, was_written_in_place

QUIET_US: Final = 200_000
"""A file written in place is whole when nothing about it has changed for so long."""
PATIENCE_US: Final = 2 * US_PER_S
"""One that is touched on and on is taken after so long, if it reads the same all the while that would be quiet."""
REREAD_US: Final = 10 * US_PER_S
"""How often the content is read though nothing seems to have changed: not every file system tells."""
_HAS_CHANGE_TIME: Final = os.name == "posix"  # elsewhere `st_ctime` is when the file was made


class Known(NamedTuple):
    """What the owner of the file did with it last.

    Attributes:
        key: stands for the content that was taken in or refused last; see `Look.key`.
        has_end_mark: whether the content in force ends with `...`.
    """

    key: str
    has_end_mark: bool


class News(NamedTuple):
    """A content that the owner does not know yet, or why there is none to be had."""

    key: str
    content: bytes | ConfigError


class Change:
    """A change that may be going on, and since when its signs have stood still.

    A look takes time: on a slow file system, or where other threads keep the interpreter. What it found new counts from its end,
    and what it found unchanged up to its beginning, so that a quiet that seems long enough was.
    """

    __slots__ = ("_began_us", "_last", "_moved_us", "_replacements", "_same_us")

    def __init__(self, seen: Look, ended_us: int) -> None:
        self._began_us = self._moved_us = self._same_us = ended_us
        self._last = seen
        self._replacements = 0  # since the file was last seen to be written where it stands

    def note(self, seen: Look, ended_us: int) -> None:
        """Take in another look, which ended at `ended_us`."""
        if seen.stamp != self._last.stamp or not seen.is_steady:
            self._moved_us = ended_us
        if seen.key != self._last.key:
            self._same_us = ended_us
        if are_two_files(seen.stamp, self._last.stamp):
            self._replacements += 1
        elif was_written_in_place(seen.stamp, self._last.stamp):
            self._replacements = 0
        self._last = seen

    def is_over(self, began_us: int) -> bool:
        """Whether the file is whole as it was last seen, in a look that began at `began_us`."""
        if not self._last.is_steady:
            return False
        is_patient = began_us - self._began_us >= PATIENCE_US
        if began_us - self._same_us >= QUIET_US and (is_patient or began_us - self._moved_us >= QUIET_US):
            return True
        # Replaced again and again, faster than it could be quiet: nobody writes such a file slowly, and two equal looks are enough.
        return is_patient and self._replacements > 1 and max(self._moved_us, self._same_us) < began_us


class Watcher:
    """Tells what is new in one file. It takes the time from its caller's clock and keeps no thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._settled: Stamp | str | None = None
        self._last: Look | None = None
        self._change: Change | None = None
        self._reread_us = 0
        self._now_us = 0

    @property
    def is_settling(self) -> bool:
        """Whether something has changed that may not be whole yet: look again soon."""
        return self._change is not None

    def is_at_rest(self, now_us: int) -> bool:
        """Whether there is nothing to poll for now. All that a watched file costs while nothing changes: one `stat`."""
        return self._now_us <= now_us < self._reread_us and self._change is None and stamp(self.path) == self._settled

    def poll(self, clock: Clock, known: Known) -> News | None:
        """Read the file, and tell what is new in it once it is whole."""
        now_us = clock.now_us()
        if now_us < self._now_us:  # a clock that goes back: count every wait anew
            self._change = None
        self._now_us = now_us
        seen, before = look(self.path), self._last
        self._last = seen
        if not self._is_whole(seen, before, known, now_us, clock.now_us()):
            return None
        self._change = None
        self._settled = seen.stamp
        self._reread_us = now_us + REREAD_US
        return None if seen.key == known.key else _news(self.path, seen, known)

    def _is_whole(self, seen: Look, before: Look | None, known: Known, began_us: int, ended_us: int) -> bool:
        if self._change is None:
            if seen.key == known.key and seen.is_steady:  # touched, or read again
                return True
            self._change = Change(seen, ended_us)
        else:
            self._change.note(seen, ended_us)
        return came_whole(seen, before) or self._change.is_over(began_us)


def came_whole(seen: Look, before: Look | None) -> bool:
    """Whether a file that was not there at the last look cannot have been written there."""
    if before is None or not isinstance(seen.content, bytes) or not seen.is_steady or not seen.content.strip():
        return False
    if seen.real != before.real:
        return True
    if not isinstance(seen.stamp, Stamp) or not are_two_files(seen.stamp, before.stamp):
        return False
    was_renamed = _HAS_CHANGE_TIME and seen.stamp.ctime_ns != seen.stamp.mtime_ns
    return was_renamed or has_end_mark(seen.content)


def _news(path: str, seen: Look, known: Known) -> News:
    if known.has_end_mark and isinstance(seen.content, bytes) and not has_end_mark(seen.content):
        message = (
            "the file ends here without the line `...` that ends the file in force, so it may be cut short; "
            "write that line at its end, or have it read as it is with toolkit.reload() or a restart"
        )
        return News(seen.key, ConfigError.of([Problem(path, max(1, len(seen.content.splitlines())), 1, "", message)]))
    return News(seen.key, seen.content)
