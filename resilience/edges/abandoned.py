"""Calls whose responses were dropped: nobody will read them to their end, and nobody has closed them.

A destructor may run anywhere, also while its very thread holds a lock. It only notes the call here, and the next one settles it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

_noted: Final[deque[Callable[[], object]]] = deque()


def abandon(settle: Callable[[], object]) -> None:
    """Note a call, by what settles it. For destructors."""
    _noted.append(settle)


def settle_abandoned() -> None:
    """Settle the calls that were noted. For the beginning of the next one."""
    while _noted:
        try:
            settle = _noted.popleft()
        except IndexError:  # another thread took the last one just now
            return
        settle()
