"""A mark beside a lock, for those who go without the lock.

CPython switches threads at calls and where a loop starts over, nowhere else. A stretch of code without either is one step by
itself, and needs no lock for what it changes; `with` would cost a third of all the arithmetic of a bucket. Changes in several steps
still take the lock, and set the mark meanwhile; who finds the mark set takes the lock as well. `tests/core/test_one_step.py` reads
in the byte code that the steps are what they say.

A debugger that traces lines may switch anywhere. Where one is at work when this is imported, the lock is taken always; under one
that comes later, a token may be given out twice.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final

STEPS_ARE_WHOLE: Final = sys.implementation.name == "cpython" and "free-threading" not in sys.version and sys.gettrace() is None
"""Whether threads take turns by this rule. Where they do not, as in builds that can do without the GIL, every mark stays set."""


class Mark:
    """Set while somebody changes in several steps what others change in one: `with lock, mark:`.

    An exception out of a signal's handler may leave it set. Then all take the lock, until the next change clears it.
    """

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = not STEPS_ARE_WHOLE

    def __enter__(self) -> None:
        self.is_set = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.is_set = not STEPS_ARE_WHOLE
