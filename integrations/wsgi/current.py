"""The call that code of the application runs in, as this room sets it: `CURRENT.get` and the like, found once.

Of a name that was imported CPython makes a new bound method at each call; a request has five of those.
"""

from __future__ import annotations

from typing import Final

from resilience.edges import CURRENT

get_current: Final = CURRENT.get
set_current: Final = CURRENT.set
reset_current: Final = CURRENT.reset
