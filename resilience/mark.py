"""What a lock's owner lets others do without the lock, and when it does not.

CPython switches threads at calls and where a loop starts over, nowhere else. A stretch of code without either is one step by
itself, and needs no lock for what it changes; `with` would cost a third of all the arithmetic of a bucket. Changes in several steps
still take the lock, and bar the single steps meanwhile; who finds them barred takes the lock as well. `tests/core/test_one_step.py`
reads in the byte code that the steps are what they say.

A debugger that traces lines may switch anywhere. Where one is at work when this is imported, the lock is taken always; under one
that comes later, a token may be given out twice.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Protocol

STEPS_ARE_WHOLE: Final = sys.implementation.name == "cpython" and "free-threading" not in sys.version and sys.gettrace() is None
"""Whether threads take turns by this rule. Where they do not, as in builds without the GIL, single steps stay barred."""


class Stepwise(Protocol):
    """What others change in one step unless that is barred. Both are called under its lock."""

    def bar(self) -> None:
        """Let nobody change it in one step any more."""

    def unbar(self) -> None:
        """Work out what others need to change it in one step, and let them."""


class Mark:
    """Bars single steps while somebody changes its owner in several: `with lock, mark:`.

    An exception out of a signal's handler may leave them barred. Then all take the lock, until the next change is over.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: Stepwise) -> None:
        self._owner = owner
        self.clear()

    def clear(self) -> None:
        """What was changed can be changed in one step again."""
        if STEPS_ARE_WHOLE:
            self._owner.unbar()

    def __enter__(self) -> None:
        self._owner.bar()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.clear()
