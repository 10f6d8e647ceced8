"""Calls whose responses were dropped: nobody will read them to their end, and nobody has closed them.

A destructor may run anywhere, also while its very thread holds a lock. It only notes the call here, and the next one settles it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

ABANDONED: Final[deque[Callable[[], object]]] = deque()
"""What settles the calls that were noted. For edges that look whether there are any before they call `settle_abandoned`."""


def abandon(settle: Callable[[], object]) -> None:
    """Note a call, by what settles it. For destructors."""
    ABANDONED.append(settle)


def settle_abandoned() -> None:
    """Settle the calls that were noted. For the beginning of the next one."""
    while ABANDONED:
        try:
            settle = ABANDONED.popleft()
        except IndexError:  # another thread took the last one just now
            return
        settle()
