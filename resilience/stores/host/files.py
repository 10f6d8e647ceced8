"""The folder and the locks of a store, opened when they are needed and again when they are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from resilience.clock import US_PER_S
from resilience.stores.host.place import Place
from resilience.stores.host.sweep import KEPT_S, sweep
from resilience.stores.host.trouble import Unusable
from resilience.stores.host.turns import Turns

_TRIED_EVERY_US: Final = US_PER_S
_KEEPS_HOUSE_EVERY_US: Final = KEPT_S * US_PER_S // 24


class Files:
    """Opened once for all that is in them. What cannot be had is tried again after a second, and meanwhile costs nothing.

    Args:
        name: what the processes that share them call them.
        directory: where they are; None: where the machine keeps what need not last.
        now_us: tells the time.
    """

    def __init__(self, name: str, directory: str | None, now_us: Callable[[], int]) -> None:
        self._name = name
        self._within = None if directory is None else [directory]
        self._now_us = now_us
        self._opened: tuple[Place, Turns] | None = None  # another thread may drop it at any time: read once
        self._troubles: dict[str, tuple[str, int]] = {}
        self._kept_house_us = now_us() - _KEEPS_HOUSE_EVERY_US

    @property
    def path(self) -> str | None:
        """The folder; None while there is none."""
        opened = self._opened
        return None if opened is None else opened[0].path

    @property
    def trouble(self) -> str | None:
        """What cannot be had, and why; None: all is well."""
        return next((why for why, _ in tuple(self._troubles.values())), None)

    def have(self, what: str, make: Callable[[Place, Turns], object]) -> str | None:
        """Make something of them. Returns None, or why it cannot be had; `what` is tried once a second at most."""
        why, until_us = self._troubles.get(what, ("", 0))
        now_us = self._now_us()
        if now_us < until_us:
            return why
        try:
            opened = self._opened
            if opened is None:
                place = Place(self._name, self._within)
                opened = self._opened = place, Turns(place)
            make(*opened)
        except Unusable as error:
            self._troubles[what] = str(error), now_us + _TRIED_EVERY_US
            return str(error)
        self._troubles.pop(what, None)
        return None

    def is_current(self) -> bool:
        """Whether the folder and the locks that are open are those that the path leads to."""
        opened = self._opened
        return opened is None or (opened[0].is_there() and opened[1].are_current())

    def keep_house(self) -> None:
        """From time to time: say that the folder is in use, and remove those beside it that nobody needs any more."""
        opened, now_us = self._opened, self._now_us()
        if opened is not None and now_us - self._kept_house_us >= _KEEPS_HOUSE_EVERY_US:
            self._kept_house_us = now_us
            opened[0].touch()
            sweep(opened[0].path)

    def drop(self) -> None:
        """Open everything anew when it is next needed."""
        self._opened = None
        self._troubles.clear()
